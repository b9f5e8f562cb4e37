"""Measures every plane of a grid in pieces, streamed over a field, labels, or both.

A *piece* is a face, or a part of one that is large: of these, faces, families and intervals are
made afterwards. What is measured of a piece depends on the voxels within a few of it and on nothing
else, and each has its place, so blocks change no bit. Kept in memory are one block and the numbers
of all pieces.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi, floor_to
from stitchsafe.discontinuity._across import LABEL_COUNTS, Starts, jumps, label_counts
from stitchsafe.discontinuity._innovation import Innovation, reach_of, samples
from stitchsafe.discontinuity._planes import AxisPlanes, planes_of
from stitchsafe.seam_grid import SeamGrid, whole_blocks, whole_spans

__all__ = ["Dense", "Layout", "Pieces", "measure_pieces", "quiet_jump"]

_FEWEST = 64
_SIDES = {2: (16, 512), 3: (16, 128)}
_LARGEST = {2: 512, 3: 64}  # of a piece, per axis: the least that a block has to hold
_BLOCK_BYTES = 256 * 2**20
_QUIET = 1e-3
_JUMP, _COUNTED = 12, 64  # bytes: of a slab's element, and of a plane's voxel where labels meet
_JUDGED = 700  # bytes of a face while it is judged, the report's row included


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
    channels
        Of the field; 0 where there is none.
    """

    grid: SeamGrid
    planes: tuple[AxisPlanes, ...]
    side: int
    channels: int

    @classmethod
    def of(
        cls, grid: SeamGrid, period: Sequence[int | None] | None = None, channels: int = 0
    ) -> Layout:
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
        return cls(grid, planes, side, channels)

    @property
    def scales(self) -> tuple[int, ...]:
        """All scales that any axis allows; none without a field."""
        if not self.channels:
            return ()
        return tuple(sorted({scale for each in self.planes for scale in each.scales}))

    @cached_property
    def reaches(self) -> tuple[int, ...]:
        """Voxels that innovations are measured from, per axis; 0 where they are not."""
        if not self.channels:
            return (0,) * len(self.planes)
        return tuple(reach_of(each, self.channels) for each in self.planes)

    @property
    def field_measures(self) -> tuple[str, ...]:
        """Names of what is measured of a field, in the order of `Pieces`."""
        innovation = ("innovation",) if any(self.reaches) else ()
        return (*(f"jump@{scale}" for scale in self.scales), *innovation)

    def reach(self, axis: int) -> int:
        """Voxels that are needed on both sides of a plane."""
        jump = 4 * max(self.planes[axis].scales) if self.channels else 0
        return max(2, jump, self.reaches[axis])

    def bounds(self, axis: int) -> list[int]:
        """Where pieces begin along an axis, and the end of the last.

        Faces that are no larger than a piece may be are pieces as they stand.
        """
        side = min(self.side, _LARGEST[self.grid.region.ndim])
        begin, end = self.grid.region.offset[axis], self.grid.region.end[axis]
        cuts = {begin, end, *self.planes[axis].seams}
        for a, b in itertools.pairwise(sorted(cuts)):
            if b - a > side:
                cuts.update(range(floor_to(a, side) + side, b, side))
        return sorted(cuts)

    def blocks(self, side: int) -> Iterator[Roi]:
        """The region in blocks of whole pieces, of about `side` voxels along each axis."""
        axes = range(self.grid.region.ndim)
        return whole_blocks([self.bounds(axis) for axis in axes], [side for _ in axes])

    def needed(self, block: Roi) -> Roi:
        """What must be read to measure the planes whose second voxel lies in the block."""
        spans = [
            self._span(axis, at, end)
            for axis, (at, end) in enumerate(zip(block.offset, block.end, strict=True))
        ]
        return Roi.from_bounds([at for at, _ in spans], [end for _, end in spans])

    def _span(self, axis: int, begin: int, end: int) -> tuple[int, int]:
        """What must be read along an axis for the planes from one voxel up to another."""
        positions, region = self.planes[axis].positions, self.grid.region
        first, last = bisect_left(positions, begin), bisect_left(positions, end)
        if first == last:
            return begin, end
        reach = self.reach(axis)
        return (
            max(region.offset[axis], min(begin, positions[first] - reach)),
            min(region.end[axis], max(end, positions[last - 1] + reach)),
        )

    def kept_bytes(self) -> tuple[int, int]:
        """What the numbers of all pieces take, and what faces take while they are judged."""
        pieces = faces = 0
        for axis, each in enumerate(self.planes):
            others = [k for k in range(self.grid.region.ndim) if k != axis]
            pieces += len(each.positions) * math.prod(len(self.bounds(k)) - 1 for k in others)
            faces += len(each.seams) * math.prod(len(self.grid.bounds(k)) - 1 for k in others)
        values = 20 * len(self.field_measures) + 4 * len(LABEL_COUNTS)
        return pieces * values, faces * _JUDGED

    def block_side(self, field: Dense | None, labels: Dense | None, most: int) -> int:
        """The `side` of the largest blocks that take no more than some bytes, or of the least."""
        side = max(self.grid.region.shape)
        while side > 1 and self.block_bytes(field, labels, side) > most:
            side -= -(-side // 8)
        return side

    def block_bytes(self, field: Dense | None, labels: Dense | None, side: int) -> int:
        """What the largest of the blocks of a side takes while it is measured."""
        ndim = self.grid.region.ndim
        spans = [whole_spans(self.bounds(axis), side) for axis in range(ndim)]
        sides = [max(end - begin for begin, end in each) for each in spans]
        voxels = math.prod(
            max(end - begin for begin, end in (self._span(axis, *span) for span in each))
            for axis, each in enumerate(spans)
        )
        # A slab is as thick as the largest reach, and as wide as the block itself.
        deepest = 2 * max(self.reach(axis) for axis in range(ndim))
        lateral = math.prod(sides) / min(sides)
        taken = 0.0
        if field is not None:
            taken += field.channels * (voxels * field.dtype.itemsize + lateral * deepest * _JUMP)
        if labels is not None:
            taken += voxels * labels.dtype.itemsize + lateral * _COUNTED
        return round(taken)


@dataclass(frozen=True)
class Pieces:
    """Measures of n pieces of every plane across one axis, seams and controls alike.

    Parameters
    ----------
    corner, shape
        Of the pieces, as the first plane has them, shape (n, d). All planes have the same.
    contrasts, logs, areas
        Sums of the contrasts, of the logarithms they are made from, and the voxels they stand for,
        shape (planes, n, measures) by `Layout.field_measures`; 0 where one was not measured.
    labels
        Counts, in the order of `LABEL_COUNTS`, shape (planes, n, 5).
    """

    corner: NDArray[np.int64]
    shape: NDArray[np.int64]
    contrasts: NDArray[np.float64]
    logs: NDArray[np.float64]
    areas: NDArray[np.int32]
    labels: NDArray[np.int32]

    @classmethod
    def empty(cls, layout: Layout, axis: int) -> Pieces:
        """Room for the pieces of an axis."""
        bounds = [np.asarray(layout.bounds(k)) for k in range(layout.grid.region.ndim)]
        positions = layout.planes[axis].positions
        spans = [np.diff(each) for each in bounds]
        begins = [each[:-1] for each in bounds]
        begins[axis], spans[axis] = np.asarray(positions[:1]), np.ones(len(positions[:1]), np.int64)
        corner, shape = (
            np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(-1, len(bounds))
            for each in (begins, spans)
        )
        size = len(positions), len(corner)
        by_measure = (*size, len(layout.field_measures))
        by_count = (*size, len(LABEL_COUNTS))
        return cls(
            corner=corner,
            shape=shape,
            contrasts=np.zeros(by_measure),
            logs=np.zeros(by_measure),
            areas=np.zeros(by_measure, np.int32),
            labels=np.zeros(by_count, np.int32),
        )


def measure_pieces(
    layout: Layout,
    field: Dense | None,
    labels: Dense | None,
    *,
    block_bytes: int = _BLOCK_BYTES,
    watch: Callable[[Roi], None] | None = None,
) -> list[Pieces]:
    """Measure all pieces, by axis.

    Parameters
    ----------
    field, labels
        What to measure, of one shape; either may be left out.
    block_bytes
        So much is held of them at a time, or what the least block takes. Changes no measure.
    watch
        Told of each block that has been measured.
    """
    ndim = layout.grid.region.ndim
    quiet = np.ones(1) if field is None else quiet_jump(field, layout.grid.region)
    bounds = [layout.bounds(axis) for axis in range(ndim)]
    pieces = [Pieces.empty(layout, axis) for axis in range(ndim)]
    innovations = [
        None if field is None else _learned(layout, field, axis, quiet) for axis in range(ndim)
    ]
    for block in layout.blocks(layout.block_side(field, labels, block_bytes)):
        needed = layout.needed(block)
        if any(_within(each.positions, block, k) for k, each in enumerate(layout.planes)):
            dense = None if field is None else field.read(needed)
            marked = None if labels is None else labels.read(needed)[0]
            for axis in range(ndim):
                kind = _Measures(layout, axis, quiet, innovations[axis])
                _block(kind, bounds, pieces[axis], block, needed, dense, marked)
            del dense, marked  # before the next ones are read
        if watch is not None:
            watch(block)
    return pieces


def quiet_jump(field: Dense, region: Roi) -> NDArray[np.float64]:
    """Per channel, a jump that is small beside what it does: a share of its spread all over."""
    side = 8 if region.ndim == 3 else 32
    places = [
        np.unique(np.linspace(o, max(o, o + s - side), 4).astype(int))
        for o, s in zip(region.offset, region.shape, strict=True)
    ]
    parts = []
    for corner in itertools.product(*places):
        box = Roi(tuple(map(int, corner)), (side,) * region.ndim).intersect(region)
        data = field.read(box).astype(np.float64).reshape(field.channels, -1)
        parts.append(data[:, np.isfinite(data).all(axis=0)])
    data = np.concatenate(parts, axis=1)
    if not data.size:
        return np.full(field.channels, _QUIET)
    # Between percentiles, as a single voxel far out would make everything quiet.
    low, high = np.percentile(data, [2, 98], axis=1)
    with np.errstate(over="ignore"):
        spreads = np.where(high > low, (high - low) / 4, np.sqrt(data.var(axis=1)))
    # A channel that hardly moves is held against the others.
    least = float(spreads.max()) * _QUIET or 1.0
    quiet: NDArray[np.float64] = _QUIET * np.maximum(spreads, least)
    return quiet


def _learned(
    layout: Layout, field: Dense, axis: int, quiet: NDArray[np.float64]
) -> Innovation | None:
    """Predictors across an axis, where there is room for them and enough to learn from."""
    reach = layout.reaches[axis]
    if not reach:
        return None
    positions = layout.planes[axis].undisturbed(reach)
    slabs = samples(field, layout.grid.region, axis, positions, reach)
    return Innovation.learned(slabs, reach, quiet)


@dataclass(frozen=True)
class _Measures:
    """What is measured across one axis."""

    layout: Layout
    axis: int
    quiet: NDArray[np.float64]
    innovation: Innovation | None

    def of_field(
        self, position: int, slab: Callable[[int], NDArray[Any] | None], starts: Starts
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Index of each measure that a plane allows, and what it gives."""
        planes = self.layout.planes[self.axis]
        for index, scale in enumerate(self.layout.scales):
            if planes.allows(position, scale) and (part := slab(4 * scale)) is not None:
                yield index, jumps(part, scale, starts, self.quiet)
        found = self.innovation
        if found is not None and planes.has_room(position, found.reach):
            part = slab(found.reach)
            if part is not None:
                yield len(self.layout.scales), found.contrasts(part, starts)


def _block(
    measures: _Measures,
    bounds: list[list[int]],
    pieces: Pieces,
    block: Roi,
    needed: Roi,
    field: NDArray[Any] | None,
    labels: NDArray[Any] | None,
) -> None:
    """Measure all pieces of the planes across one axis in a block."""
    layout, axis = measures.layout, measures.axis
    others = [k for k in range(block.ndim) if k != axis]
    inside = block.relative_to(needed).slices
    spans = [
        slice(bisect_left(bounds[k], block.offset[k]), bisect_left(bounds[k], block.end[k]))
        for k in others
    ]
    begins = (np.asarray(bounds[k][span], np.int64) for k, span in zip(others, spans, strict=True))
    starts = [each - each[0] for each in begins]
    positions = layout.planes[axis].positions
    grid = [len(positions), *(len(bounds[k]) - 1 for k in others)]

    def of(values: NDArray[Any], plane: int) -> NDArray[Any]:
        """The block's part of the values of a plane, (*grid of pieces, …)."""
        part: NDArray[Any] = values.reshape(*grid, values.shape[-1])[plane][tuple(spans)]
        return part

    for position in _within(positions, block, axis):
        plane = bisect_left(positions, position)
        at = position - needed.offset[axis]

        def slab(data: NDArray[Any], at: int, reach: int) -> NDArray[Any] | None:
            """From some voxels before the plane to some behind it, if they are there."""
            if at < reach or at + reach > needed.shape[axis]:
                return None
            index = [
                slice(at - reach, at + reach) if k == axis else s for k, s in enumerate(inside)
            ]
            lead = data.ndim - len(index)
            found = data[(slice(None),) * lead + tuple(index)]
            return np.moveaxis(found, axis + lead, lead)

        if field is not None:
            for k, (contrasts, logs, areas) in measures.of_field(
                position, partial(slab, field, at), starts
            ):
                of(pieces.contrasts, plane)[..., k] = contrasts
                of(pieces.logs, plane)[..., k] = logs
                of(pieces.areas, plane)[..., k] = areas
        part = None if labels is None else slab(labels, at, 2)
        if part is not None:
            of(pieces.labels, plane)[...] = np.moveaxis(label_counts(part, starts), 0, -1)


def _within(positions: list[int], block: Roi, axis: int) -> list[int]:
    first = bisect_left(positions, block.offset[axis])
    return positions[first : bisect_left(positions, block.end[axis])]


def _cubes(shape: Sequence[int], side: int) -> int:
    count = 1
    for size in shape:
        count *= -(-size // side)
    return count
