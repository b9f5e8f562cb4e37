"""What is kept of a window: columns of numbers, never one object per segment.

A :class:`WindowSegments` is what segmenting one window yields. A :class:`WindowRecord` is what
later stages need of it when its labels have been written and forgotten: its segments' columns and
the planes of labels on its faces. :class:`Segments` are those of several windows, in the canonical
order: windows by their first voxel in raster order over the volume, segments by theirs in the
window. Nothing depends on the order in which windows were computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi

__all__ = ["STRAY", "Segments", "WindowRecord", "WindowSegments"]

Int64 = NDArray[np.int64]
Planes = tuple[NDArray[np.uint32], ...]

STRAY = -1
"""The cluster of a stray: a part of what segments may grow into that none of its window reaches."""


@dataclass(frozen=True)
class WindowSegments:
    """The segments of one clustering window, ordered by first voxel in raster order.

    Parameters
    ----------
    labels
        uint32, the window's shape: 0 is background, segments count from 1.
    cores
        The same labels where segments have not grown, elsewhere 0; contact is measured on them.
    modes
        float32 ``(segments, E)``: the mode of each segment's cluster, NaN for strays. E is 0 for
        foreground, and 1 for a class map (the class).
    clusters
        int32 ``(segments,)``: which cluster of the window; parts of one cluster share it. `STRAY`
        for strays.
    voxels
        int64 ``(segments,)``.
    first
        int64 ``(segments, ndim)``: first voxel, relative to the window.
    """

    labels: NDArray[np.uint32]
    cores: NDArray[np.uint32]
    modes: NDArray[np.float32]
    clusters: NDArray[np.int32]
    voxels: Int64
    first: Int64

    @property
    def count(self) -> int:
        return len(self.voxels)


@dataclass(frozen=True)
class WindowRecord:
    """All that merging and the instance table need of one window.

    Parameters
    ----------
    region
        The window in the volume.
    volume_shape
        In voxels; raster order is that of this shape.
    modes, clusters, voxels
        As in :class:`WindowSegments`.
    first
        int64 ``(segments,)``: first voxel as raster index in the volume.
    sums
        int64 ``(segments, ndim)``: sum of the voxels' positions in the volume, for centroids.
    box_begin, box_end
        int64 ``(segments, ndim)``: half-open bounding box in the volume.
    low, high
        Per axis, the plane of local labels (uint32) on the window's first and last slice, of cores
        only: where segments have grown until they met, contact says nothing.
    grown_low, grown_high
        The same of grown segments and strays.
    """

    region: Roi
    volume_shape: tuple[int, ...]
    modes: NDArray[np.float32]
    clusters: NDArray[np.int32]
    voxels: Int64
    first: Int64
    sums: Int64
    box_begin: Int64
    box_end: Int64
    low: Planes
    high: Planes
    grown_low: Planes
    grown_high: Planes

    @classmethod
    def of_segments(
        cls, segments: WindowSegments, region: Roi, volume_shape: tuple[int, ...]
    ) -> WindowRecord:
        """Measure the segments of the window at `region`."""
        if segments.labels.shape != region.shape:
            raise ValueError(f"labels {segments.labels.shape} do not fill the region {region}")
        offset = np.asarray(region.offset, np.int64)
        begin, end, sums = _extents(segments.labels, segments.count)
        return cls(
            region=region,
            volume_shape=tuple(volume_shape),
            modes=segments.modes,
            clusters=segments.clusters,
            voxels=segments.voxels,
            first=_raster(segments.first + offset, volume_shape),
            sums=sums + offset * segments.voxels[:, None],
            box_begin=begin + offset,
            box_end=end + offset,
            low=_planes(segments.cores, 0),
            high=_planes(segments.cores, -1),
            grown_low=_planes(segments.labels, 0),
            grown_high=_planes(segments.labels, -1),
        )

    @property
    def key(self) -> int:
        """Raster index of the window's first voxel: its name in tables."""
        return int(_raster(np.asarray([self.region.offset], np.int64), self.volume_shape)[0])

    @property
    def count(self) -> int:
        return len(self.voxels)

    @property
    def strays(self) -> NDArray[np.bool_]:
        """Which segments are strays."""
        strays: NDArray[np.bool_] = self.clusters == STRAY
        return strays

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All content as plain arrays, for an ``.npz``; `from_arrays` restores it."""
        planes = [*self.low, *self.high]
        grown = [*self.grown_low, *self.grown_high]
        if any(not np.array_equal(one, other) for one, other in zip(planes, grown, strict=True)):
            planes += grown
        columns: list[NDArray[Any]] = [self.clusters, self.voxels, self.first]
        columns += [self.sums, self.box_begin, self.box_end]
        # Few arrays: of small ones, most of the time to read them goes into their headers.
        return {
            "modes": self.modes,
            "columns": np.column_stack(columns),
            "planes": np.concatenate([plane.reshape(-1) for plane in planes]),
            "place": np.array([self.region.offset, self.region.shape, self.volume_shape], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> WindowRecord:
        """What `to_arrays` gave, or the opened ``.npz`` of it."""
        offset, shape, volume_shape = (tuple(row) for row in arrays["place"].tolist())
        columns, ndim = np.asarray(arrays["columns"], np.int64), len(shape)
        sums, begin, end = (columns[:, at : at + ndim] for at in range(3, 3 + 3 * ndim, ndim))
        faces = [shape[:axis] + shape[axis + 1 :] for axis in range(ndim)]
        bounds = np.cumsum([math.prod(face) for face in faces * 4])
        # Planes of grown segments are there only where they differ.
        count = 2 * ndim if bounds[2 * ndim - 1] == len(arrays["planes"]) else 4 * ndim
        flat = np.split(arrays["planes"], bounds[: count - 1])
        planes = [plane.reshape(face) for plane, face in zip(flat, faces * 4, strict=False)]
        low, high, grown_low, grown_high = (
            tuple(planes[at % count : at % count + ndim]) for at in range(0, 4 * ndim, ndim)
        )
        return cls(
            region=Roi(offset, shape),
            volume_shape=volume_shape,
            modes=arrays["modes"],
            clusters=columns[:, 0].astype(np.int32),
            voxels=columns[:, 1],
            first=columns[:, 2],
            sums=sums,
            box_begin=begin,
            box_end=end,
            low=low,
            high=high,
            grown_low=grown_low,
            grown_high=grown_high,
        )


@dataclass(frozen=True)
class Segments:
    """The segments of some windows as columns, in raster order of the windows.

    Parameters
    ----------
    keys
        int64 ``(windows,)``, ascending: `WindowRecord.key` of each window, empty ones too.
    starts
        int64 ``(windows + 1,)``: local label ``k`` of window ``w`` is row ``starts[w] + k - 1``.
    names
        int64 ``(rows,)``: raster index of each segment's first voxel in the volume.
    clusters, modes, voxels, sums, box_begin, box_end
        As in :class:`WindowRecord`, one row per segment.
    """

    keys: Int64
    starts: Int64
    names: Int64
    clusters: NDArray[np.int32]
    modes: NDArray[np.float32]
    voxels: Int64
    sums: Int64
    box_begin: Int64
    box_end: Int64

    @classmethod
    def of_records(cls, records: Iterable[WindowRecord], ndim: int) -> Segments:
        """The segments of these windows, whatever the order in which they come."""
        ordered = sorted(records, key=lambda record: record.key)
        if not ordered:
            none, boxes = np.zeros(0, np.int64), np.zeros((0, ndim), np.int64)
            modes = np.zeros((0, 0), np.float32)
            clusters = none.astype(np.int32)
            return cls(none, np.zeros(1, np.int64), none, clusters, modes, none, *[boxes] * 3)
        counts = [record.count for record in ordered]
        return cls(
            keys=np.asarray([record.key for record in ordered], np.int64),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            names=np.concatenate([record.first for record in ordered]),
            **{
                name: np.concatenate([getattr(record, name) for record in ordered])
                for name in ("clusters", "modes", "voxels", "sums", "box_begin", "box_end")
            },
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All content as plain arrays, for an ``.npz``; `from_arrays` restores it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Segments:
        """What `to_arrays` gave, among other arrays or alone."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    @property
    def windows(self) -> Int64:
        """Key of each row's window."""
        return np.repeat(self.keys, np.diff(self.starts))


