"""What the rest of the package sees of a volume, whatever file it lies in.

A *source* is one n-dimensional array as it is stored, read by slices. A *volume* is a source with
its axes named, one time point and the wanted channels picked, handed out as ``(c, *spatial)`` with
the spatial axes in the order (z, y, x) or (y, x), however the file orders them. ::

    source  (t, y, x, c)  --axes "tyxc", time 0-->  volume  axes "yx", channels c
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes._voxel_size import Level, VoxelSize

__all__ = ["Array", "Source", "SourceVolume", "Volume", "digest", "planar"]

Array = npt.NDArray[Any]


@runtime_checkable
class Volume(Protocol):
    """An image at one time point, read region by region."""

    @property
    def path(self) -> str | None:
        """Absolute path as text; None for an array in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each spatial axis."""

    @property
    def axes(self) -> str:
        """``"zyx"`` or ``"yx"``."""

    @property
    def channels(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def voxel_size(self) -> VoxelSize | None: ...
    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Spatial shape of what is stored together; the whole shape where nothing is."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels of the pyramid that this volume is one of; only itself without a pyramid."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed because the file does not say it; to be told to the user."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able; equal for the same volume wherever it lies. A run resumes only on its like."""

    def read(self, roi: Roi) -> Array:
        """The region, shape ``(channels, *roi.shape)``, in native byte order.

        Raises
        ------
        ValueError
            The region reaches out of the volume.
        VolumeError
            The stored bytes cannot be read.
        """

    @property
    def decoded_bytes(self) -> int:
        """Bytes of a stored chunk that is decoded whole, whatever is read of it; 0 without any."""

    def absent_chunks(self, roi: Roi | None = None) -> Iterator[str]:
        """Names of the stored chunks (shards) that the region needs and that are absent.

        Zarr reads an absent chunk as the fill value, whether it was left out or lost. None for
        formats in which nothing can be absent.
        """

    def stamp(self, roi: Roi) -> str | None:
        """What changes when the files that hold a region are written; None where nothing tells."""


class Source(Protocol):
    """One stored array, in its own order of axes."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunks(self) -> tuple[int, ...]: ...
    @property
    def decoded_bytes(self) -> int:
        """Bytes of a chunk that is decoded whole before any of it can be read; 0 without any."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What identifies the array beside its shape and type; JSON-able, free of paths."""

    def read(self, index: tuple[slice, ...]) -> Array: ...
    def absent_chunks(self, index: tuple[slice, ...]) -> Iterator[str]: ...
    def stamp(self, index: tuple[slice, ...]) -> str | None: ...


def digest(metadata: object) -> str:
    """SHA-256 over the canonical JSON of some metadata."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SourceVolume:
    """The :class:`Volume` over any source.

    Parameters
    ----------
    source
        The stored array.
    stored_axes
        One letter of "tczyx" per axis of the source, in its order.
    time, channel
        The picked time point, and the picked channel or None for all. In range already.
    level
        The level that the source is of `levels`.
    dropped
        Axes of length 1 that are not handed out (see :func:`planar`).
    """

    source: Source
    stored_axes: str
    path: str | None = None
    time: int = 0
    channel: int | None = None
    level: int = 0
    voxel_size: VoxelSize | None = None
    levels: tuple[Level, ...] = ()
    notes: tuple[str, ...] = ()
    dropped: str = field(default="")

    def __post_init__(self) -> None:
        if not self.levels:
            level = Level(self.level, self.shape, self.voxel_size)
            object.__setattr__(self, "levels", (level,))

    def _along(self, letter: str, sizes: tuple[int, ...]) -> int:
        return sizes[self.stored_axes.index(letter)]

    @property
    def axes(self) -> str:
        present = set(self.stored_axes) - set(self.dropped)
        return "".join(letter for letter in "zyx" if letter in present)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._along(letter, self.source.shape) for letter in self.axes)

    @property
    def channels(self) -> int:
        if "c" not in self.stored_axes or self.channel is not None:
            return 1
        return self._along("c", self.source.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype.newbyteorder("=")

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        chunks = (self._along(letter, self.source.chunks) for letter in self.axes)
        return tuple(max(1, min(c, s)) for c, s in zip(chunks, self.shape, strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "channels": self.channels,
            "dtype": self.dtype.str,
            "axes": self.axes,
            "stored_axes": self.stored_axes,
            "level": self.level,
            "channel": self.channel,
            "time": self.time,
            "metadata": digest(dict(self.source.facts)),
        }

    def _index(self, roi: Roi) -> tuple[slice, ...]:
        if not Roi.whole(self.shape).contains(roi):
            raise ValueError(f"the region {roi} reaches out of the volume of shape {self.shape}")
        picked = {
            "t": slice(self.time, self.time + 1),
            "c": slice(0, self.channels)
            if self.channel is None
            else slice(self.channel, self.channel + 1),
            "z": slice(0, 1),
            **dict(zip(self.axes, roi.slices, strict=True)),
        }
        return tuple(picked[letter] for letter in self.stored_axes)

    def read(self, roi: Roi) -> Array:
        index = self._index(roi)
        if roi.size == 0:
            return np.empty((self.channels, *roi.shape), self.dtype)
        data = self.source.read(index)
        order = [self.stored_axes.index(a) for a in "tczyx" if a in self.stored_axes]
        data = data.transpose(order).reshape(self.channels, *roi.shape)
        return np.ascontiguousarray(data, dtype=self.dtype)

    @property
    def decoded_bytes(self) -> int:
        return self.source.decoded_bytes

    def absent_chunks(self, roi: Roi | None = None) -> Iterator[str]:
        roi = Roi.whole(self.shape) if roi is None else roi
        return self.source.absent_chunks(self._index(roi)) if roi.size else iter(())

    def stamp(self, roi: Roi) -> str | None:
        return self.source.stamp(self._index(roi))


def planar(volume: Volume) -> Volume:
    """A volume of one slice as the 2-D image that it is; a 2-D volume as it is.

    Raises
    ------
    VolumeError
        There are several slices.
    """
    if volume.axes == "yx":
        return volume
    if volume.shape[0] != 1 or not isinstance(volume, SourceVolume):
        raise VolumeError(
            f"{volume.path or 'the array'} has {volume.shape[0]} slices along z, and a 2-D image "
            "is wanted; take one with --roi or use a 3-D network"
        )

    def flat(size: VoxelSize | None) -> VoxelSize | None:
        return size and VoxelSize(size.values[1:], size.unit)

    levels = tuple(Level(x.index, x.shape[1:], flat(x.voxel_size)) for x in volume.levels)
    return replace(volume, dropped="z", voxel_size=flat(volume.voxel_size), levels=levels)
