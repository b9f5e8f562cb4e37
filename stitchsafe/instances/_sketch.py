"""A binned sketch of points, which any order and any partition of them yields alike.

Positions are rounded to a lattice of 4096 units per bandwidth, anchored at 0; from there on all is
integer. Cells of the sketch are cubes of 1/8 to 1/2 of a bandwidth, anchored at 0 as well; a cell
keeps how many points it holds and the sum of their positions in units. Integer sums do not depend
on order, so the sketch of a union is the merge of sketches, bit for bit.

Positions within 2048 bandwidths of 0 are served: then squared distances and weighted sums stay
below 2**53, so that float64 arithmetic on them, matrix products included, is exact, and neither
the number of threads nor the library behind them can change a result.

A sketch is smaller than its points in up to about 8 dimensions. In more, few points share a cell:
then it is in effect the list of the points, in canonical order and rounded to units, which stays
exact for up to 64 dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import ClusteringError, InputError

__all__ = [
    "LARGEST_DIMENSION",
    "LARGEST_VALUE",
    "UNITS",
    "Sketch",
    "SketchUnion",
    "cell_bits",
    "check_dimensions",
    "check_reach",
    "most_cells",
    "occupied_cells",
    "to_units",
]

UNITS = 4096
"""Units per bandwidth."""

LARGEST_DIMENSION = 64
LARGEST_VALUE = 2048
"""Bandwidths from 0 that positions may lie."""

_REACH = LARGEST_VALUE * UNITS
_DENSE = 2  # entries of a table for each row that is looked up in it
_HELD = 1 << 16  # cells of parts that are not worth uniting yet
_CELL_COPIES = 10  # of a cell while parts are united and modes are found; 7 to 9 were measured
_COUNTED = 2**53 // _REACH
_CELL_BITS = {1: 9, 2: 9, 3: 10, 4: 10}  # log2 of a cell's side in units; 11 in more dimensions

Int64 = NDArray[np.int64]


def to_units(points: NDArray[Any], bandwidth: float) -> Int64:
    """Positions in whole units of ``bandwidth / 4096``.

    Parameters
    ----------
    points
        ``(points, dimensions)``, real.
    bandwidth
        Radius of the kernel, in units of `points`.

    Raises
    ------
    InputError
        For values that are not finite, further than 2048 bandwidths from 0, or of more than 64
        dimensions.
    """
    check_dimensions(points.shape[1])
    scaled = np.multiply(points, UNITS / bandwidth, dtype=np.float64)
    if scaled.size:
        check_reach(float(scaled.min()), float(scaled.max()), bandwidth)
    units: Int64 = np.rint(scaled).astype(np.int64)
    return units


def cell_bits(dimensions: int) -> int:
    """log2 of a cell's side, in units."""
    return _CELL_BITS.get(dimensions, 11)


def most_cells(dimensions: int, memory: int) -> int:
    """How many cells a sketch may have that is clustered within some bytes of memory.

    Of clusters of embeddings it has some thousand.
    """
    return memory // ((2 * dimensions + 1) * 8 * _CELL_COPIES)


def check_dimensions(dimensions: int) -> None:
    """Refuse more dimensions than arithmetic is exact for; see :func:`to_units`."""
    if dimensions > LARGEST_DIMENSION:
        raise InputError(
            f"embeddings have {dimensions} dimensions, more than the {LARGEST_DIMENSION} that "
            "clustering is exact for; train with fewer"
        )


def check_reach(low: float, high: float, bandwidth: float) -> None:
    """Refuse values, in units, that are not finite or out of reach; see :func:`to_units`."""
    reach = max(-low, high)  # NaN fails the comparison below
    if not reach <= _REACH:
        worst = (
            "a value that is not finite"
            if not math.isfinite(reach)
            else (f"a value {reach / UNITS:.4g} bandwidths from 0")
        )
        raise InputError(
            f"embeddings hold {worst}, but clustering with bandwidth {bandwidth:g} reaches "
            "2048 bandwidths; check the network and the bandwidth"
        )


@dataclass(frozen=True)
class Sketch:
    """Occupied cells in lexicographic order.

    Parameters
    ----------
    cells
        int64 ``(cells, dimensions)``: index of each cell on the lattice.
    counts
        int64 ``(cells,)``: points in it.
    sums
        int64 ``(cells, dimensions)``: sum of their positions, in units.
    """

    cells: Int64
    counts: Int64
    sums: Int64

    @classmethod
    def of_units(cls, units: Int64) -> Sketch:
        """The sketch of positions from :func:`to_units`."""
        columns = np.asfortranarray(units)  # several times faster to run over
        cells = columns >> cell_bits(units.shape[1])
        return _gather(cells, np.ones(len(units), np.int64), columns)

    @classmethod
    def union(cls, sketches: Sequence[Sketch]) -> Sketch:
        """The sketch of all their points, in whatever order and grouping they come."""
        if len(sketches) == 1:
            return sketches[0]
        return _gather(
            np.concatenate([each.cells for each in sketches]),
            np.concatenate([each.counts for each in sketches]),
            np.concatenate([each.sums for each in sketches]),
        )

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean position of each cell's points, rounded to whole units."""
        means: NDArray[np.float64] = np.rint(self.sums / self.counts[:, None])
        return means


