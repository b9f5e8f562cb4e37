"""Groups of segments that are joined by candidates, found region by region.

The components of a region are known by the smallest name among their segments. A region that is put
together of smaller ones needs of each only its *crossings*: candidates that leave it. What joins
within is a renaming of components; what still leaves goes on to the next larger region. So memory
grows with the border of a region, never with what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._records import STRAY

__all__ = ["Crossings", "Renaming", "clashing", "components", "join"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Renaming:
    """New names of some components; all others keep theirs.

    Parameters
    ----------
    old, new
        int64 ``(renamed,)``; `old` ascending.
    """

    old: Int64
    new: Int64

    @classmethod
    def of_pairs(cls, pairs: Int64) -> Renaming:
        """What uniting pairs of names ``(pairs, 2)`` makes of them: each group gets its smallest.

        It renames those only whose name changes.
        """
        names, groups = components(pairs)
        changed = names != groups
        return cls(names[changed], groups[changed])

    def __call__(self, names: Int64) -> Int64:
        """The names after it."""
        if not len(self.old):
            return names
        at = np.searchsorted(self.old, names)
        at[at == len(self.old)] = 0
        return np.where(self.old[at] == names, self.new[at], names)


@dataclass(frozen=True)
class Crossings:
    """Candidates that leave a region, seen from within.

    Parameters
    ----------
    own, component
        int64 ``(crossings,)``: the segment within, and the component of the region that it is of.
    other
        int64 ``(crossings,)``: the segment beyond.
    """

    own: Int64
    component: Int64
    other: Int64

    @classmethod
    def concatenate(cls, parts: Iterable[Crossings]) -> Crossings:
        """Those of several regions."""
        none = np.zeros(0, np.int64)
        listed = [cls(none, none, none), *parts]
        return cls(
            np.concatenate([part.own for part in listed]),
            np.concatenate([part.component for part in listed]),
            np.concatenate([part.other for part in listed]),
        )

    def among(self, chosen: NDArray[np.bool_]) -> Crossings:
        """Some of them."""
        return Crossings(self.own[chosen], self.component[chosen], self.other[chosen])

    def to_arrays(self) -> dict[str, Int64]:
        """All content as plain arrays, for an ``.npz``; `from_arrays` restores it."""
        return {f"crossing_{name}": column for name, column in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Int64]) -> Crossings:
        """What `to_arrays` gave, among other arrays or alone."""
        return cls(*(arrays[f"crossing_{name}"] for name in ("own", "component", "other")))


def components(pairs: Int64) -> tuple[Int64, Int64]:
    """Names that occur in pairs, ascending, and the smallest name in the group of each."""
    from scipy.sparse import coo_array  # here, as they take a while to import
    from scipy.sparse.csgraph import connected_components

    names, places = np.unique(pairs, return_inverse=True)
    if not len(names):
        return names, names
    places = places.reshape(-1, 2)
    edges = (np.ones(len(places), bool), (places[:, 0], places[:, 1]))
    graph = coo_array(edges, (len(names), len(names)))
    groups = connected_components(graph, directed=False)[1]
    _, first = np.unique(groups, return_index=True)  # the smallest, as names ascend
    return names, names[first][groups]


def join(crossings: Crossings, within: NDArray[np.bool_]) -> tuple[Renaming, Crossings]:
    """Put regions together.

    Parameters
    ----------
    crossings
        Those of all the regions.
    within
        Whether the other segment of each lies in one of them too.

    Returns
    -------
    renaming
        From components of the regions to those of the whole.
    crossings
        What leaves the whole.
    """
    inner = crossings.among(within)
    # Each is there twice, once from either side; side by side in this order.
    order = np.lexsort((np.maximum(inner.own, inner.other), np.minimum(inner.own, inner.other)))
    sides = inner.component[order].reshape(-1, 2)
    renaming = Renaming.of_pairs(sides)
    outer = crossings.among(~within)
    return renaming, Crossings(outer.own, renaming(outer.component), outer.other)


def clashing(groups: Int64, windows: Int64, clusters: NDArray[np.int32]) -> Int64:
    """Groups that hold two clusters of one window, ascending; one entry per segment.

    Strays are of no cluster.
    """
    known = clusters != STRAY
    groups, windows, clusters = groups[known], windows[known], clusters[known]
    order = np.lexsort((clusters, windows, groups))
    group, window, cluster = groups[order], windows[order], clusters[order]
    clash = (group[1:] == group[:-1]) & (window[1:] == window[:-1]) & (cluster[1:] != cluster[:-1])
    return np.unique(group[1:][clash])
