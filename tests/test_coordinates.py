from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from stitchsafe.coordinates import CellGrid, Roi, ceil_to, floor_to, grid_cells


@st.composite
def rois(draw, ndim: int = 3) -> Roi:
    offset = tuple(draw(st.integers(-9, 9)) for _ in range(ndim))
    return Roi(offset, tuple(draw(st.integers(0, 12)) for _ in range(ndim)))


@settings(deadline=None)
@given(rois(), st.tuples(*[st.integers(1, 7)] * 3))
def test_cells_cover_a_region_once_and_lie_on_the_grid(region, cell):
    count = np.zeros((40,) * 3, int)
    for part in grid_cells(region, cell):
        assert part.size > 0
        assert all(
            o // c == (e - 1) // c for o, e, c in zip(part.offset, part.end, cell, strict=True)
        )
        count[part.shift((15,) * 3).slices] += 1
    expected = np.zeros_like(count)
    expected[region.shift((15,) * 3).slices] = 1
    np.testing.assert_array_equal(count, expected)


@settings(deadline=None)
@given(rois(), st.tuples(*[st.integers(1, 7)] * 3))
def test_a_cell_is_found_again_by_its_index(region, cell):
    grid = CellGrid(region, cell)
    for part in grid.cells():
        assert grid.cell_at(grid.index(part)) == part


@given(rois(), rois())
def test_intersection_is_the_common_voxels(a, b):
    both = a.intersect(b)
    inside = set(_positions(a)) & set(_positions(b))
    assert set(_positions(both)) == inside


def _positions(roi: Roi):
    return [tuple(np.add(roi.offset, i)) for i in np.ndindex(*roi.shape)]


def test_regions_cannot_have_negative_shapes_or_mixed_axes():
    with pytest.raises(ValueError, match="negative"):
        Roi((0, 0), (1, -1))
    with pytest.raises(ValueError, match="differ in length"):
        Roi((0,), (1, 1))


@given(st.integers(-100, 100), st.integers(1, 20))
def test_rounding_to_multiples(value, multiple):
    low, high = floor_to(value, multiple), ceil_to(value, multiple)
    assert low <= value <= high < low + 2 * multiple
    assert low % multiple == high % multiple == 0
    assert (low == high) == (value % multiple == 0)


def test_growing_aligning_and_shifting():
    roi = Roi((3, -2), (4, 5))
    assert roi.grow((1, 2), (0, 3)) == Roi((2, -4), (5, 10))
    assert roi.align_outward((4, 4)) == Roi((0, -4), (8, 8))
    assert roi.relative_to(Roi((1, 1), (9, 9))) == Roi((2, -3), (4, 5))
    assert str(roi) == "3:7,-2:3"
