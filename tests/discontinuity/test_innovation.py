"""Innovations: nothing of what a field does all the time, and all of what begins anew."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._innovation import Innovation, reach_of, samples
from stitchsafe.discontinuity._planes import AxisPlanes, planes_of
from stitchsafe.seam_grid import SeamGrid
from stitchsafe.volumes import open_volume

REACH = 10
WHOLE = [np.zeros(1, np.int64)]


def textured(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Two channels of a smooth field with a texture of period 4 that goes with it."""
    generator = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(generator.normal(size=shape), 6) for _ in range(2)])
    smooth /= smooth.std()
    y, x = np.indices(shape)
    found: NDArray[np.float32] = (smooth * (1 + (y % 4 == 0) - (x % 4 == 1))).astype(np.float32)
    return found


def slabs(field: NDArray[np.floating], positions: range) -> list[NDArray[np.floating]]:
    return [field[:, at - REACH : at + REACH] for at in positions]


def learned(field: NDArray[np.floating], positions: range) -> Innovation:
    found = Innovation.learned(slabs(field, positions), REACH, np.full(len(field), 1e-6))
    assert found is not None
    return found


def contrast(found: Innovation, slab: NDArray[np.floating]) -> float:
    total, _, area = found.contrasts(slab, WHOLE)[:, 0]
    return float(total / area)


def test_what_can_be_foretold_is_no_innovation() -> None:
    """A field that obeys a linear law has none; where it begins anew there is one."""
    y, x = np.indices((120, 400))
    wave = np.stack([np.sin(0.3 * y + 0.01 * x), np.cos(0.2 * y - 0.03 * x)]).astype(float)
    found = learned(wave, range(20, 100, 4))
    assert (found.spread < 5e-3).all()
    assert contrast(found, wave[:, 40:60]) == pytest.approx(0, abs=0.2)
    cut = wave.copy()
    cut[:, 50:] += 0.05  # a twentieth of what it does
    assert contrast(found, cut[:, 40:60]) > 3


def test_texture_hides_a_step_from_jumps_but_not_from_innovations() -> None:
    field = textured((384, 512))
    field += np.random.default_rng(1).normal(size=field.shape).astype(np.float32) * 0.01
    right = stitchsafe.seams(field, axes="cyx", grid=(64, 64), period=(4, 4))
    assert right.ok
    low, high = right.ratios["", ""]["innovation"].interval
    assert low < 1 < high < 1.2
    cut = field.copy()
    cut[:, 192:] += 0.15
    report = stitchsafe.seams(cut, axes="cyx", grid=(64, 64), period=(4, 4))
    worst = report.faces.ranked()[:8]
    assert {int(row) for row in worst} == {
        row
        for row in range(len(report.faces))
        if report.faces.axis[row] == 0 and report.faces.corner[row, 0] == 192
    }
    because = {report.measures[report.faces.because[row]] for row in worst}
    assert "innovation" in because


def test_both_directions_and_all_channels_count() -> None:
    field = textured((200, 600))
    found = learned(field, range(20, 180, 4))
    slab = field[:, 90:110].astype(float)
    before = contrast(found, slab)
    for channel in range(2):
        changed = slab.copy()
        changed[channel, REACH:] += 1
        after = contrast(found, changed)
        assert after > before + 0.3
        assert contrast(found, changed * [[[1]]]) == after
    turned = learned(field[:, ::-1], range(20, 180, 4))
    assert contrast(turned, slab[:, ::-1]) == pytest.approx(before, abs=0.05)


def test_what_is_not_finite_counts_nowhere() -> None:
    field = textured((200, 600))
    holes = field.copy()
    holes[0, 100, ::7] = np.nan
    found = learned(holes, range(20, 180, 4))
    assert np.isfinite(found.weights).all()
    total, logs, area = found.contrasts(holes[:, 90:110], WHOLE)[:, 0]
    assert area == 600 - len(range(0, 600, 7))
    assert np.isfinite([total, logs]).all()


def test_too_little_to_learn_from_is_no_predictor() -> None:
    field = textured((40, 30))
    assert Innovation.learned(slabs(field, range(12, 20, 4)), REACH, np.ones(2)) is None
    assert Innovation.learned([], REACH, np.ones(2)) is None


@pytest.mark.parametrize(
    ("cell", "channels", "reach"),
    [(64, 2, 10), (16, 2, 8), (8, 2, 4), (6, 2, 0), (64, 32, 6), (64, 64, 4), (64, 65, 0)],
)
def test_it_reaches_as_far_as_there_is_room(cell: int, channels: int, reach: int) -> None:
    grid = SeamGrid({"grid": (cell, cell)}, Roi.whole((256, 256)))
    assert reach_of(planes_of(grid, 0), channels) == reach


def test_samples_hold_no_seam_and_keep_the_phase() -> None:
    field = np.zeros((1, 300, 1000), np.float32)
    field[0, ::50] = 1  # where seams are
    field[0, 10::50] = 2
    grid = SeamGrid({"grid": (50, 50)}, Roi((20, 30), (270, 960)), origin=(0, 0))
    planes: AxisPlanes = planes_of(grid, 0, 10)
    positions = planes.undisturbed(8)
    assert positions == [
        at
        for at in range(30, 290, 10)
        if all(abs(at - s) >= 8 for s in (20, *range(50, 290, 50))) and at + 8 <= 290
    ]
    found = list(samples(open_volume(field, axes="cyx"), grid.region, 0, positions, 8))
    assert found
    for slab in found:
        assert slab.shape[:2] == (1, 16)
        seams = np.flatnonzero(slab[0, :, 0] == 1)
        assert all(at in (0, 16) for at in seams)
