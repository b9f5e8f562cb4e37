"""Segments of all windows become instances.

Two segments of neighbouring windows are *candidates* where they touch and their modes lie within
the bandwidth. Candidates unite in canonical order: by distance of modes, then window and label of
the one, then of the other; but an instance never holds two clusters of one window. Embeddings may
drift, so that A is like B and B like C though A and C are clusters of one window: the closer pair
unites, the other is a *conflict*, refused and counted. Windows in which nothing conflicts need no
order: candidates form groups, and only groups that hold two clusters of one window are walked
through pair by pair.

Only then instances below the minimum size are dropped, background too where it is a cluster, and
ids count from 1 by first voxel in raster order over the volume. The result depends on the set of
windows and contacts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._evidence import Contacts
from stitchsafe.instances._records import SegmentTable
from stitchsafe.instances._settings import LabelSettings

__all__ = [
    "Decision",
    "FinalIds",
    "Merge",
    "MergeEvidence",
    "merge_segments",
    "smallest_dtype",
]

Int64 = NDArray[np.int64]


class Decision(IntEnum):
    """What became of a pair of segments that touch."""

    UNITED = 0
    UNLIKE = 1
    CONFLICT = 2


@dataclass(frozen=True)
class MergeEvidence:
    """One row per pair of segments that touch, in canonical order.

    Parameters
    ----------
    rows
        int64 ``(pairs, 2)``: rows of the segment table, the lower one first.
    voxels
        int64 ``(pairs,)``: faces that they share.
    distances
        float64 ``(pairs,)``: between their modes, in units of the embedding.
    decisions
        uint8 ``(pairs,)`` of :class:`Decision`.
    """

    rows: Int64
    voxels: Int64
    distances: NDArray[np.float64]
    decisions: NDArray[np.uint8]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All content as plain arrays, for an ``.npz``."""
        return {
            "rows": self.rows,
            "voxels": self.voxels,
            "distances": self.distances,
            "decisions": self.decisions,
        }


@dataclass(frozen=True)
class FinalIds:
    """The final id of every segment, found by window.

    Parameters
    ----------
    ids
        ``(rows,)`` unsigned, as small as holds them; 0 for segments that are dropped.
    starts, window_keys
        Of the segment table.
    """

    ids: NDArray[Any]
    starts: Int64
    window_keys: Int64

    def lookup(self, key: int) -> NDArray[Any]:
        """Final id by local label (index 0: background) for the window with this key.

        Raises
        ------
        KeyError
            If no such window was merged.
        """
        index = int(np.searchsorted(self.window_keys, key))
        if index == len(self.window_keys) or self.window_keys[index] != key:
            raise KeyError(f"no window with the key {key}")
        ids = self.ids[self.starts[index] : self.starts[index + 1]]
        return np.concatenate([np.zeros(1, self.ids.dtype), ids])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All content as plain arrays, for an ``.npz``; `from_arrays` restores it."""
        return {"ids": self.ids, "starts": self.starts, "window_keys": self.window_keys}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FinalIds:
        """What `to_arrays` gave, or the opened ``.npz`` of it."""
        return cls(arrays["ids"], arrays["starts"], arrays["window_keys"])


@dataclass(frozen=True)
class Merge:
    """What merging decided.

    Parameters
    ----------
    final
        The final id of every segment.
    count
        Number of instances; ids are 1 to `count`.
    evidence
        What was decided on each contact.
    conflicts
        Candidates that were refused since they would have joined two clusters of one window.
    dropped_small, dropped_background
        Merged objects below the minimum size, and those that the background rule took.
    """

    final: FinalIds
    count: int
    evidence: MergeEvidence
    conflicts: int
    dropped_small: int
    dropped_background: int

    @property
    def ids(self) -> NDArray[Any]:
        """Final id by row of the segment table."""
        return self.final.ids

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the final labels."""
        return self.final.ids.dtype


