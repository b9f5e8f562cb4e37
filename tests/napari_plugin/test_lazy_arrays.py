"""Arrays that are read as they are looked at: the values of NumPy, and no voxel more is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchsafe.coordinates import Roi
from stitchsafe.napari_plugin._lazy import LazyArray

SHAPE = (5, 6, 7, 3)
VALUES = np.arange(np.prod(SHAPE)).reshape(SHAPE)


class Read:
    """Remembers which regions were read."""

    def __init__(self) -> None:
        self.regions: list[Roi] = []

    def __call__(self, roi: Roi) -> Any:
        self.regions.append(roi)
        return VALUES[roi.slices]


def indices(size: int) -> st.SearchStrategy[Any]:
    return st.integers(-size, size - 1) | st.slices(size)


@given(st.tuples(*map(indices, SHAPE)), st.booleans())
def test_what_is_cut_is_what_numpy_cuts(key: tuple[Any, ...], whole: bool) -> None:
    lazy = LazyArray(SHAPE, VALUES.dtype, Read(), whole=int(whole))
    assert np.array_equal(np.asarray(lazy[key]), VALUES[key])
    assert np.asarray(lazy[key]).shape == VALUES[key].shape


@given(st.slices(5), st.slices(6), st.integers(0, 6))
def test_a_cut_of_a_cut(first: slice, second: slice, third: int) -> None:
    lazy = LazyArray(SHAPE, VALUES.dtype, Read())
    assert np.array_equal(
        lazy[first][:, second][..., third, :], VALUES[first][:, second][..., third, :]
    )


@pytest.mark.parametrize("key", [np.array([1, 3]), [0, 2], np.s_[[True, False] * 2 + [True]]])
def test_other_indices_are_numpys(key: Any) -> None:
    assert np.array_equal(LazyArray(SHAPE, VALUES.dtype, Read())[key], VALUES[key])


def test_a_window_of_a_volume_is_not_read_for_a_slice_of_it() -> None:
    read = Read()
    window = LazyArray(SHAPE, VALUES.dtype, read)[:, 1:4, 2:6]
    assert read.regions == []
    assert np.array_equal(np.asarray(window[2]), VALUES[2, 1:4, 2:6])
    assert read.regions == [Roi((2, 1, 2, 0), (1, 3, 4, 3))]


@pytest.mark.parametrize("key", [5, (0, -7), (0, 0, 0, 0, 0)])
def test_beyond_is_an_error(key: Any) -> None:
    with pytest.raises(IndexError):
        LazyArray(SHAPE, VALUES.dtype, Read())[key]
