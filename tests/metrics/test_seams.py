"""False splits and merges at seams, against a count pair by pair, and however they are streamed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.metrics import evaluate_volumes
from stitchsafe.seam_grid import SeamGrid


@dataclass
class Read:
    """Labels that remember the largest region that was read of them."""

    array: np.ndarray
    largest: int = 0

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, roi):
        self.largest = max(self.largest, roi.size)
        return self.array[roi.slices]


@st.composite
def cut_volumes(draw):
    ndim = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 11)) for _ in range(ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    labels, truth = (rng.integers(0, 4, shape).astype("uint32") for _ in range(2))
    tile = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    grids = {"cells": tuple(t * draw(st.integers(1, 3)) for t in tile), "tiles": tile}
    begin = [draw(st.integers(0, size - 1)) for size in shape]
    end = [draw(st.integers(b + 1, size)) for b, size in zip(begin, shape, strict=True)]
    block = tuple(draw(st.integers(1, 12)) for _ in range(ndim))
    return labels, truth, grids, Roi.from_bounds(begin, end), block


def counted(labels, truth, grids, roi):
    """The same, pair by pair: counts by family, and wrong pairs by face."""
    families = {name: [0, 0, 0, 0] for name in (*grids, None)}
    faces = {}
    seams = [
        {p: n for n in reversed(grids) for p in range(0, labels.shape[a], grids[n][a])}
        for a in range(labels.ndim)
    ]
    for axis in range(labels.ndim):
        inner = [p for p in sorted(seams[axis]) if roi.offset[axis] < p < roi.end[axis]]
        bounds = [roi.offset[axis], *inner, roi.end[axis]]
        halves = {(a + b) // 2 for a, b in itertools.pairwise(bounds) if b - a > 1}
        for here in np.ndindex(*roi.shape):
            here = tuple(h + o for h, o in zip(here, roi.offset, strict=True))
            before = tuple(h - (a == axis) for a, h in enumerate(here))
            if here[axis] not in inner and here[axis] not in halves:
                continue
            family = seams[axis][here[axis]] if here[axis] in inner else None
            one, other = truth[before], truth[here]
            row = families[family]
            split = merged = 0
            if one and one == other:
                row[0] += 1
                split = int(labels[before] != labels[here])
            elif one and other:
                row[2] += 1
                merged = int(labels[before] == labels[here] != 0)
            row[1] += split
            row[3] += merged
            if family is not None and (split or merged):
                corner = tuple(
                    max([h for h in seams[a] if h <= here[a]] + [roi.offset[a]])
                    for a in range(labels.ndim)
                )
                face = faces.setdefault((axis, corner), [0, 0])
                face[0] += split
                face[1] += merged
    return families, faces


@given(cut_volumes())
@settings(deadline=None, max_examples=80)
def test_pairs_are_those_that_one_counts_by_hand(case):
    labels, truth, grids, roi, block = case
    found = evaluate_volumes(
        Read(labels), Read(truth), grids=grids, roi=roi, block_shape=block
    ).seams
    families, faces = counted(labels, truth, grids, roi)
    for name, pairs in (*found.families.items(), (None, found.control)):
        four = [pairs.inside, pairs.false_splits, pairs.between, pairs.false_merges]
        assert four == families[name], name
    ranked = sorted(faces.items(), key=lambda item: (-sum(item[1]), item[0]))
    shown = [((f.axis, f.corner), [f.false_splits, f.false_merges]) for f in found.worst]
    assert shown == ranked[:10]
    assert all(face.position == face.corner[face.axis] for face in found.worst)


@given(cut_volumes())
@settings(deadline=None, max_examples=40)
def test_scores_are_the_same_with_and_without_seams(case):
    labels, truth, grids, roi, block = case
    without = evaluate_volumes(Read(labels), Read(truth), roi=roi)
    found = evaluate_volumes(Read(labels), Read(truth), roi=roi, grids=grids, block_shape=block)
    assert {**found.to_json(), "seams": None} == without.to_json()


def test_harm_at_seams_shows_beside_the_interior():
    truth = np.ones((64, 64), np.uint8)
    truth[:, 30:34] = 2  # a thin object along the seam at x = 32
    labels = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((32, 32), int)).astype(np.uint8)
    seams = evaluate_volumes(Read(labels), Read(truth), grids={"grid": (32, 32)}).seams
    assert seams.together.split_rate == 1
    assert seams.control.split_rate == 0
    assert [(face.axis, face.position, face.score) for face in seams.worst] == [
        (0, 32, 32),
        (0, 32, 32),
        (1, 32, 32),
        (1, 32, 32),
    ]
    merged = evaluate_volumes(
        Read(np.ones_like(truth)), Read(truth), grids={"grid": (64, 34)}
    ).seams
    assert (merged.together.false_merges, merged.together.merge_rate) == (64, 1)
    assert seams.to_json()["worst"][2] == {
        "axis": "x", "position": 32, "corner": [0, 32], "score": 32, "false_splits": 32,
        "false_merges": 0,
    }  # fmt: skip


def test_large_faces_are_read_in_parts():
    truth = np.zeros((3, 300, 600), np.uint8)
    truth[:, 290:, 590:] = 1
    labels = truth.copy()
    labels[2] *= 2
    volumes = Read(labels), Read(truth)
    seams = evaluate_volumes(*volumes, grids={"grid": (2, 1000, 1000)}, block_shape=(1, 1, 1)).seams
    assert max(volume.largest for volume in volumes) <= 3 * 257 * 257
    (face,) = seams.worst
    assert (face.corner, face.false_splits) == ((2, 256, 512), 100)


def test_a_grid_without_seams_or_room():
    labels = np.ones((4, 4), np.uint8)
    none = evaluate_volumes(Read(labels), Read(labels), grids={"grid": (9, 9)}).seams
    assert none.together.to_json() == {
        "inside": 0, "false_splits": 0, "split_rate": None,
        "between": 0, "false_merges": 0, "merge_rate": None,
    }  # fmt: skip
    assert none.control.inside == 8
    dense = evaluate_volumes(Read(labels), Read(labels), grids={"grid": (1, 1)}).seams
    assert (dense.together.inside, dense.control.inside) == (24, 0)


@pytest.mark.parametrize("cell", [(4,), (4, 0), (4, 4, 4)])
def test_a_grid_of_other_axes_is_refused(cell):
    labels = Read(np.ones((4, 4), np.uint8))
    with pytest.raises(VolumeError, match="one positive number of voxels per axis"):
        evaluate_volumes(labels, labels, grids={"grid": cell})


def test_blocks_cover_the_region_once():
    grid = SeamGrid({"cells": (6, 8), "tiles": (3, 4)}, Roi((2, 1), (20, 30)))
    seen = np.zeros((30, 40), int)
    for block in grid.blocks((7, 9)):
        seen[block.slices] += 1
    assert (seen[grid.region.slices] == 1).all()
    assert seen.sum() == grid.region.size


def test_each_block_is_told_once_it_is_compared():
    labels = Read(np.ones((40, 60), np.int64))
    roi = Roi((3, 5), (30, 50))
    for grids in (None, {"grid": (16, 16)}):
        told = np.zeros((40, 60), int)

        def watch(block, told=told):
            told[block.slices] += 1

        evaluate_volumes(labels, labels, block_shape=(10, 10), roi=roi, grids=grids, watch=watch)
        assert (told[roi.slices] == 1).all()
        assert told.sum() == roi.size
