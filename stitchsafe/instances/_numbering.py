"""Ids of merged objects: places in the sorted list of their first voxels.

The list is made slab by slab and kept in portions, so that no step holds the names of all objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._districts import Districts
from stitchsafe.instances._leavings import Left
from stitchsafe.instances._objects import Objects
from stitchsafe.instances._portions import portions
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._table import InstanceTable

__all__ = ["Numbering", "Order"]

Index = tuple[int, ...]
Int64 = NDArray[np.int64]

AT_ONCE = 2**17
"""Names that are sorted, and rows of the table that are made, together."""


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


@dataclass(frozen=True)
class Numbering:
    """Which objects stay, and what their ids are.

    Parameters
    ----------
    districts
        Where objects lie.
    settings
        Background rule and minimum size.
    left
        The stage ``totals``, and once it is there ``order``.
    """

    districts: Districts
    settings: LabelSettings
    left: Left

    def _totals(self, index: Index) -> Objects:
        return Objects.from_arrays(self.left.load("totals", index))

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
        for slab in self.districts.slabs():
            depth = np.zeros(self.districts.depth, np.int64)
            top = slab[0][0] * self.districts.depth
            for index in slab:
                objects = self._totals(index)
                of_background, too_small = self._dropped(objects)
                small, background = small + int(too_small.sum()), background + of_background.sum()
                names = objects.names[~(of_background | too_small)]
                np.add.at(depth, self.districts.slices(names) - top, 1)
            for begin, end in portions(depth, AT_ONCE):
                names = self._names_between(slab, top + begin, top + end)
                if len(names):
                    keep(len(starts), names)
                    starts.append(int(names[0]))
                    counts.append(len(names))
        return Order(tuple(starts), tuple(counts), small, int(background))

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
        planes = self.districts.slices(objects.names)
        return objects.among((begin <= planes) & (planes < end))

    def ids(self, objects: Int64, order: Order) -> NDArray[Any]:
        """Final ids of objects; 0 where they are dropped."""
        ids = np.zeros(len(objects), order.dtype)
        portion = np.searchsorted(np.asarray(order.starts, np.int64), objects, side="right") - 1
        before = np.concatenate([[0], np.cumsum(order.counts)]).astype(np.int64)
        for number in np.unique(portion[portion >= 0]).tolist():
            names = self.left.load("order", (number,))["names"]
            here = np.flatnonzero(portion == number)
            at = np.searchsorted(names, objects[here])
            at[at == len(names)] = 0
            stays = names[at] == objects[here]
            ids[here[stays]] = before[number] + at[stays] + 1
        return ids

    def table(self, order: Order) -> Iterator[InstanceTable]:
        """The instance table, in order of ids, some rows at a time."""
        slabs = {slab[0][0]: slab for slab in self.districts.slabs()}
        before = np.concatenate([[0], np.cumsum(order.counts)])
        for number, first in enumerate(before[:-1].tolist()):
            names = self.left.load("order", (number,))["names"]
            begin, last = self.districts.slices(names[[0, -1]]).tolist()
            parts = []
            for index in slabs[begin // self.districts.depth]:
                objects = self._between_slices(index, begin, last + 1)
                parts.append(objects.among(np.isin(objects.names, names)))
            objects = Objects.union(parts)
            yield InstanceTable.of_objects(objects, first + 1, self.districts.windows.region)
