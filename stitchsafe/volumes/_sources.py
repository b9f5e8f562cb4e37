"""Sources that are no Zarr: arrays in memory, raw bytes in a file, HDF5 and TIFF.

Pages of a memory-mapped file count as resident memory for as long as they are mapped. So
:class:`RawSource` maps one plane at a time, copies what is wanted and lets the plane go: what stays
resident is the copy.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._presence import stamp_of
from stitchsafe.volumes._tensorstore import first_line
from stitchsafe.volumes._volume import Array, Source

__all__ = ["Hdf5Source", "MemorySource", "RawSource", "TiffSource", "TransposedSource"]


class _Undivided:
    """Of formats in which no chunk can be absent: all lies in one file, or in memory."""

    decoded_bytes = 0

    @property
    def file(self) -> Path | None:
        return None

    def absent_chunks(self, index: tuple[slice, ...]) -> Iterator[str]:
        return iter(())

    def stamp(self, index: tuple[slice, ...]) -> str | None:
        return None if self.file is None else stamp_of([self.file])


class MemorySource(_Undivided):
    """Anything with `shape` and slicing: NumPy, torch on the CPU, dask and Zarr arrays (lazily)."""

    def __init__(self, array: Any, facts: Mapping[str, Any] | None = None) -> None:
        self._array = array
        self.facts: Mapping[str, Any] = facts or {"format": "array"}
        self.shape: tuple[int, ...] = tuple(int(size) for size in array.shape)
        probe = np.asarray(array[tuple(slice(0, 0) for _ in self.shape)])
        self.dtype: np.dtype[Any] = probe.dtype
        self.chunks = _chunks_of(array, self.shape)
        if self.chunks != self.shape:
            self.decoded_bytes = math.prod(self.chunks) * self.dtype.itemsize

    def read(self, index: tuple[slice, ...]) -> Array:
        return np.array(self._array[index])


def _chunks_of(array: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(shape):
        return shape
    return tuple(int(max(c) if isinstance(c, tuple) else c) for c in chunks)


@dataclass(frozen=True)
class RawSource(_Undivided):
    """A C-ordered array of plain bytes somewhere in a file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        needed = self.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if self.path.stat().st_size < needed:
            raise VolumeError(
                f"{self.path} is truncated, as it has {self.path.stat().st_size} bytes of "
                f"{needed}; copy it again"
            )

    @property
    def file(self) -> Path:
        return self.path

    @property
    def chunks(self) -> tuple[int, ...]:
        return (*(1 for _ in self.shape[:-2]), *self.shape[-2:])

    def read(self, index: tuple[slice, ...]) -> Array:
        result = np.empty(tuple(s.stop - s.start for s in index), self.dtype)
        leading, inner = index[:-2], index[-2:]
        plane = self.shape[-2:]
        plane_bytes = int(np.prod(plane)) * self.dtype.itemsize
        for position in itertools.product(*(range(s.start, s.stop) for s in leading)):
            number = 0
            for at, size in zip(position, self.shape[:-2], strict=True):
                number = number * size + at
            mapped = np.memmap(
                self.path, self.dtype, "r", self.offset + number * plane_bytes, plane
            )
            target = tuple(at - s.start for at, s in zip(position, leading, strict=True))
            result[target] = mapped[inner]
            del mapped
        return result


@dataclass(frozen=True)
class TransposedSource(_Undivided):
    """Another source with its axes in reverse: an array that was stored in Fortran order."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape[::-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.source.chunks[::-1]

    def stamp(self, index: tuple[slice, ...]) -> str | None:
        return self.source.stamp(index[::-1])

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.source.facts

    def read(self, index: tuple[slice, ...]) -> Array:
        return self.source.read(index[::-1]).T


class Hdf5Source(_Undivided):
    """A dataset of an HDF5 file. Opened again in a copy that was pickled."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        data = self._dataset
        self.shape: tuple[int, ...] = tuple(data.shape)
        self.dtype: np.dtype[Any] = data.dtype
        self.chunks: tuple[int, ...] = tuple(data.chunks or data.shape)
        self.facts: Mapping[str, Any] = {
            "format": "hdf5",
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "chunks": list(self.chunks),
            "compression": data.compression,
        }
        if data.chunks is not None:
            self.decoded_bytes = math.prod(self.chunks) * self.dtype.itemsize

    @property
    def file(self) -> Path:
        return self._path

    @functools.cached_property
    def _dataset(self) -> Any:
        import h5py

        return h5py.File(self._path, "r")[self._name]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_dataset"}

    def read(self, index: tuple[slice, ...]) -> Array:
        try:
            return np.asarray(self._dataset[index])
        except (OSError, RuntimeError) as error:
            raise VolumeError(
                f"{self._path}:{self._name} cannot be read: {first_line(error)}; the file is "
                "damaged, copy it again"
            ) from error


class TiffSource(_Undivided):
    """A series of a TIFF file that is compressed or tiled, read by its strips and tiles."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self.facts = facts
        array = self._array
        self.shape: tuple[int, ...] = tuple(int(size) for size in array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.chunks: tuple[int, ...] = tuple(int(size) for size in array.chunks)
        self.decoded_bytes = math.prod(self.chunks) * self.dtype.itemsize

    @property
    def file(self) -> Path:
        return self._path

    @functools.cached_property
    def _array(self) -> Any:
        import tifffile
        import zarr

        file = tifffile.TiffFile(self._path)
        weakref.finalize(self, file.close)
        return zarr.open(file.aszarr(level=0), mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_array"}

    def read(self, index: tuple[slice, ...]) -> Array:
        try:
            return np.asarray(self._array[index])
        except Exception as error:
            raise VolumeError(
                f"{self._path} cannot be read: {first_line(error)}; the file is damaged or "
                "compressed in a way that tifffile needs imagecodecs for"
            ) from error
