"""Segments of all windows become instances, district by district.

Two segments of neighbouring windows are *candidates* where they touch and their modes lie within
the bandwidth. Candidates unite in canonical order: by distance of modes, then by name of the one,
then of the other; but an instance never holds two clusters of one window. Embeddings may drift, so
that A is like B and B like C though A and C are clusters of one window: the closer pair unites, the
other is a *conflict*, refused and counted. Where nothing conflicts, order does not matter:
candidates form groups, and only groups that hold two clusters of one window are walked through pair
by pair. Only then instances below the minimum size are dropped, background too where it is a
cluster, and ids count from 1 by first voxel in raster order over the volume.

A segment is named by its first voxel, a group or an object by the smallest name in it, which is
its first voxel too. Windows are merged by *districts*, boxes of whole windows that hold some ten
thousand segments, and no step holds more than a district and what crosses its border::

    map     contacts   pairs that touch, within a district and over its border; its components
    map     unite 1, … twice, four times … as large regions: components that cross borders join
    map     groups     the group of each segment; groups that hold two clusters of a window
    reduce  walk       only these: the objects that they fall into
    map     objects    the object of each segment; what each has in this district
    map     totals     each object, in the district where its first voxel lies
    reduce  order      names of the objects that stay, ascending: the n-th has id n
    map     merge      the id of each segment, and what became of each pair

The result depends on the set of windows alone, not on districts, nor on the order of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from itertools import pairwise, product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.instances._components import Crossings, Renaming, clashing, join
from stitchsafe.instances._contacts import Contacts
from stitchsafe.instances._objects import Objects
from stitchsafe.instances._records import Segments, WindowRecord
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._table import InstanceTable
from stitchsafe.instances._walk import walk

__all__ = [
    "MERGING_BYTES",
    "Arrays",
    "Decision",
    "Left",
    "Made",
    "Merging",
    "Order",
    "choose_districts",
]

Arrays = Mapping[str, NDArray[Any]]
Index = tuple[int, ...]
Int64 = NDArray[np.int64]

DISTRICT_BYTES = 2**25
"""Evidence of a district, unless one window has more."""

MERGING_BYTES = 3 * DISTRICT_BYTES
"""Memory of any stage but the walk, as measured, unless one window has more evidence."""

AT_ONCE = 2**17
"""Names that are sorted, and rows of the table that are made, together."""

WALKED_AT_ONCE = 2**16
"""Segments that are walked together, unless one group has more."""

_SEGMENT_BYTES = 256


class Decision(IntEnum):
    """What became of a pair of segments that touch."""

    UNITED = 0
    UNLIKE = 1
    CONFLICT = 2


class Left(Protocol):
    """What earlier stages have left."""

    def load(self, stage: str, index: Index) -> Arrays:
        """The arrays of one of its cells."""

    def notes(self, stage: str) -> Mapping[Index, Mapping[str, Any]]:
        """What else it said of its cells."""


@dataclass(frozen=True)
class Made:
    """What a stage makes of a cell: arrays to keep, and notes for later stages."""

    arrays: Arrays
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """The objects that stay, in order of their names.

    Parameters
    ----------
    starts, counts
        Of each portion of the names: the first of them, and how many.
    dropped_small, dropped_background
        Merged objects below the minimum size, and those that the background rule took.
    """

    starts: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    dropped_small: int = 0
    dropped_background: int = 0

    @property
    def instances(self) -> int:
        return sum(self.counts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds all ids."""
        return np.min_scalar_type(self.instances)


