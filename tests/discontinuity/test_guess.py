"""Grids found in the data alone, and none where there is none."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from wrong_tilings import TILE, WAYS, forward, image

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity import _guess, cut_labels
from stitchsafe.discontinuity._guess import _profiles


@pytest.mark.parametrize("way", ["misaligned", "normalised", "snapped"])
def test_a_grid_is_found_in_a_field(way: str) -> None:
    report = stitchsafe.seams(WAYS[way](image()), grid="auto")
    assert report.guessed
    assert report.grids["grid"][1:] == TILE[1:]
    assert report.origin[1:] == (0, 0)
    assert not report.ok


def test_no_grid_is_found_in_a_right_field() -> None:
    report = stitchsafe.seams(forward(image()), grid="auto")
    assert report.grids == {}
    assert report.ok
    assert report.to_json()["grid"] is None
    assert "no grid found" in report.describe()


def test_a_long_column_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    field, marked = forward(image())[:, :, :96, :96], labels(1)[:, :96, :96]
    region = Roi.whole(marked.shape)
    sizes: list[int] = []

    class Watched:
        def __init__(self, data: np.ndarray) -> None:
            self.data, self.shape, self.dtype = data, data.shape[1:], data.dtype
            self.channels = len(data)

        def read(self, roi: Roi) -> np.ndarray:
            sizes.append(self.channels * roi.size)
            return self.data[:, *roi.slices]

    volumes = Watched(field[:, :40]), Watched(marked[None])

    def profiles() -> list[np.ndarray]:
        return [each for axis in range(3) for _, _, each in _profiles(region, axis, *volumes)]

    whole = profiles()
    assert len(whole) == 10  # along y and x, of two scales, innovation, splits and ends
    monkeypatch.setattr(_guess, "_PART", 1)
    sizes.clear()
    parts = profiles()
    assert max(sizes) <= 3 * 20 * 64**2
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def labels(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 200, 230)), 2)
    return np.asarray(cc3d.connected_components(noise > 0, connectivity=6))


def test_a_grid_is_found_in_labels_with_its_origin() -> None:
    cut = np.zeros((40, 200, 230), np.int64)
    # As if the volume had been cut out of a larger one that was tiled by (20, 40, 50).
    whole = np.zeros((40, 240, 250), np.int64)
    whole[:, 7:207, 13:243] = labels(0)
    cut[:] = cut_labels(whole, (20, 40, 50))[:, 7:207, 13:243]
    report = stitchsafe.seams(cut, grid="auto")
    assert report.grids["grid"][1:] == (40, 50)
    assert report.origin[1:] == (33, 37)
    assert not report.ok


@pytest.mark.parametrize("seed", range(3))
def test_no_grid_is_found_in_right_labels(seed: int) -> None:
    assert stitchsafe.seams(labels(seed), grid="auto").grids == {}
