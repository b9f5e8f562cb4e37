"""Segments of all windows become instances, district by district.

Two segments of neighbouring windows are *candidates* where they touch and their modes lie within
the bandwidth. Candidates unite in canonical order: by distance of modes, then by name of the one,
then of the other; but an instance never holds two clusters of one window. Embeddings may drift, so
that A is like B and B like C though A and C are clusters of one window: the closer pair unites, the
other is a *conflict*, refused and counted. Where nothing conflicts, order does not matter:
candidates form groups, and only groups that hold two clusters of one window are walked through pair
by pair. Only then instances below the minimum size are dropped, background too where it is a
cluster, and ids count from 1 by first voxel in raster order over the volume.

Where segments grow, what none of a window reaches are its *strays*. One that touches segments of
neighbouring windows is *adopted* by the one with which it shares most faces; then those are that
touch adopted ones, and so on, round by round. What nothing adopts becomes background.

A segment is named by its first voxel, a group or an object by the smallest name in it, which is
its first voxel too. Windows are merged by *districts*, boxes of whole windows that hold some ten
thousand segments, and no step holds more than a district and what crosses its border::

    map     adopt 1, … what adopts strays, until nothing does; where segments grow
    map     contacts   pairs that touch, within a district and over its border; its components
    map     unite 1, … twice, four times … as large regions: components that cross borders join
    map     groups     the group of each segment; groups that hold two clusters of a window
    reduce  walk       only these: the objects that they fall into
    map     objects    the object of each segment; what each has in this district
    map     totals     each object, in the district where its first voxel lies
    reduce  order      names of the objects that stay, ascending: the n-th has id n
    map     merge      the id of each segment, and what became of each pair

Where an instance is all of a cluster of the volume, segments of one cluster are one group,
wherever they lie.

The result depends on the set of windows alone, not on districts, nor on the order of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.instances._components import Crossings, Renaming, clashing, join
from stitchsafe.instances._contacts import Contacts, touching
from stitchsafe.instances._districts import Districts
from stitchsafe.instances._leavings import Arrays, Left, Made
from stitchsafe.instances._numbering import Numbering, Order
from stitchsafe.instances._objects import Objects
from stitchsafe.instances._portions import portions
from stitchsafe.instances._records import Segments, WindowRecord
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._walk import CANDIDATE_BYTES, SEGMENT_BYTES, walk

__all__ = ["Decision", "Merging"]

Index = tuple[int, ...]
Int64 = NDArray[np.int64]

WALKED_AT_ONCE = 2**25
"""Memory of groups that are walked together, unless one takes more."""

_NONE = np.zeros(0, np.int64)
_NO_OFFERS = (_NONE, _NONE, _NONE)


class Decision(IntEnum):
    """What became of a pair of segments that touch."""

    UNITED = 0
    UNLIKE = 1
    CONFLICT = 2


@dataclass(frozen=True)
class Merging:
    """The stages of merging, each a pure function of what the earlier ones left.

    Parameters
    ----------
    districts
        Windows, and which of them are merged together.
    settings
        Bandwidth, background rule and minimum size.
    evidence
        What is known of a window; None of one that a mask leaves out.
    left
        What earlier stages have left.
    """

    districts: Districts
    settings: LabelSettings
    evidence: Callable[[Roi], WindowRecord | None]
    left: Left

    @property
    def levels(self) -> int:
        """How often regions are united until one is all; never where contact does not matter."""
        return self.districts.levels if self.settings.parts else 0

    # adopt

    def adopt(self, level: int, district: Roi) -> Made:
        """Strays that touch what was no stray, or was adopted before, and what adopts them."""
        index = self.districts.grid.index(district)
        adopters = lru_cache(maxsize=None)(lambda at: self._adopters(level - 1, at))
        if level == 1:
            cells = list(self.districts.windows.cells(district))
        else:
            waiting = self.left.load(_adopt(level - 1), index)["waiting"]
            cells = self.districts.windows_of(waiting)
        inside = {cell: self.evidence(cell) for cell in cells}
        before = adopters(index)
        own, by, waits = [before.old], [before.new], [_NONE]
        for cell, here in inside.items():
            if here is None or not here.strays.any():
                continue
            offers = [_NO_OFFERS]
            for axis, step in product(range(district.ndim), (-1, 1)):
                beside = self.districts.beside(cell, axis, step)
                there = None if beside is None else self._record(inside, beside)
                if beside is not None and there is not None:
                    known = adopters(self.districts.grid.index(beside))
                    offers.append(_offers(here, there, axis, step, known))
            stray, other, voxels = map(np.concatenate, zip(*offers, strict=True))
            new = ~np.isin(stray, before.old)
            adopted, chosen = _best(stray[new], other[new], voxels[new])
            own.append(adopted)
            by.append(chosen)
            waits.append(np.setdiff1d(here.first[here.strays], np.union1d(before.old, adopted)))
        names, waiting = np.concatenate(own), np.concatenate(waits)
        order = np.argsort(names)
        return Made(
            {"old": names[order], "new": np.concatenate(by)[order], "waiting": waiting},
            {"adopted": len(names) - len(before.old), "waiting": len(waiting)},
        )

    def _adopters(self, level: int, index: Index) -> Renaming:
        """From the strays of a district to what has adopted them up to a round."""
        if not level:
            return Renaming(_NONE, _NONE)
        arrays = self.left.load(_adopt(level), index)
        return Renaming(arrays["old"], arrays["new"])

    def ends(self, level: int) -> bool:
        """Whether no round after this one would adopt anything."""
        said = self.left.notes(_adopt(level)).values()
        return not (sum(s["adopted"] for s in said) and sum(s["waiting"] for s in said))

    @cached_property
    def _rounds(self) -> int:
        return int(self.left.notes("adopted")[()]["rounds"]) if self.settings.adopts else 0

    def _record(self, inside: Mapping[Roi, WindowRecord | None], cell: Roi) -> WindowRecord | None:
        return inside[cell] if cell in inside else self.evidence(cell)

    # contacts

    def contacts(self, district: Roi) -> Made:
        """Pairs that touch; components of the district; candidates that cross its border."""
        inside = {cell: self.evidence(cell) for cell in self.districts.windows.cells(district)}
        adopters = lru_cache(maxsize=None)(lambda index: self._adopters(self._rounds, index))

        def between(low: Roi, high: Roi, axis: int) -> Contacts:
            one, other = (self._record(inside, cell) for cell in (low, high))
            if one is None or other is None:
                return Contacts.concatenate(())
            pairs = Contacts.between(one, other, axis)
            if not (one.strays.any() or other.strays.any()):
                return pairs
            grid = self.districts.grid
            known = (adopters(grid.index(low)), adopters(grid.index(high)))
            return Contacts.concatenate([pairs, Contacts.adopting(one, other, axis, known)])

        kept, crossing = [], []
        for cell, axis in product(inside, range(district.ndim)):
            below, above = (self.districts.beside(cell, axis, step) for step in (-1, 1))
            if below is not None:
                kept.append(between(below, cell, axis))
                if below not in inside:
                    crossing.append((kept[-1], kept[-1].high, kept[-1].low))
            if above is not None and above not in inside:
                beyond = between(cell, above, axis)
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
                **outward.to_arrays(),
            },
            {} if self.settings.parts else {"firsts": _first_names(segments)},
        )

    # groups

    def unite(self, level: int, region: Roi) -> Made:
        """Components of a region, of those of the smaller ones that it is made of."""
        smaller = self.districts.regions(level - 1)
        parts = [
            Crossings.from_arrays(self.left.load(_unite(level - 1), smaller.index(part)))
            for part in smaller.cells(region)
        ]
        crossings = Crossings.concatenate(parts)
        here = self.districts.regions(level).index(region)
        within = (self.districts.homes(crossings.other, level) == here).all(axis=1)
        renaming, outward = join(crossings, within)
        return Made({**vars(renaming), **outward.to_arrays()})

    @cached_property
    def _firsts(self) -> Int64:
        """The smallest name in each cluster of the volume."""
        said = [notes["firsts"] for notes in self.left.notes("contacts").values()]
        firsts = np.full(max(map(len, said), default=0), np.iinfo(np.int64).max)
        for known in said:
            firsts[: len(known)] = np.minimum(firsts[: len(known)], np.asarray(known, np.int64))
        return firsts

    def groups(self, district: Roi) -> Made:
        """The group of each segment; groups of which a window here holds two clusters."""
        arrays = self.left.load("contacts", self.districts.grid.index(district))
        segments, groups = Segments.from_arrays(arrays), arrays["components"]
        if not self.settings.parts:
            return Made(
                {"groups": self._firsts[segments.clusters], "clashes": _NONE}, {"clashes": 0}
            )
        for level in range(1, self.levels + 1):
            regions = self.districts.regions(level)
            index = tuple(o // s for o, s in zip(district.offset, regions.cell_shape, strict=True))
            known = self.left.load(_unite(level), index)
            groups = Renaming(known["old"], known["new"])(groups)
        clashes = _NONE
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
            Told of the memory that it takes to walk through some groups together, in bytes, before
            they are; may raise.

        Yields
        ------
        index, number, arrays
            Of a district and of some groups: names of its segments that are not of the object that
            their group is named by, and the objects that they are of.
        """
        notes = self.left.notes("groups")
        some = [index for index, said in sorted(notes.items()) if said["clashes"]]
        clashes = np.unique(
            np.concatenate([self.left.load("groups", index)["clashes"] for index in some])
        )
        sizes, held = np.zeros(len(clashes), np.int64), dict[Index, Int64]()
        for index in sorted(notes):
            _, groups, candidates = self._candidates(index)
            for among, size in ((groups, SEGMENT_BYTES), (candidates[1], CANDIDATE_BYTES)):
                places = np.searchsorted(clashes, among[np.isin(among, clashes)])
                np.add.at(sizes, places, size)
            held[index] = np.unique(np.searchsorted(clashes, groups[np.isin(groups, clashes)]))
        for number, (begin, end) in enumerate(portions(sizes, WALKED_AT_ONCE)):
            allowed(int(sizes[begin:end].sum()))
            holds = [i for i, at in held.items() if np.diff(np.searchsorted(at, [begin, end]))]
            yield from self._walked(number, clashes[begin:end], holds)

    def _candidates(self, index: Index) -> tuple[Segments, Int64, tuple[Contacts, Int64]]:
        """Segments of a district with their groups, and candidates with theirs.

        A pair belongs to the district of the later window, and both of its ends to one group.
        """
        arrays = self.left.load("contacts", index)
        segments, groups = Segments.from_arrays(arrays), self.left.load("groups", index)["groups"]
        pairs = _contacts(arrays)
        like = pairs.among(pairs.distances <= self.settings.merge_distance)
        return segments, groups, (like, _looked_up(segments.names, groups, like.high))

    def _walked(
        self, number: int, chosen: Int64, indices: Sequence[Index]
    ) -> Iterator[tuple[Index, int, Arrays]]:
        names, windows, clusters, among, candidates = [], [], [], [], []
        for index in indices:
            segments, groups, (pairs, of_pairs) = self._candidates(index)
            here = np.isin(groups, chosen)
            names.append(segments.names[here])
            windows.append(segments.windows[here])
            clusters.append(segments.clusters[here])
            among.append(groups[here])
            candidates.append(pairs.among(np.isin(of_pairs, chosen)))
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
        index = self.districts.grid.index(district)
        segments = Segments.from_arrays(self.left.load("contacts", index))
        names, objects = segments.names, self.left.load("groups", index)["groups"].copy()
        for number in self.left.notes("walk")[()]["walked"].get(_key(index), ()):
            known = self.left.load("walk", (*index, number))
            moved = np.isin(names, known["old"])
            objects[moved] = Renaming(known["old"], known["new"])(names[moved])
        parts = Objects.of_segments(objects, segments)
        homes = np.unique(self.districts.homes(parts.names), axis=0).tolist()
        return Made(
            {
                "names": names,
                "objects": objects,
                **{f"part_{name}": column for name, column in parts.to_arrays().items()},
            },
            {"homes": [home for home in homes if tuple(home) != index]},
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
        home = self.districts.grid.index(district)
        parts = []
        for index in [home, *self._senders.get(home, ())]:
            arrays = self.left.load("objects", index)
            part = Objects.from_arrays(
                {n.removeprefix("part_"): a for n, a in arrays.items() if n.startswith("part_")}
            )
            parts.append(part.among((self.districts.homes(part.names) == home).all(axis=1)))
        found = Objects.union(parts)
        found = found.among(found.largest > 0)  # not strays that nothing adopts
        notes = {}
        if found.count:
            most = int(np.argmax(found.voxels))  # of equal ones the first
            notes["largest"] = [int(found.voxels[most]), int(found.names[most])]
        return Made(found.to_arrays(), notes)

    # ids

    @cached_property
    def numbering(self) -> Numbering:
        """Which of the objects stay, and what their ids are."""
        return Numbering(self.districts, self.settings, self.left)

    def merge(self, district: Roi, order: Order) -> Made:
        """The id of each segment, and what became of each pair."""
        index = self.districts.grid.index(district)
        arrays, objects = self.left.load("contacts", index), self._objects_of(index)
        pairs = _contacts(arrays)
        of_high = _looked_up(*objects, pairs.high)
        of_low = np.full(pairs.count, -1)
        homes = self.districts.homes(pairs.low)
        for home in np.unique(homes, axis=0):
            there = (homes == home).all(axis=1)
            known = objects if tuple(home) == index else self._objects_of(tuple(home.tolist()))
            of_low[there] = _looked_up(*known, pairs.low[there])
        united = of_low == of_high
        decisions = np.full(pairs.count, Decision.UNLIKE, np.uint8)
        like = pairs.distances <= self.settings.merge_distance
        decisions[like & united] = Decision.UNITED
        decisions[like & ~united] = Decision.CONFLICT
        ids = self.numbering.ids(objects[1], order)
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


def _offers(
    here: WindowRecord, there: WindowRecord, axis: int, step: int, known: Renaming
) -> tuple[Int64, Int64, Int64]:
    """What of the window beside may adopt strays of a window: both names, and faces they share."""
    if step > 0:
        labels, voxels = touching(here.grown_high[axis], there.grown_low[axis])
    else:
        labels, voxels = touching(there.grown_high[axis], here.grown_low[axis])
        labels = labels[:, ::-1]
    own, other = (labels - 1).T
    names = there.first[other]
    may = here.strays[own] & (~there.strays[other] | np.isin(names, known.old))
    return here.first[own[may]], names[may], voxels[may]


def _best(stray: Int64, other: Int64, voxels: Int64) -> tuple[Int64, Int64]:
    """Of the offers to each stray the one with most faces, of equal ones the first by name."""
    order = np.lexsort((other, -voxels, stray))
    names, first = np.unique(stray[order], return_index=True)
    return names, other[order][first]


def _first_names(segments: Segments) -> list[int]:
    """The smallest name in each cluster, by its number; the largest integer where there is none."""
    firsts = np.full(int(segments.clusters.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(firsts, segments.clusters, segments.names)
    return firsts.tolist()


def _adopt(level: int) -> str:
    """The stage of a round of adoption."""
    return f"adopt {level}"


def _unite(level: int) -> str:
    """The stage that leaves the components of a level's regions."""
    return f"unite {level}" if level else "contacts"


def _contacts(arrays: Arrays) -> Contacts:
    return Contacts(*(arrays[f"pair_{name}"] for name in ("low", "high", "voxels", "distances")))


def _looked_up(names: Int64, values: Int64, wanted: Int64) -> Int64:
    """The value of each wanted name, all of which are known."""
    order = np.argsort(names, kind="stable")
    return values[order[np.searchsorted(names[order], wanted)]]


def _key(index: Index) -> str:
    return "_".join(map(str, index))
