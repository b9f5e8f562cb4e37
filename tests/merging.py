"""Merging with everything in memory, and a second opinion on what it must give."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.instances import (
    Decision,
    Districts,
    InstanceTable,
    LabelSettings,
    Merging,
    Order,
    WindowRecord,
    choose_districts,
    final_labels,
    touching,
)

Pair = tuple[int, int]


@dataclass
class Memory:
    """What stages left, as a result's store would keep it."""

    arrays: dict[tuple[str, tuple[int, ...]], Any] = field(default_factory=dict)
    said: dict[str, dict[tuple[int, ...], Any]] = field(default_factory=lambda: defaultdict(dict))

    def load(self, stage: str, index: tuple[int, ...]) -> Any:
        return self.arrays[stage, index]

    def notes(self, stage: str) -> Mapping[tuple[int, ...], Any]:
        return self.said[stage]


@dataclass
class Merged:
    """What merging decided.

    Parameters
    ----------
    pairs
        By the names of two segments that touch: contact voxels, distance, decision.
    ids
        By the name of a segment.
    """

    order: Order
    pairs: dict[Pair, tuple[int, float, Decision]]
    ids: dict[int, int]
    conflicts: int
    table: list[InstanceTable]
    districts: list[dict[str, Any]]
    memory: Memory
    merging: Merging

    @property
    def count(self) -> int:
        return self.order.instances

    def labels(self, provisional: np.ndarray, window: Roi, extent: Sequence[int]) -> np.ndarray:
        grid = self.merging.districts.grid
        index = tuple(o // s for o, s in zip(window.offset, grid.cell_shape, strict=True))
        return final_labels(provisional, window, self.memory.load("merge", index), extent)


def merge_records(
    records: Sequence[WindowRecord],
    settings: LabelSettings,
    *,
    windows_per_district: int | None = None,
    region: Roi | None = None,
    order: random.Random | None = None,
) -> Merged:
    """All stages, each over its cells in any order."""
    extent = records[0].volume_shape
    cells = CellGrid(Roi.whole(extent) if region is None else region, settings.window)
    known = {record.region: record for record in records}
    if windows_per_district is None:
        counts = {cells.index(cell): known[cell].count for cell in cells.cells() if cell in known}
        shape = choose_districts(cells, counts)
    else:
        shape = tuple(size * windows_per_district for size in settings.window)
    memory = Memory()
    districts = CellGrid(cells.region, shape)
    merging = Merging(Districts(cells, extent, districts), settings, known.get, memory)

    def all_cells(stage: str, grid: CellGrid, make: Any) -> None:
        some = list(grid.cells())
        if order is not None:
            order.shuffle(some)
        for cell in some:
            made = make(cell)
            memory.arrays[stage, grid.index(cell)] = made.arrays
            memory.said[stage][grid.index(cell)] = made.notes

    if settings.adopts:
        for level in count(1):
            all_cells(f"adopt {level}", districts, partial(merging.adopt, level))
            if merging.ends(level):
                break
        memory.said["adopted"][()] = {"rounds": level}
    all_cells("contacts", districts, merging.contacts)
    for level in range(1, merging.levels + 1):
        regions = merging.districts.regions(level)
        all_cells(f"unite {level}", regions, lambda cell, at=level: merging.unite(at, cell))
    all_cells("groups", districts, merging.groups)
    walked: dict[str, list[int]] = {}
    if merging.walks:
        for index, number, arrays in merging.walk(lambda _: None):
            memory.arrays["walk", (*index, number)] = arrays
            walked.setdefault("_".join(map(str, index)), []).append(number)
    memory.said["walk"][()] = {"walked": walked}
    all_cells("objects", districts, merging.objects)
    all_cells("totals", districts, merging.totals)

    def keep(number: int, names: np.ndarray) -> None:
        memory.arrays["order", (number,)] = {"names": names}

    found = merging.numbering.order(keep)
    all_cells("merge", districts, lambda cell: merging.merge(cell, found))
    left = [arrays for (stage, _), arrays in memory.arrays.items() if stage == "merge"]
    pairs: dict[Pair, tuple[int, float, Decision]] = {}
    for each in left:
        columns = ("low", "high", "voxels", "distances", "decisions")
        for low, high, voxels, distance, decision in zip(
            *(each[f"pair_{name}"].tolist() for name in columns), strict=True
        ):
            pair = (min(low, high), max(low, high))
            assert pair not in pairs
            pairs[pair] = (voxels, distance, Decision(decision))
    ids: dict[int, int] = {}
    for (stage, index), arrays in memory.arrays.items():
        if stage == "merge":
            names = memory.load("contacts", index)["names"].tolist()
            ids.update(zip(names, arrays["ids"].tolist(), strict=True))
    conflicts = sum(said["conflicts"] for said in memory.said["merge"].values())
    return Merged(
        found, pairs, ids, conflicts, list(merging.numbering.table(found)), left, memory, merging
    )


def expected_ids(records: Sequence[WindowRecord], settings: LabelSettings) -> dict[int, int]:
    """The rule as it is stated, with plain sets: the id of each segment by its name."""
    segments = {
        int(name): (record, row)
        for record in records
        for row, name in enumerate(record.first.tolist())
    }
    candidates = []
    by_offset = {record.region.offset: record for record in records}
    for low in records:
        for axis in range(low.region.ndim):
            beyond = list(low.region.offset)
            beyond[axis] = low.region.end[axis]
            high = by_offset.get(tuple(beyond))
            if high is None:
                continue
            for one, other in touching(low.high[axis], high.low[axis])[0].tolist():
                apart = low.modes[one - 1].astype(float) - high.modes[other - 1].astype(float)
                distance = float(np.sqrt((apart**2).sum()))
                names = sorted((int(low.first[one - 1]), int(high.first[other - 1])))
                if distance <= settings.merge_distance:
                    candidates.append((distance, *names))
    candidates += [(0.0, *sorted(pair)) for pair in _adoptions(records, by_offset).items()]
    objects = {name: {name} for name in segments}
    for _, one, other in sorted(candidates):
        if objects[one] is objects[other]:
            continue
        both = objects[one] | objects[other]
        held: dict[int, set[int]] = defaultdict(set)
        for name in both:
            record, row = segments[name]
            if record.clusters[row] >= 0:
                held[record.key].add(int(record.clusters[row]))
        if settings.exclusive and any(len(clusters) > 1 for clusters in held.values()):
            continue
        for name in both:
            objects[name] = both
    size = {
        id(each): sum(int(segments[name][0].voxels[segments[name][1]]) for name in each)
        for each in objects.values()
    }

    def mode(each: set[int]) -> np.ndarray:
        best = min(each, key=lambda name: (-segments[name][0].voxels[segments[name][1]], name))
        record, row = segments[best]
        return record.modes[row].astype(float)

    background: set[int] = set()
    if settings.source == "embeddings" and settings.background == "largest-cluster" and objects:
        largest = min(objects.values(), key=lambda each: (-size[id(each)], min(each)))
        for name, each in objects.items():
            if np.sqrt(((mode(each) - mode(largest)) ** 2).sum()) <= settings.merge_distance:
                background.add(name)

    def is_stray(name: int) -> bool:
        record, row = segments[name]
        return bool(record.clusters[row] < 0)

    kept = sorted(
        min(each)
        for each in {id(each): each for each in objects.values()}.values()
        if min(each) not in background
        and size[id(each)] >= settings.min_size
        and not all(map(is_stray, each))
    )
    numbers = {name: number for number, name in enumerate(kept, 1)}
    return {name: numbers.get(min(each), 0) for name, each in objects.items()}


def _adoptions(
    records: Sequence[WindowRecord], by_offset: Mapping[tuple[int, ...], WindowRecord]
) -> dict[int, int]:
    """By the name of each stray the name of what adopts it, counted voxel by voxel."""
    shared: dict[int, dict[tuple[bool, int], int]] = defaultdict(lambda: defaultdict(int))
    for low in records:
        for axis in range(low.region.ndim):
            beyond = list(low.region.offset)
            beyond[axis] = low.region.end[axis]
            high = by_offset.get(tuple(beyond))
            if high is None:
                continue
            planes = (low.grown_high[axis].ravel(), high.grown_low[axis].ravel())
            for one, other in zip(*(plane.tolist() for plane in planes), strict=True):
                if not (one and other):
                    continue
                ends = ((low, one - 1), (high, other - 1))
                for (here, row), (there, at) in (ends, ends[::-1]):
                    if here.clusters[row] < 0:
                        key = (bool(there.clusters[at] < 0), int(there.first[at]))
                        shared[int(here.first[row])][key] += 1
    adopted: dict[int, int] = {}
    while True:
        now = {}
        for stray, offers in shared.items():
            may = [o for o in offers if not o[0] or o[1] in adopted]
            if stray not in adopted and may:
                now[stray] = min(may, key=lambda offer: (-offers[offer], offer[1]))[1]
        if not now:
            return adopted
        adopted |= now