def smallest_dtype(count: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds ids up to `count`."""
    return np.min_scalar_type(count)


def merge_segments(table: SegmentTable, contacts: Contacts, *, settings: LabelSettings) -> Merge:
    """Unite segments across windows and number the instances.

    Parameters
    ----------
    table
        The segments of all windows.
    contacts
        Of all pairs of windows that share a face, in any order.
    settings
        Bandwidth, background rule and minimum size.
    """
    rows, voxels, distances = _ordered(table, contacts)
    like = distances <= settings.merge_distance
    objects = _groups(rows[like], table.rows)
    if settings.exclusive:
        objects = _without_conflicts(table, rows[like], objects)
    united = objects[rows[:, 0]] == objects[rows[:, 1]] if len(rows) else np.zeros(0, bool)
    decisions = np.full(len(rows), Decision.UNLIKE, np.uint8)
    decisions[like & united] = Decision.UNITED
    decisions[like & ~united] = Decision.CONFLICT

    count = int(objects.max(initial=-1)) + 1
    size = np.zeros(count, np.int64)
    np.add.at(size, objects, table.voxels)
    background = _background(table, objects, size, settings)
    small = (size < settings.min_size) & ~background
    ids, kept = _numbered(table, objects, count, background | small)
    return Merge(
        final=FinalIds(ids, table.starts, table.window_keys),
        count=kept,
        evidence=MergeEvidence(rows, voxels, distances, decisions),
        conflicts=int((decisions == Decision.CONFLICT).sum()),
        dropped_small=int(small.sum()),
        dropped_background=int(background.sum()),
    )


def _ordered(table: SegmentTable, contacts: Contacts) -> tuple[Int64, Int64, NDArray[np.float64]]:
    """Pairs of rows, contact voxels and distances, in canonical order."""
    rows = np.sort(contacts.rows(table), axis=1)
    squared = np.zeros(len(rows))
    for column in table.modes.T.astype(np.float64):  # column by column: a fixed order of sums
        squared += (column[rows[:, 0]] - column[rows[:, 1]]) ** 2
    distances = np.sqrt(squared)
    order = np.lexsort((rows[:, 1], rows[:, 0], distances))
    return rows[order], contacts.voxels[order], distances[order]


def _groups(pairs: Int64, count: int) -> Int64:
    """Group of each row where `pairs` are united."""
    if count == 0:
        return np.zeros(0, np.int64)
    from scipy.sparse import coo_array  # here, as they take a while to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _without_conflicts(table: SegmentTable, pairs: Int64, groups: Int64) -> Int64:
    """Groups again, those that hold two clusters of one window united pair by pair instead."""
    order = np.lexsort((table.clusters, table.windows, groups))
    group, window, cluster = groups[order], table.windows[order], table.clusters[order]
    clash = (group[1:] == group[:-1]) & (window[1:] == window[:-1]) & (cluster[1:] != cluster[:-1])
    if not clash.any():
        return groups
    walked = np.zeros(int(groups.max()) + 1, bool)
    walked[group[1:][clash]] = True
    parent = _walk(table, pairs[walked[groups[pairs[:, 0]]]], np.flatnonzero(walked[groups]))
    # Rows of walked groups get the number of their root, beyond those of all other groups.
    members = np.fromiter(parent, np.int64, len(parent))
    roots = np.fromiter(parent.values(), np.int64, len(parent))
    apart = groups.copy()
    apart[members] = roots + len(walked)
    return np.asarray(np.unique(apart, return_inverse=True)[1].reshape(-1), np.int64)


def _walk(table: SegmentTable, pairs: Int64, rows: Int64) -> dict[int, int]:
    """Root of each of `rows` after uniting `pairs` in order, never two clusters of one window."""
    parent = {int(row): int(row) for row in rows}
    held = {int(r): {int(table.windows[r]): int(table.clusters[r])} for r in rows}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, second in pairs.tolist():
        small, large = root(first), root(second)
        if small == large:
            continue
        if len(held[small]) > len(held[large]):
            small, large = large, small
        ours = held[large]
        if all(ours.get(window, cluster) == cluster for window, cluster in held[small].items()):
            ours.update(held.pop(small))
            parent[small] = large
    return {row: root(row) for row in parent}


def _background(
    table: SegmentTable, objects: Int64, size: Int64, settings: LabelSettings
) -> NDArray[np.bool_]:
    """Which objects are background by the rule of the largest cluster."""
    background = np.zeros(len(size), bool)
    if settings.source != "embeddings" or settings.background != "largest-cluster" or not len(size):
        return background
    # The mode of an object is that of its largest segment; equal ones: the first in the table.
    order = np.lexsort((np.arange(table.rows), -table.voxels, objects))
    largest = order[np.searchsorted(objects[order], np.arange(len(size)))]
    first = np.full(len(size), np.iinfo(np.int64).max)
    np.minimum.at(first, objects, table.first)
    chosen = np.lexsort((first, -size))[0]
    squared = np.zeros(len(size))
    for column in table.modes.T.astype(np.float64):
        squared += (column[largest] - column[largest[chosen]]) ** 2
    result: NDArray[np.bool_] = np.sqrt(squared) <= settings.merge_distance
    return result


def _numbered(
    table: SegmentTable, objects: Int64, count: int, dropped: NDArray[np.bool_]
) -> tuple[NDArray[Any], int]:
    """Ids from 1 by first voxel for the objects that remain."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, objects, table.first)
    kept = np.flatnonzero(~dropped)
    kept = kept[np.argsort(first[kept], kind="stable")]
    ids = np.zeros(count, smallest_dtype(len(kept)))
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[objects], len(kept)