def _planes(labels: NDArray[np.uint32], at: int) -> Planes:
    """The slice `at` along each axis."""
    return tuple(np.ascontiguousarray(labels.take(at, axis=axis)) for axis in range(labels.ndim))


def _raster(positions: Int64, shape: tuple[int, ...]) -> Int64:
    index = np.zeros(len(positions), np.int64)
    for axis, size in enumerate(shape):
        index = index * size + positions[:, axis]
    return index


def _extents(labels: NDArray[np.uint32], count: int) -> tuple[Int64, Int64, Int64]:
    """Half-open boxes and sums of positions per segment, relative to the window."""
    ndim = labels.ndim
    begin = np.zeros((count, ndim), np.int64)
    end = np.zeros((count, ndim), np.int64)
    sums = np.zeros((count, ndim), np.int64)
    for axis in range(ndim):
        planes = np.moveaxis(labels, axis, 0)
        bounds = np.zeros((3, count + 1), np.int64)
        first, last, total = bounds  # of positions along the axis, also of the background
        for at in reversed(range(len(planes))):
            first[planes[at]] = at
        for at, plane in enumerate(planes):
            last[plane] = at + 1
            np.add.at(total, plane.reshape(-1), at)
        begin[:, axis], end[:, axis], sums[:, axis] = bounds[:, 1:]
    return begin, end, sums
