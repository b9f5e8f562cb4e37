"""Measures every plane of a grid in pieces, streamed over a field, labels, or both.

A *piece* is what a cube grid cuts out of a face: of these, faces, families and intervals are made
afterwards. What is measured of a piece depends on the voxels within a few of it and on nothing
else, and pieces are put in order at the end, so blocks change no bit. Kept in memory are one block
and the numbers of all pieces.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi, floor_to
from stitchsafe.discontinuity._across import LABEL_COUNTS, jumps, label_counts
from stitchsafe.discontinuity._planes import AxisPlanes, planes_of
from stitchsafe.seam_grid import SeamGrid, whole_blocks

__all__ = ["Dense", "Layout", "Pieces", "measure_pieces", "quiet_jump"]

_FEWEST = 64
_SIDES = {2: (16, 512), 3: (16, 128)}
_BLOCK_BYTES = 256 * 2**20
_QUIET = 1e-3


class Dense(Protocol):
    """An array of channels that can be read by regions."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def channels(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, roi: Roi) -> NDArray[Any]:
        """A region, shape ``(channels, *roi.shape)``."""


@dataclass(frozen=True)
class Layout:
    """What is measured, and in which pieces.

    Parameters
    ----------
    grid
        The seams.
    planes
        Per axis.
    side
        Of the cubes that cut faces into pieces.
    """

    grid: SeamGrid
    planes: tuple[AxisPlanes, ...]
    side: int

    @classmethod
    def of(cls, grid: SeamGrid, period: Sequence[int | None] | None = None) -> Layout:
        """The layout for a grid; cubes are so large that there are some dozens of them.

        Parameters
        ----------
        period
            Of the network, per axis, where it is known.
        """
        ndim = grid.region.ndim
        periods = period or (None,) * ndim
        planes = tuple(planes_of(grid, axis, periods[axis]) for axis in range(ndim))
        least, side = _SIDES[ndim]
        while side > least and _cubes(grid.region.shape, side) < _FEWEST:
            side //= 2
        return cls(grid, planes, side)

    @property
    def scales(self) -> tuple[int, ...]:
        """All scales that any axis allows."""
        return tuple(sorted({scale for each in self.planes for scale in each.scales}))

    def bounds(self, axis: int) -> list[int]:
        """Where pieces begin along an axis, and the end of the last."""
        begin, end = self.grid.region.offset[axis], self.grid.region.end[axis]
        cuts = range(floor_to(begin, self.side) + self.side, end, self.side)
        return sorted({begin, end, *self.planes[axis].seams, *cuts})

    def blocks(self, side: int) -> Iterator[Roi]:
        """The region in blocks of whole pieces, of about `side` voxels along each axis."""
        axes = range(self.grid.region.ndim)
        return whole_blocks([self.bounds(axis) for axis in axes], [side for _ in axes])

    def needed(self, block: Roi) -> Roi:
        """What must be read to measure the planes whose second voxel lies in the block."""
        begin, end = list(block.offset), list(block.end)
        for axis, each in enumerate(self.planes):
            reach = 4 * max(each.scales)
            for at in _within(each.positions, block, axis):
                begin[axis] = min(begin[axis], at - reach)
                end[axis] = max(end[axis], at + reach)
        return Roi.from_bounds(begin, end).intersect(self.grid.region)


@dataclass(frozen=True)
class Pieces:
    """Measures of n pieces; of planes that seams are, and of controls.

    Parameters
    ----------
    axis, corner, shape
        Where a piece lies, shapes (n,), (n, d), (n, d); ``corner[axis]`` is the plane's position.
    contrasts, logs, areas
        Sums of the contrasts, of the logarithms of jumps, and the voxels they stand for, by scale,
        shape (n, scales); 0 where a scale was not measured.
    labels
        Counts, in the order of `LABEL_COUNTS`, shape (n, 5).
    """

    axis: NDArray[np.int64]
    corner: NDArray[np.int64]
    shape: NDArray[np.int64]
    contrasts: NDArray[np.float64]
    logs: NDArray[np.float64]
    areas: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.axis)


def measure_pieces(
    layout: Layout,
    field: Dense | None,
    labels: Dense | None,
    *,
    block_bytes: int = _BLOCK_BYTES,
    watch: Callable[[Roi], None] | None = None,
) -> Pieces:
    """Measure all pieces.

    Parameters
    ----------
    field, labels
        What to measure, of one shape; either may be left out.
    block_bytes
        About so much is held of them at a time. Does not change the measures.
    watch
        Told of each block that has been measured.
    """
    ndim, scales = layout.grid.region.ndim, layout.scales
    voxel = 8 + (0 if field is None else 8 * field.channels) + (0 if labels is None else 24)
    side = max(layout.side, int((block_bytes / voxel) ** (1 / ndim)) - 8 * max(scales))
    quiet = np.ones(1) if field is None else quiet_jump(field, layout.grid.region)
    rows: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
    bounds = [layout.bounds(axis) for axis in range(ndim)]
    for block in layout.blocks(side):
        needed = layout.needed(block)
        if any(_within(each.positions, block, k) for k, each in enumerate(layout.planes)):
            dense = None if field is None else field.read(needed)
            marked = None if labels is None else labels.read(needed)[0]
            for axis in range(ndim):
                rows += _block(layout, bounds, axis, block, needed, dense, marked, quiet)
        if watch is not None:
            watch(block)
    return _sorted(rows, ndim, len(scales))