def choose_districts(cells: CellGrid, segments: Mapping[Index, int]) -> tuple[int, ...]:
    """Shape of districts, in voxels: as many windows as have evidence for one portion of memory.

    Parameters
    ----------
    cells
        The clustering windows.
    segments
        How many each has.
    """
    shape = np.asarray(cells.cell_shape)
    planes = 8 * sum(int(np.prod(np.delete(shape, axis))) for axis in range(len(shape)))
    corner = np.asarray(cells.index(cells.region))
    grid = np.zeros(-(-np.asarray(cells.region.end) // shape) - corner, np.int64)
    for index, count in segments.items():
        grid[tuple(np.asarray(index) - corner)] = count * _SEGMENT_BYTES + planes
    factor = 1
    while (
        factor < max(corner + grid.shape) and _fullest(grid, corner, 2 * factor) <= DISTRICT_BYTES
    ):
        factor *= 2
    return tuple(int(size) * factor for size in shape)


def _fullest(grid: Int64, corner: Int64, factor: int) -> int:
    """The largest sum over boxes of cells, on the grid anchored at 0."""
    for axis, begin in enumerate(corner):
        bounds = np.arange(grid.shape[axis]) + begin
        starts = np.flatnonzero(np.diff(bounds // factor, prepend=-1))
        grid = np.add.reduceat(grid, starts, axis=axis)
    return int(grid.max(initial=0))


@dataclass(frozen=True)
class Merging:
    """The stages of merging, each a pure function of what the earlier ones left.

    Parameters
    ----------
    cells
        The clustering windows.
    extent
        Shape of the volume, whose raster order names segments.
    districts
        Whole windows that are merged together.
    settings
        Bandwidth, background rule and minimum size.
    evidence
        What is known of a window; None of one that a mask leaves out.
    left
        What earlier stages have left.
    """

    cells: CellGrid
    extent: tuple[int, ...]
    districts: CellGrid
    settings: LabelSettings
    evidence: Callable[[Roi], WindowRecord | None]
    left: Left

    @cached_property
    def levels(self) -> int:
        """How often regions double until one is all."""
        level = 0
        while len(list(self.regions(level).cells())) > 1:
            level += 1
        return level

    def regions(self, level: int) -> CellGrid:
        """Regions of a level; those of level 0 are districts."""
        shape = tuple(size << level for size in self.districts.cell_shape)
        return CellGrid(self.districts.region, shape)

    # contacts

    def contacts(self, district: Roi) -> Made:
        """Pairs that touch; components of the district; candidates that cross its border."""
        inside = {cell: self.evidence(cell) for cell in self.cells.cells(district)}
        kept, crossing = [], []
        for (cell, here), axis in product(inside.items(), range(district.ndim)):
            below, above = (self._beside(cell, axis, step) for step in (-1, 1))
            if below is not None:
                record = inside[below] if below in inside else self.evidence(below)
                kept.append(_between(record, here, axis))
                if below not in inside:
                    crossing.append((kept[-1], kept[-1].high, kept[-1].low))
            if above is not None and above not in inside:
                beyond = _between(here, self.evidence(above), axis)
                crossing.append((beyond, beyond.low, beyond.high))
        records = [record for record in inside.values() if record is not None]
        segments = Segments.of_records(records, district.ndim)
        pairs = Contacts.concatenate(kept)
        like = pairs.among(pairs.distances <= self.settings.merge_distance)
        within = np.isin(like.low, segments.names)
        joined = Renaming.of_pairs(np.stack([like.low[within], like.high[within]], axis=1))
        outward = Crossings.concatenate(
            Crossings(own[near], joined(own[near]), other[near])
            for found, own, other in crossing
            for near in [found.distances <= self.settings.merge_distance]
        )
        return Made(
            {
                **segments.to_arrays(),
                "components": joined(segments.names),
                **{f"pair_{name}": column for name, column in vars(pairs).items()},
                **{f"crossing_{name}": column for name, column in vars(outward).items()},
            }
        )

    def _beside(self, cell: Roi, axis: int, step: int) -> Roi | None:
        index = list(self.cells.index(cell))
        index[axis] += step
        found = self.cells.cell_at(index)
        return found if found.size else None

    # groups

    def unite(self, level: int, region: Roi) -> Made:
        """Components of a region, of those of the smaller ones that it is made of."""
        smaller = self.regions(level - 1)
        parts = [
            _crossings(self.left.load(_unite(level - 1), smaller.index(part)))
            for part in smaller.cells(region)
        ]
        crossings = Crossings.concatenate(parts)
        here = self.regions(level).index(region)
        within = (self._at(crossings.other, level) == here).all(axis=1)
        renaming, outward = join(crossings, within)
        crossed = {f"crossing_{name}": column for name, column in vars(outward).items()}
        return Made({**vars(renaming), **crossed})

    def groups(self, district: Roi) -> Made:
        """The group of each segment; groups of which a window here holds two clusters."""
        arrays = self.left.load("contacts", self.districts.index(district))
        segments, groups = Segments.from_arrays(arrays), arrays["components"]
        for level in range(1, self.levels + 1):
            regions = self.regions(level)
            index = tuple(o // s for o, s in zip(district.offset, regions.cell_shape, strict=True))
            known = self.left.load(_unite(level), index)
            groups = Renaming(known["old"], known["new"])(groups)
        clashes = np.zeros(0, np.int64)
        if self.settings.exclusive:
            clashes = clashing(groups, segments.windows, segments.clusters)
        return Made({"groups": groups, "clashes": clashes}, {"clashes": len(clashes)})

    # walk

    @property
    def walks(self) -> bool:
        """Whether any group holds two clusters of a window."""
        return any(notes["clashes"] for notes in self.left.notes("groups").values())

    def walk(self, allowed: Callable[[int], None]) -> Iterator[tuple[Index, int, Arrays]]:
        """Objects of the groups that hold two clusters of a window, some groups at a time.

        Parameters
        ----------
        allowed
            Told of the segments that are walked together, before they are; may raise.

        Yields
        ------
        index, number, arrays
            Of a district and of some groups: names of its segments that are not of the object that
            their group is named by, and the objects that they are of.
        """
        notes = self.left.notes("groups")
        clashes = np.unique(
            np.concatenate(
                [
                    self.left.load("groups", index)["clashes"]
                    for index, said in sorted(notes.items())
                    if said["clashes"]
                ]
            )
        )
        sizes = np.zeros(len(clashes), np.int64)
        for index in sorted(notes):
            groups = self.left.load("groups", index)["groups"]
            np.add.at(sizes, np.searchsorted(clashes, groups[np.isin(groups, clashes)]), 1)
        for number, (begin, end) in enumerate(_portions(sizes, WALKED_AT_ONCE)):
            allowed(int(sizes[begin:end].sum()))
            yield from self._walked(number, clashes[begin:end])

    def _walked(self, number: int, groups: Int64) -> Iterator[tuple[Index, int, Arrays]]:
        names, windows, clusters, among, candidates = [], [], [], [], []
        indices = sorted(self.left.notes("groups"))
        for index in indices:
            arrays = self.left.load("contacts", index)
            segments, of = Segments.from_arrays(arrays), self.left.load("groups", index)["groups"]
            chosen = np.isin(of, groups)
            names.append(segments.names[chosen])
            windows.append(segments.windows[chosen])
            clusters.append(segments.clusters[chosen])
            among.append(of[chosen])
            # A pair belongs to the district of the later window, and both ends to one group.
            found = _contacts(arrays)
            near = found.distances <= self.settings.merge_distance
            candidates.append(found.among(near & np.isin(found.high, names[-1])))
        objects = walk(
            np.concatenate(names),
            np.concatenate(windows),
            np.concatenate(clusters),
            Contacts.concatenate(candidates),
        )
        ends = np.cumsum([len(part) for part in names])[:-1]
        for index, own, group, of in zip(
            indices, names, among, np.split(objects, ends), strict=True
        ):
            order = np.argsort(own, kind="stable")
            changed = order[(group != of)[order]]
            if len(changed):
                yield index, number, {"old": own[changed], "new": of[changed]}

    # objects

    def objects(self, district: Roi) -> Made:
        """The object of each segment, and what objects have here."""
        index = self.districts.index(district)
        segments = Segments.from_arrays(self.left.load("contacts", index))
        names, objects = segments.names, self.left.load("groups", index)["groups"].copy()
        for number in self.left.notes("walk")[()]["walked"].get(_key(index), ()):
            known = self.left.load("walk", (*index, number))
            moved = np.isin(names, known["old"])
            objects[moved] = Renaming(known["old"], known["new"])(names[moved])
        parts = Objects.of_segments(objects, segments)
        homes = {tuple(home) for home in np.unique(self._at(parts.names, 0), axis=0).tolist()}
        return Made(
            {
                "names": names,
                "objects": objects,
                **{f"part_{name}": column for name, column in parts.to_arrays().items()},
            },
            {"homes": sorted(map(list, homes - {index}))},
        )

    @cached_property
    def _senders(self) -> dict[Index, list[Index]]:
        """Districts that hold parts of objects whose first voxel lies in another."""
        senders: dict[Index, list[Index]] = {}
        for index, said in sorted(self.left.notes("objects").items()):
            for home in said["homes"]:
                senders.setdefault(tuple(home), []).append(index)
        return senders

    def totals(self, district: Roi) -> Made:
        """All of the objects whose first voxel lies here."""
        home = self.districts.index(district)
        parts = []
        for index in [home, *self._senders.get(home, ())]:
            arrays = self.left.load("objects", index)
            part = Objects.from_arrays(
                {n.removeprefix("part_"): a for n, a in arrays.items() if n.startswith("part_")}
            )
            parts.append(part.among((self._at(part.names, 0) == home).all(axis=1)))
        found = Objects.union(parts)
        notes = {}
        if found.count:
            most = int(np.argmax(found.voxels))  # of equal ones the first
            notes["largest"] = [int(found.voxels[most]), int(found.names[most])]
        return Made(found.to_arrays(), notes)

    def _totals(self, index: Index) -> Objects:
        return Objects.from_arrays(self.left.load("totals", index))

    # order

    @cached_property
    def _background(self) -> tuple[int, NDArray[np.float32]] | None:
        """Name and mode of the object that background is, where it is a cluster."""
        rule = self.settings
        if rule.source != "embeddings" or rule.background != "largest-cluster":
            return None
        said = self.left.notes("totals")
        most = [(-s["largest"][0], s["largest"][1], i) for i, s in said.items() if "largest" in s]
        if not most:
            return None
        _, name, index = min(most)
        totals = self._totals(index)
        return name, totals.modes[np.searchsorted(totals.names, name)]

    def _dropped(self, objects: Objects) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which objects are background, and which are otherwise too small."""
        background = np.zeros(objects.count, bool)
        if self._background is not None:
            background = objects.like(self._background[1], self.settings)
        return background, (objects.voxels < self.settings.min_size) & ~background

    def order(self, keep: Callable[[int, Int64], None]) -> Order:
        """Put the names of the objects that stay in order.

        Parameters
        ----------
        keep
            Takes the portions of the names, numbered from 0.
        """
        starts: list[int] = []
        counts: list[int] = []
        small = background = 0
        for slab in self._slabs():
            depth = np.zeros(self.districts.cell_shape[0], np.int64)
            top = slab[0][0] * self.districts.cell_shape[0]
            for index in slab:
                objects = self._totals(index)
                of_background, too_small = self._dropped(objects)
                small, background = small + int(too_small.sum()), background + of_background.sum()
                names = objects.names[~(of_background | too_small)]
                np.add.at(depth, names // self._plane - top, 1)
            for begin, end in _portions(depth, AT_ONCE):
                names = self._names_between(slab, top + begin, top + end)
                if len(names):
                    keep(len(starts), names)
                    starts.append(int(names[0]))
                    counts.append(len(names))
        return Order(tuple(starts), tuple(counts), small, int(background))

    def _slabs(self) -> Iterator[list[Index]]:
        """Districts that lie side by side, along the first axis."""
        indices = list(map(self.districts.index, self.districts.cells()))
        for at in sorted({index[0] for index in indices}):
            yield [index for index in indices if index[0] == at]

    @property
    def _plane(self) -> int:
        """Voxels of a slice across the first axis."""
        return int(np.prod(self.extent[1:]))

    def _names_between(self, slab: Sequence[Index], begin: int, end: int) -> Int64:
        """Names of objects that stay and begin in some slices, ascending."""
        found = []
        for index in slab:
            objects = self._between_slices(index, begin, end)
            of_background, too_small = self._dropped(objects)
            found.append(objects.names[~(of_background | too_small)])
        return np.sort(np.concatenate(found))

    def _between_slices(self, index: Index, begin: int, end: int) -> Objects:
        objects = self._totals(index)
        planes = objects.names // self._plane
        return objects.among((begin <= planes) & (planes < end))

    # merge

    def merge(self, district: Roi, order: Order) -> Made:
        """The id of each segment, and what became of each pair."""
        index = self.districts.index(district)
        arrays, objects = self.left.load("contacts", index), self._objects_of(index)
        pairs = _contacts(arrays)
        of_high = _looked_up(*objects, pairs.high)
        of_low = np.full(pairs.count, -1)
        homes = self._at(pairs.low, 0)
        for home in np.unique(homes, axis=0):
            there = (homes == home).all(axis=1)
            known = objects if tuple(home) == index else self._objects_of(tuple(home.tolist()))
            of_low[there] = _looked_up(*known, pairs.low[there])
        united = of_low == of_high
        decisions = np.full(pairs.count, Decision.UNLIKE, np.uint8)
        like = pairs.distances <= self.settings.merge_distance
        decisions[like & united] = Decision.UNITED
        decisions[like & ~united] = Decision.CONFLICT
        ids = self._ids(objects[1], order)
        return Made(
            {
                "keys": arrays["keys"],
                "starts": arrays["starts"],
                "ids": ids,
                **{f"pair_{name}": column for name, column in vars(pairs).items()},
                "pair_decisions": decisions,
            },
            {"conflicts": int((decisions == Decision.CONFLICT).sum())},
        )

    def _objects_of(self, index: Index) -> tuple[Int64, Int64]:
        """Names of a district's segments, and the object of each."""
        arrays = self.left.load("objects", index)
        return arrays["names"], arrays["objects"]

    def _ids(self, objects: Int64, order: Order) -> NDArray[Any]:
        """Final ids of objects; 0 where they are dropped."""
        ids = np.zeros(len(objects), order.dtype)
        portions = np.searchsorted(np.asarray(order.starts, np.int64), objects, side="right") - 1
        before = np.concatenate([[0], np.cumsum(order.counts)]).astype(np.int64)
        for number in np.unique(portions[portions >= 0]).tolist():
            names = self.left.load("order", (number,))["names"]
            here = np.flatnonzero(portions == number)
            at = np.searchsorted(names, objects[here])
            at[at == len(names)] = 0
            stays = names[at] == objects[here]
            ids[here[stays]] = before[number] + at[stays] + 1
        return ids

    def table(self, order: Order) -> Iterator[InstanceTable]:
        """The instance table, in order of ids, some rows at a time."""
        slabs = {slab[0][0]: slab for slab in self._slabs()}
        depth = self.districts.cell_shape[0]
        before = np.concatenate([[0], np.cumsum(order.counts)])
        for number, first in enumerate(before[:-1].tolist()):
            names = self.left.load("order", (number,))["names"]
            begin, end = int(names[0]) // self._plane, int(names[-1]) // self._plane + 1
            parts = []
            for index in slabs[begin // depth]:
                objects = self._between_slices(index, begin, end)
                parts.append(objects.among(np.isin(objects.names, names)))
            objects = Objects.union(parts)
            yield InstanceTable.of_objects(objects, first + 1, self.cells.region)

    def _at(self, names: Int64, level: int) -> Int64:
        """Index of the region of a level in which first voxels lie, int64 ``(names, ndim)``."""
        positions = np.stack(np.unravel_index(names, self.extent), axis=-1)
        return np.asarray(positions // np.asarray(self.regions(level).cell_shape), np.int64)


def _between(low: WindowRecord | None, high: WindowRecord | None, axis: int) -> Contacts:
    """Contacts of two windows, none where one is left out."""
    if low is None or high is None:
        return Contacts.concatenate(())
    return Contacts.between(low, high, axis)


def _unite(level: int) -> str:
    """The stage that leaves the components of a level's regions."""
    return f"unite {level}" if level else "contacts"


def _crossings(arrays: Arrays) -> Crossings:
    return Crossings(*(arrays[f"crossing_{name}"] for name in ("own", "component", "other")))


def _contacts(arrays: Arrays) -> Contacts:
    return Contacts(*(arrays[f"pair_{name}"] for name in ("low", "high", "voxels", "distances")))


def _looked_up(names: Int64, values: Int64, wanted: Int64) -> Int64:
    """The value of each wanted name, all of which are known."""
    order = np.argsort(names, kind="stable")
    return values[order[np.searchsorted(names[order], wanted)]]


def _portions(sizes: Int64, most: int) -> Iterator[tuple[int, int]]:
    """Runs of consecutive sizes that add up to at most so much, or are one."""
    total, bounds = 0, [0]
    for at, size in enumerate(sizes.tolist()):
        if total and total + size > most:
            bounds.append(at)
            total = 0
        total += size
    bounds.append(len(sizes))
    yield from (pair for pair in pairwise(bounds) if pair[1] > pair[0])


def _key(index: Index) -> str:
    return "_".join(map(str, index))