class SketchUnion:
    """The union of sketches that come one after the other.

    Parts are held until they have as many cells as what is united: so each cell is moved a few
    times only, and memory is a few times that of the union.

    Parameters
    ----------
    dimensions
        Of the points.
    most
        How many cells it may come to have; any number where it is None.
    """

    def __init__(self, dimensions: int, most: int | None = None) -> None:
        self._united = Sketch.of_units(np.zeros((0, dimensions), np.int64))
        self._parts: list[Sketch] = []
        self._most = most

    def add(self, sketch: Sketch) -> None:
        """Add all points of a sketch.

        Raises
        ------
        ClusteringError
            If they are more scattered than there may be cells.
        """
        self._parts.append(sketch)
        held = sum(len(part.counts) for part in self._parts)
        if held >= max(_HELD, len(self._united.counts)):
            self._unite()

    def whole(self) -> Sketch:
        """The union so far."""
        self._unite()
        return self._united

    def _unite(self) -> None:
        if self._parts:
            self._united = Sketch.union([self._united, *self._parts])
            self._parts = []
        cells = len(self._united.counts)
        if self._most is not None and cells > self._most:
            raise ClusteringError(
                f"the embeddings are scattered over more than {self._most} cells of the lattice, "
                "which memory is planned for; cluster with a larger bandwidth, or window by window"
            )


def occupied_cells(units: Int64) -> tuple[Int64, Int64, Int64] | None:
    """Cells that hold positions, unless these are so scattered that cells save nothing.

    Returns
    -------
    cells
        ``(cells, dimensions)``, lexicographic.
    keys
        One integer per cell.
    places
        The key of each position's cell.
    """
    cells = np.asfortranarray(units) >> cell_bits(units.shape[1])
    dense = _dense_keys(cells)
    if dense is None:
        return None
    places, reach = dense
    keys, some = _occupants(places, reach)
    return cells[some], keys, places


def _gather(cells: Int64, counts: Int64, sums: Int64) -> Sketch:
    """Add up the rows of equal cells."""
    if len(cells) == 0:
        return Sketch(cells, counts, sums)
    dense = _dense_keys(cells)
    total = int(counts.sum())
    if dense is not None and total <= _COUNTED:  # then sums in float64 are exact
        keys, reach = dense
        found, some = _occupants(keys, reach)
        held = np.bincount(keys, None if total == len(counts) else counts)[found]
        added = [np.bincount(keys, column)[found] for column in sums.T]
        added_up = np.stack(added, axis=1).astype(np.int64)
        return Sketch(cells[some], held.astype(np.int64), added_up)
    keys = _sparse_keys(cells)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return Sketch(
        cells[order[starts]],
        np.add.reduceat(counts[order], starts),
        np.add.reduceat(sums[order], starts, axis=0),
    )


def _occupants(keys: Int64, reach: int) -> tuple[Int64, Int64]:
    """The distinct keys in order, and where one row of each stands."""
    row = np.full(reach, -1, np.int64)
    row[keys] = np.arange(len(keys))
    distinct = np.flatnonzero(row >= 0)
    return distinct, row[distinct]


def _dense_keys(cells: Int64) -> tuple[Int64, int] | None:
    """One integer per cell, in lexicographic order, below a number that a table can have.

    Counting rows out in tables is several times faster than sorting them. Axes join one by one;
    before the keys outgrow the table, the gaps between those that occur are closed.
    """
    if len(cells) == 0:
        return None
    keys, reach = np.zeros(len(cells), np.int64), 1
    for column in cells.T:
        low = int(column.min())
        size = int(column.max()) - low + 1
        if reach * size > _DENSE * len(cells):
            ranks = np.cumsum(np.bincount(keys, minlength=reach) > 0) - 1
            keys, reach = ranks[keys], int(ranks[-1]) + 1
            if reach * size > _DENSE * len(cells):
                return None
        keys *= size
        keys += column
        keys -= low
        reach *= size
    return keys, reach


def _sparse_keys(cells: Int64) -> Int64:
    """One integer per cell, in lexicographic order."""
    keys, reach = np.zeros(len(cells), np.int64), 1
    for column in cells.T:
        low = int(column.min())
        size = int(column.max()) - low + 1
        if reach * size >= 2**62:  # close the gaps, as above
            ranks, inverse = np.unique(keys, return_inverse=True)
            keys, reach = inverse.astype(np.int64), len(ranks)
        keys *= size
        keys += column
        keys -= low
        reach *= size
    return keys