def quiet_jump(field: Dense, region: Roi) -> NDArray[np.float64]:
    """Per channel, a jump that is small beside what it does: a share of its spread all over."""
    side = 8 if region.ndim == 3 else 32
    places = [
        np.unique(np.linspace(o, max(o, o + s - side), 4).astype(int))
        for o, s in zip(region.offset, region.shape, strict=True)
    ]
    spread = []
    for corner in itertools.product(*places):
        box = Roi(tuple(map(int, corner)), (side,) * region.ndim).intersect(region)
        data = field.read(box).astype(np.float64).reshape(field.channels, -1)
        data = data[:, np.isfinite(data).all(axis=0)]
        if data.size:
            spread.append((data.mean(axis=1), data.var(axis=1)))
    if not spread:
        return np.full(field.channels, _QUIET)
    means, variances = (np.stack(each) for each in zip(*spread, strict=True))
    spreads = np.sqrt(means.var(axis=0) + variances.mean(axis=0))
    # A channel that hardly moves is held against the others.
    least = float(spreads.max()) * _QUIET or 1.0
    quiet: NDArray[np.float64] = _QUIET * np.maximum(spreads, least)
    return quiet


def _block(
    layout: Layout,
    bounds: list[list[int]],
    axis: int,
    block: Roi,
    needed: Roi,
    field: NDArray[Any] | None,
    labels: NDArray[Any] | None,
    quiet: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]:
    """All pieces of the planes across one axis in a block."""
    others = [k for k in range(block.ndim) if k != axis]
    inside = block.relative_to(needed).slices
    spans = [bounds[k][bisect_left(bounds[k], block.offset[k]) :] for k in others]
    spans = [
        span[: bisect_left(span, block.end[k]) + 1] for span, k in zip(spans, others, strict=True)
    ]
    starts = [np.asarray(s[:-1], np.int64) - s[0] for s in spans]
    corners = np.stack(np.meshgrid(*(s[:-1] for s in spans), indexing="ij"), -1)
    shapes = np.stack(np.meshgrid(*(np.diff(s) for s in spans), indexing="ij"), -1)
    count = corners[..., 0].size
    for position in _within(layout.planes[axis].positions, block, axis):
        where = np.empty((count, 1 + 2 * block.ndim), np.int64)
        where[:, 0] = axis
        where[:, [1 + k for k in others]] = corners.reshape(count, -1)
        where[:, 1 + axis] = position
        where[:, [1 + block.ndim + k for k in others]] = shapes.reshape(count, -1)
        where[:, 1 + block.ndim + axis] = 1
        at = position - needed.offset[axis]

        def slab(data: NDArray[Any], reach: int, at: int = at) -> NDArray[Any] | None:
            """From some voxels before the plane to some behind it, if they are there."""
            if at < reach or at + reach > needed.shape[axis]:
                return None
            index = [
                slice(at - reach, at + reach) if k == axis else s for k, s in enumerate(inside)
            ]
            lead = data.ndim - len(index)
            found = data[(slice(None),) * lead + tuple(index)]
            return np.moveaxis(found, axis + lead, lead)

        sums = np.zeros((count, 3, len(layout.scales)))
        if field is not None:
            for k, scale in enumerate(layout.scales):
                part = (
                    slab(field, 4 * scale) if layout.planes[axis].allows(position, scale) else None
                )
                if part is not None:
                    sums[:, :, k] = jumps(part, scale, starts, quiet).reshape(3, -1).T
        counts = np.zeros((count, len(LABEL_COUNTS)), np.int64)
        part = None if labels is None else slab(labels, 2)
        if part is not None:
            counts = label_counts(part, starts).reshape(len(LABEL_COUNTS), -1).T
        yield where, sums, counts


def _within(positions: list[int], block: Roi, axis: int) -> list[int]:
    first = bisect_left(positions, block.offset[axis])
    return positions[first : bisect_left(positions, block.end[axis])]


def _sorted(
    rows: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]],
    ndim: int,
    scales: int,
) -> Pieces:
    where = np.concatenate([np.empty((0, 1 + 2 * ndim), np.int64), *(row[0] for row in rows)])
    sums = np.concatenate([np.empty((0, 3, scales)), *(row[1] for row in rows)])
    counts = np.concatenate([np.empty((0, len(LABEL_COUNTS)), np.int64), *(row[2] for row in rows)])
    order = np.lexsort(where[:, ndim::-1].T)
    where, sums, counts = where[order], sums[order], counts[order]
    return Pieces(
        axis=where[:, 0],
        corner=where[:, 1 : 1 + ndim],
        shape=where[:, 1 + ndim :],
        contrasts=sums[:, 0],
        logs=sums[:, 1],
        areas=sums[:, 2],
        labels=counts,
    )


def _cubes(shape: Sequence[int], side: int) -> int:
    count = 1
    for size in shape:
        count *= -(-size // side)
    return count
