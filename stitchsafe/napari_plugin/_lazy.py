"""Arrays that are read, or computed, as they are looked at.

napari takes whatever has a shape, a type and slices for a layer's data. So a slice of a volume of
any size costs the reading of that slice, and a pyramid of planes and boxes costs no memory at all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from copy import copy
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.volumes import Volume, VoxelSize, open_volume

__all__ = ["LazyArray", "channel_of", "levels_of", "scale_of"]

Array = npt.NDArray[Any]
Read = Callable[[Roi], Array]


class LazyArray:
    """An array whose regions a function makes.

    What is cut out of it is another such array, until somebody wants its values: napari cuts a
    window out of a volume first and takes a slice of that, and only the slice should be read.

    Parameters
    ----------
    shape
        Of the array.
    dtype
        Of its elements.
    read
        Gives a region; over all axes but the last `whole`, which it gives whole.
    whole
        How many of the last axes are never cut, such as the colours of an image.
    """

    def __init__(
        self, shape: Sequence[int], dtype: npt.DTypeLike, read: Read, *, whole: int = 0
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._read = read
        self._cut = len(shape) - whole
        self._places: tuple[range | int, ...] = tuple(range(int(size)) for size in shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(each) for each in self._places if isinstance(each, range))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """What is meant by slices and numbers, not read yet; by anything else, or an element."""
        index = list(key) if isinstance(key, tuple) else [key]
        if not all(_is_plain(each) for each in index):
            return np.asarray(self)[key]
        if Ellipsis not in index:
            index.append(Ellipsis)
        place, missing = index.index(Ellipsis), self.ndim + 1 - len(index)
        if missing < 0:
            raise IndexError(f"{self.ndim} axes cannot take the index {key}")
        index[place : place + 1] = [slice(None)] * missing
        cut = copy(self)
        rest = iter(index)
        cut._places = tuple(
            each[_plain(next(rest))] if isinstance(each, range) else each for each in self._places
        )
        return cut if cut.ndim else np.asarray(cut)[()]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        del copy
        if not self.size:
            return np.zeros(self.shape, dtype or self.dtype)
        spans = [_span(each) for each in self._places[: self._cut]]
        begin, end, index = zip(*spans, strict=True)
        whole = [
            each if isinstance(each, int) else _as_slice(each) for each in self._places[self._cut :]
        ]
        region = self._read(Roi.from_bounds(begin, end))
        return np.asarray(region[(*index, *whole)], dtype)


def _is_plain(index: Any) -> bool:
    return isinstance(index, slice | int | np.integer) or index is Ellipsis


def _plain(index: Any) -> Any:
    if not isinstance(index, slice):
        return operator.index(index)
    sides = (index.start, index.stop, index.step)
    return slice(*(None if each is None else operator.index(each) for each in sides))


def _as_slice(places: range) -> slice:
    return slice(places.start, None if places.stop < 0 else places.stop, places.step)


def _span(places: range | int) -> tuple[int, int, Any]:
    """What to read along an axis, and which of that is meant."""
    if isinstance(places, int):
        return places, places + 1, 0
    return min(places), max(places) + 1, slice(None, None, places.step)


def levels_of(source: Any, **options: Any) -> list[Volume]:
    """A volume at each level of its pyramid, the finest first."""
    finest = open_volume(source, **options)
    others = [level.index for level in finest.levels if level.index != 0]
    return [finest, *(open_volume(source, **{**options, "level": index}) for index in others)]


def channel_of(volumes: Sequence[Volume]) -> list[LazyArray]:
    """Of volumes of one channel, that channel of each."""

    def reader(volume: Volume) -> Read:
        return lambda roi: volume.read(roi)[0]

    return [LazyArray(volume.shape, volume.dtype, reader(volume)) for volume in volumes]


def scale_of(size: VoxelSize | None, axes: str) -> dict[str, Any]:
    """What tells napari of a voxel size, as arguments of a layer."""
    if size is None:
        return {"axis_labels": tuple(axes)}
    return {"scale": size.values, "units": (size.unit,) * len(axes), "axis_labels": tuple(axes)}
