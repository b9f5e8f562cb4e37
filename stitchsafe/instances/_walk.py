"""Groups in which candidates conflict, united pair by pair in canonical order."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._contacts import Contacts
from stitchsafe.instances._records import STRAY

__all__ = ["CANDIDATE_BYTES", "SEGMENT_BYTES", "walk"]

Int64 = NDArray[np.int64]

SEGMENT_BYTES, CANDIDATE_BYTES = 250, 110
"""Memory for each segment and each candidate that is walked; as measured, and some more."""

_AT_ONCE = 2**12


def walk(names: Int64, windows: Int64, clusters: NDArray[np.int32], candidates: Contacts) -> Int64:
    """Unite candidates, the closest first, but never two clusters of one window.

    Equal distances are taken in order of the two names, the smaller one first.

    Parameters
    ----------
    names, windows, clusters
        Of each segment. Strays are of no cluster.
    candidates
        Pairs of these segments.

    Returns
    -------
    objects
        int64 ``(segments,)``: the smallest name in the object of each segment.
    """
    known = np.sort(names)
    place = np.argsort(names, kind="stable")
    first = np.minimum(candidates.low, candidates.high)
    second = np.maximum(candidates.low, candidates.high)
    order = np.lexsort((second, first, candidates.distances))
    pairs = np.stack(
        [place[np.searchsorted(known, each[order])] for each in (first, second)], axis=1
    )
    parent = list(range(len(names)))
    window, cluster = windows.tolist(), clusters.tolist()
    held: dict[int, dict[int, int]] = {}  # of roots that hold more than themselves

    def own(row: int) -> dict[int, int]:
        return {} if cluster[row] == STRAY else {window[row]: cluster[row]}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    some = (pairs[begin : begin + _AT_ONCE].tolist() for begin in range(0, len(pairs), _AT_ONCE))
    for one, other in chain.from_iterable(some):
        small, large = root(one), root(other)
        if small == large:
            continue
        ours = held.get(large) or own(large)
        theirs = held.get(small) or own(small)
        if len(theirs) > len(ours):
            small, large, ours, theirs = large, small, theirs, ours
        if all(ours.get(at, which) == which for at, which in theirs.items()):
            ours.update(theirs)
            held.pop(small, None)
            held[large] = ours
            parent[small] = large
    roots = np.fromiter(map(root, range(len(names))), np.int64, len(names))
    least = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(least, roots, names)
    objects: Int64 = least[roots]
    return objects
