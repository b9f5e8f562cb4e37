"""Measures of seams: 1 where nothing was done, and wrong faces first where something was."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from wrong_tilings import (
    TILE,
    WAYS,
    Field,
    area_under_roc,
    forward,
    image,
    touches,
    with_wrong_tiles,
)

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity import FaceTable, Views, cut_labels, measure_seams, write_html
from stitchsafe.discontinuity._across import jumps, label_counts
from stitchsafe.discontinuity._judge import Judged, judge
from stitchsafe.discontinuity._pieces import Layout, measure_pieces
from stitchsafe.errors import InputError, PlanError
from stitchsafe.seam_grid import SeamGrid
from stitchsafe.volumes import open_volume


@cache
def right() -> Field:
    return forward(image())


@cache
def tiled(way: str) -> Field:
    return WAYS[way](image())


def noise(shape: tuple[int, ...], seed: int, channels: int = 2) -> Field:
    generator = np.random.default_rng(seed)
    planes = [gaussian_filter(generator.normal(size=shape), 2) for _ in range(channels)]
    found: Field = np.stack(planes).astype(np.float32)
    return found / found.std()


def instances(shape: tuple[int, ...], seed: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = cc3d.connected_components(
        noise(shape, seed, 1)[0] > 0.2, connectivity=6
    ).astype(np.int64)
    return found


def same(one: FaceTable, other: FaceTable) -> bool:
    return all(
        np.array_equal(
            getattr(one, each.name), getattr(other, each.name), equal_nan=each.name.endswith("jump")
        )
        for each in fields(one)
    )


@dataclass(frozen=True)
class Empty:
    """A volume that holds nothing, of any size."""

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]

    def read(self, roi: Roi) -> NDArray[Any]:
        return np.ones((self.channels, *roi.shape), self.dtype)


class TestJumps:
    def test_a_parabola_runs_on_and_a_step_does_not(self) -> None:
        place = np.arange(8.0)
        starts = [np.zeros(1, np.int64)]
        quiet = np.array([1e-6])
        line = np.repeat((3 + 2 * place + 0.5 * place**2)[None, :, None], 5, 2)
        _, log, area = jumps(line, 1, starts, quiet)
        assert area[0] == 5
        assert log[0] / area[0] == pytest.approx(np.log(1e-6), abs=1e-3)
        line[:, 4:] += 2
        contrast, log, _ = jumps(line, 1, starts, quiet)
        assert np.exp(log[0] / 5) == pytest.approx(2)
        assert contrast[0] / 5 == pytest.approx(np.log(2 / 1e-6), abs=1e-3)

    def test_what_is_not_finite_counts_nowhere(self) -> None:
        slab = np.random.default_rng(0).normal(size=(2, 8, 6))
        slab[0, 3, 2] = np.nan
        _, _, area = jumps(slab, 1, [np.array([0, 3])], np.ones(2))
        assert area.tolist() == [2, 3]


def test_labels_are_counted_as_the_words_say() -> None:
    before = np.array([1, 1, 1, 0, 2, 3, 4, 4])
    behind = np.array([1, 5, 0, 0, 6, 6, 4, 7])
    slab = np.stack([before, before, behind, behind])
    counts = label_counts(slab, [np.zeros(1, np.int64)])[:, 0]
    # Split: 1|5, 2|6, 3|6, 4|7. Ended: 1|0. The boundary of 2 and 3 is gone behind the plane; those
    # of 1 and 5, 4 and 7 begin there; of 3|6 and 4|4 it goes on.
    assert counts.tolist() == [7, 4, 1, 4, 3]
    ragged = slab.copy()
    ragged[0] = 9  # nothing goes on
    assert label_counts(ragged, [np.zeros(1, np.int64)])[1:3, 0].tolist() == [0, 0]


class TestRightResults:
    def test_real_data_have_a_ratio_of_one(self) -> None:
        report = stitchsafe.seams(right(), grid=TILE)
        assert report.ok
        for ratios in report.ratios.values():
            for ratio in ratios.values():
                assert ratio.low < 1 < ratio.high
        low, high = report.jump_interval or (0, 0)
        assert 0.7 < low < high < 1.5

    @pytest.mark.parametrize("seed", range(6))
    def test_no_alarm_in_noise(self, seed: int) -> None:
        field, labels = noise((48, 64, 96), seed), instances((48, 64, 96), seed)
        report = stitchsafe.seams(field, labels=labels, grid=(24, 32, 32))
        assert report.ok, report.describe()

    def test_texture_of_strides_is_no_seam(self) -> None:
        """Of a network with period 8, whose seams lie on its lattice as controls do."""
        field = noise((48, 64, 96), 0)
        for axis, size in enumerate(field.shape[1:]):
            step = (np.arange(size) // 8 % 2)[(...,) + (None,) * (2 - axis)]
            field = field + step * np.float32(0.5)
        assert stitchsafe.seams(field, grid=(24, 32, 32)).ok
        assert not stitchsafe.seams(field, grid=(24, 32, 32), period=(5, 5, 5)).ok

    @pytest.mark.parametrize("shape", [(100, 80), (140, 128), (20, 70, 64)])
    def test_a_single_control_tells_nothing_of_a_face(self, shape: tuple[int, ...]) -> None:
        """Of volumes a little larger than one cell, it would be infinitely rare."""
        grid = {(100, 80): (96, 96), (140, 128): (128, 128)}.get(shape, (32, 64, 64))
        report = stitchsafe.seams(noise(shape, 0), axes="c" + "zyx"[-len(shape) :], grid=grid)
        assert report.ok
        assert len(report.faces) >= 1

    def test_a_voxel_far_out_hides_no_seam(self) -> None:
        field = noise((256, 256), 0)
        field[:, 128:] += 1
        field[0, 7, 9] = 1e30
        assert not stitchsafe.seams(field, axes="cyx", grid=(32, 32)).ok

    def test_there_may_be_no_seam_at_all(self) -> None:
        report = stitchsafe.seams(noise((16, 16, 16), 0), grid=(16, 16, 16))
        assert report.ok
        assert len(report.faces) == 0
        assert report.jump_ratio is None
        assert report.to_json()["worst"] == []


class TestPlantedSeams:
    @pytest.mark.parametrize("way", sorted(WAYS))
    def test_they_are_seen(self, way: str) -> None:
        stride = [int(t * 0.75) for t in TILE]
        middle = [s + (t - s) // 2 for s, t in zip(stride, TILE, strict=True)]
        blend = {"grid": stride, "origin": middle} if way == "blended" else {"grid": TILE}
        report = stitchsafe.seams(tiled(way), **blend)  # type: ignore[arg-type]
        assert not report.ok
        if way == "snapped":
            assert report.jump_interval is not None
            assert report.jump_interval[0] > 1

    @pytest.mark.parametrize("way", ["misaligned", "normalised", "snapped"])
    def test_wrong_faces_rank_first(self, way: str) -> None:
        field, tiles = with_wrong_tiles(right(), tiled(way), TILE)
        report = stitchsafe.seams(field, grid=TILE)
        wrong = touches(report.faces, tiles)
        assert 10 <= wrong.sum() < len(wrong) / 2
        assert area_under_roc(report.faces.score, wrong) >= 0.99
        if way != "misaligned":
            assert not report.ok
            assert set(report.faces.ranked()[: wrong.sum()]) == set(np.flatnonzero(wrong))

    def test_every_cut_of_labels_is_found(self) -> None:
        """Tiles of a corner are labelled by themselves; the rest is right."""
        labels = instances((48, 96, 96), 3)
        corner = (slice(0, 24), slice(0, 64), slice(0, 64))
        cut = labels.copy()
        by_itself = cut_labels(labels[corner], (24, 32, 32))
        cut[corner] = np.where(by_itself, by_itself + labels.max(), 0)
        report = stitchsafe.seams(cut, grid=(24, 32, 32))
        inside = Roi((0, 0, 0), (24, 64, 64))
        cells = [Roi((0, y, x), (24, 32, 32)) for y, x in itertools.product((0, 32), (0, 32))]
        wrong = np.any([touches(report.faces, [cell]) for cell in cells], axis=0)
        assert not report.ok
        assert wrong.sum() == 12
        bad = report.faces.score > report.threshold
        assert np.array_equal(bad, wrong)
        assert {report.measures[k] for k in report.faces.because[wrong]} == {"splits"}
        assert report.split_ratio is not None
        assert report.split_ratio > 10
        assert stitchsafe.seams(labels, grid=(24, 32, 32), roi=inside).ok

    def test_objects_that_end_at_a_face_are_found(self) -> None:
        labels = instances((48, 96, 96), 3)
        labels[:, :32, :32] = 0
        report = stitchsafe.seams(labels, grid=(24, 32, 32))
        assert not report.ok
        worst = report.face(int(report.faces.ranked()[0]))
        assert (worst["axis"], worst["position"], worst["because"]) in {
            ("y", 32, "ends"),
            ("x", 32, "ends"),
        }

    def test_a_small_face_does_not_rank_first_by_noise(self) -> None:
        labels = instances((48, 65, 96), 5)  # the last faces across z and x are one voxel wide
        report = stitchsafe.seams(labels, grid=(24, 32, 32))
        worst = report.faces.shape[report.faces.ranked()[:5]]
        assert (np.sort(worst, axis=1)[:, 1] > 1).all()


class TestStreaming:
    @pytest.mark.parametrize("shape", [(40, 50, 70), (90, 130)])
    def test_blocks_change_no_bit(self, shape: tuple[int, ...]) -> None:
        field = noise(shape, 1)
        labels = (noise(shape, 1, 1)[0] > 0).astype(np.uint16)
        axes = "c" + "zyx"[-len(shape) :]
        grid = SeamGrid(
            {"window": (20, 26, 32)[-len(shape) :], "tile": (10, 13, 16)[-len(shape) :]},
            Roi.from_bounds((3,) * len(shape), shape),
        )
        volumes = open_volume(field, axes=axes), open_volume(labels)

        layout = Layout.of(grid, None, len(field))

        def measured(size: int) -> Judged:
            pieces = measure_pieces(layout, *volumes, block_bytes=size)
            return judge(layout, pieces, axes[1:], labels=True)

        whole = measured(2**30)
        for size in (1, 2**20):
            parts = measured(size)
            assert same(parts.faces, whole.faces)
            assert parts.ratios == whole.ratios
        assert {family for family, _ in whole.ratios} == {"", "window", "tile"}

    def test_no_more_than_a_block_is_read_at_a_time(self) -> None:
        field = noise((64, 64, 64), 0)
        volume = open_volume(field, axes="czyx")
        sizes: list[int] = []

        class Watched:
            shape, channels, dtype = volume.shape, volume.channels, volume.dtype

            def read(self, roi: Roi) -> NDArray[np.floating]:
                sizes.append(roi.size)
                return volume.read(roi)

        grid = SeamGrid({"grid": (32, 32, 32)}, Roi.whole(volume.shape))
        measure_pieces(Layout.of(grid, None, len(field)), Watched(), None, block_bytes=1)
        assert max(sizes) <= (16 + 2 * 16) ** 3

    @pytest.mark.parametrize(
        ("grid", "channels", "taken"),
        [((48, 48, 48), 8, 40), ((48, 48, 48), 0, 20), ((8, 8, 8), 1, 30), ((128, 128), 3, 20)],
    )
    def test_what_is_given_is_enough_and_less_is_refused(
        self, grid: tuple[int, ...], channels: int, taken: int
    ) -> None:
        """For a deep field, labels alone, many faces, and an image."""
        shape = (112, 112, 112) if len(grid) == 3 else (700, 700)
        seams = SeamGrid({"grid": grid}, Roi.whole(shape))
        volumes = {"labels": Empty(shape, 1, np.dtype(np.uint32))}
        if channels:
            volumes["field"] = Empty(shape, channels, np.dtype(np.float32))
        small = SeamGrid({"grid": grid}, Roi.whole((64,) * len(grid)))
        measure_seams(small, **volumes)  # what is imported on the way counts to nobody
        with pytest.raises(PlanError, match="a coarser grid") as least:
            measure_seams(seams, **volumes, max_bytes=1)
        said = int(re.findall(r"give ([\d,]+) MB", str(least.value))[0].replace(",", ""))
        assert said <= taken
        tracemalloc.start()
        measure_seams(seams, **volumes, max_bytes=said * 10**6)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= said * 10**6
        with pytest.raises(PlanError, match="too few"):
            measure_seams(seams, **volumes, max_bytes=(said - 1) * 10**6)

    def test_a_face_has_the_controls_on_both_of_its_sides(self) -> None:
        grid = SeamGrid({"grid": (24, 24, 24)}, Roi.whole((72, 72, 72)))
        faces = measure_seams(grid, labels=Empty((72,) * 3, 1, np.dtype(np.uint8))).faces
        assert (faces.pairs == 24 * 24).all()
        assert (faces.control_pairs == 2 * faces.pairs).all()

    def test_faces_tile_their_planes(self) -> None:
        report = stitchsafe.seams(noise((40, 50, 70), 1), grid=(20, 26, 32))
        for axis in range(3):
            rows = report.faces.axis == axis
            area = report.faces.shape[rows].prod(axis=1).sum()
            others = [s for k, s in enumerate((40, 50, 70)) if k != axis]
            assert area == len(set(report.faces.position[rows])) * np.prod(others)


class TestPage:
    def test_it_stays_small_however_many_faces_there_are(self) -> None:
        """And where all of them are bad."""
        grid = SeamGrid({"grid": (6, 6, 6)}, Roi.whole((120, 120, 120)))
        report = measure_seams(grid, labels=Empty(grid.region.shape, 1, np.dtype(np.uint8)))
        faces = replace(report.faces, score=np.full(len(report.faces), 99, np.float32))
        page = write_html(replace(report, faces=faces))
        assert len(faces) == 22_800
        assert len(page) < 1_000_000

        assert page.count("<") < 7_000
        first = re.search(r'<path d="([^"]*)" fill="none" stroke="var\(--ink\)"', page)
        assert first
        assert first[1].count("M") == 20 * 20  # every bad face of a plane is framed

    def test_a_square_that_stands_for_several_is_the_worst_and_says_so(self) -> None:
        grid = SeamGrid({"grid": (4, 4)}, Roi.whole((8, 400)))
        report = measure_seams(grid, labels=Empty((8, 400), 1, np.dtype(np.uint8)))
        score = np.zeros(len(report.faces), np.float32)
        row = np.flatnonzero((report.faces.axis == 0) & (report.faces.corner[:, 1] == 204))[0]
        score[row] = 99
        page = write_html(replace(report, faces=replace(report.faces, score=score)))
        assert "y = 4, each square the worst of 3" in page
        assert page.count("<title>from 4,204: score 99.0</title>") == 1

    def test_pictures_say_what_they_show(self) -> None:
        field = noise((32, 48, 64), 0)
        volume = open_volume(field, axes="czyx")
        report = stitchsafe.seams(field, grid=(16, 24, 32))
        page = write_html(report, Views(field=volume))
        worst = report.face(int(report.faces.ranked()[0]))
        reach = abs(worst["control"] - worst["position"])
        low = worst["position"] - reach
        assert f"{worst['axis']} {low} to {low + 2 * reach} from left to right" in page


class TestRefusals:
    def test_a_grid_is_needed(self) -> None:
        with pytest.raises(InputError, match="say how it was tiled"):
            stitchsafe.seams(right())

    @pytest.mark.parametrize("grid", [(32, 32), (0, 32, 32), "somehow"])
    def test_a_grid_that_does_not_fit(self, grid: tuple[int, ...] | str) -> None:
        with pytest.raises(InputError, match="grid"):
            stitchsafe.seams(right(), grid=grid)  # type: ignore[arg-type]

    def test_what_is_not_labels_and_what_is_of_another_shape(self) -> None:
        with pytest.raises(InputError, match="one channel of integers"):
            stitchsafe.seams(right(), labels=right()[0], grid=TILE)
        with pytest.raises(InputError, match="same voxels"):
            stitchsafe.seams(right(), labels=np.zeros((4, 4, 4), int), grid=TILE)
        with pytest.raises(InputError, match="is a field itself"):
            stitchsafe.seams(right(), field=right(), grid=TILE)

    def test_an_origin_without_a_grid_and_a_recomputation_of_anything(self) -> None:
        with pytest.raises(InputError, match="origin"):
            stitchsafe.seams(right(), grid="auto", origin=(0, 0, 0))
        with pytest.raises(InputError, match="computed again"):
            stitchsafe.seams(right(), grid=TILE, recompute=1)
