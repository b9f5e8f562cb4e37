"""Where the instances of a labelled region lie, found in one streamed pass.

The region is cut into cells; of every cell are noted the instances in it and their voxels. So an
instance, or a voxel of one, can be drawn evenly by reading one cell, however large the volume.
Cells are anchored at the region and not at the chunks of a file: a copy of the volume in other
chunks gives the same draws. Memory is 24 bytes per instance and cell that it lies in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.training._labelled import Labelled, refuse_negative
from stitchsafe.volumes import pieces

__all__ = ["Census", "has_instance", "take_census"]

_CELL = {2: (256, 256), 3: (64, 64, 64)}

Ids = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]
Watch = Callable[[int], None]


@dataclass(frozen=True)
class Census:
    """Rows of (instance, cell, voxels), by instance.

    Attributes
    ----------
    ids, cells, voxels
        One entry per row: the stored id, the raster number of the cell, how many voxels.
    first
        The row with which each instance begins.
    """

    source: Labelled
    ids: Ids
    cells: Counts
    voxels: Counts
    first: Counts

    @property
    def instances(self) -> int:
        return len(self.first)

    def draw_of_instances(self, generator: np.random.Generator) -> tuple[int, ...]:
        """A voxel of an instance; every instance is as likely, and in it every voxel."""
        chosen = int(generator.integers(self.instances))
        end = self.first[chosen + 1] if chosen + 1 < self.instances else len(self.ids)
        return self._voxel(int(self.first[chosen]), int(end), generator)

    def draw_of_voxels(self, generator: np.random.Generator) -> tuple[int, ...]:
        """A voxel of an instance; every such voxel of the region is as likely."""
        return self._voxel(0, len(self.ids), generator)

    def _voxel(self, begin: int, end: int, generator: np.random.Generator) -> tuple[int, ...]:
        until = np.cumsum(self.voxels[begin:end])
        number = int(generator.integers(int(until[-1])))
        row = int(np.searchsorted(until, number, side="right"))
        before = int(until[row - 1]) if row else 0
        cell = self._cell(int(self.cells[begin + row]))
        stored = self.source.labels.read(cell.shift(self.source.region.offset))[0]
        places = np.flatnonzero(stored == self.ids[begin + row])
        inside = np.unravel_index(int(places[number - before]), stored.shape)
        return tuple(o + int(i) for o, i in zip(cell.offset, inside, strict=True))

    def _cell(self, number: int) -> Roi:
        grid = _grid(self.source.region.shape)
        return grid.cell_at([int(i) for i in np.unravel_index(number, _counts(grid))])


def _grid(shape: Sequence[int]) -> CellGrid:
    return CellGrid(Roi.whole(shape), _CELL[len(shape)])


def _counts(grid: CellGrid) -> tuple[int, ...]:
    return tuple(math.ceil(n / c) for n, c in zip(grid.region.shape, grid.cell_shape, strict=True))


def _parts(source: Labelled, watch: Watch | None = None) -> Iterator[tuple[int, Ids]]:
    """Cells, or parts of them, that are not all background: number and stored labels."""
    grid = _grid(source.region.shape)
    for piece, read in pieces(source.labels, source.region):
        if watch is not None:
            watch(piece.size)
        if not read.any():
            continue
        local = piece.relative_to(source.region)
        for part in grid.cells(local):
            labels = read[0][part.relative_to(local).slices]
            if labels.any():
                number = np.ravel_multi_index(grid.index(part), _counts(grid))
                yield int(number), labels


def _counted(labels: Ids, ignore: int | None) -> tuple[Ids, Counts]:
    """Instances of a part and their voxels."""
    low, high = int(labels.min()), int(labels.max())
    if high - low < 4 * labels.size:
        wide = labels.astype(np.int64) if labels.dtype.kind == "i" else labels
        start = wide.dtype.type(low)
        found = np.bincount((wide - start).reshape(-1).astype(np.int64))
        kept = np.flatnonzero(found)
        ids, voxels = (kept.astype(wide.dtype) + start).astype(labels.dtype), found[kept]
    else:
        ids, voxels = np.unique(labels, return_counts=True)
    instance = ids > 0
    if ignore is not None:
        instance &= ids != ignore
    return ids[instance], voxels[instance].astype(np.int64)


def has_instance(source: Labelled, watch: Watch | None = None) -> bool:
    """Whether the region holds an instance at all.

    Reads no further than to the first; but all of labels that could be negative, which none may be
    but the ignored one.

    Raises
    ------
    VolumeError
        If another is.
    """
    if source.labels.dtype.kind == "u":
        return any(len(_counted(labels, source.ignore)[0]) for _, labels in _parts(source, watch))
    found = False
    for piece, read in pieces(source.labels, source.region):
        refuse_negative(source.name, read[0], piece, source.ignore)
        found = found or len(_counted(read[0], source.ignore)[0]) > 0
        if watch is not None:
            watch(piece.size)
    return found


def take_census(source: Labelled, watch: Watch | None = None) -> Census:
    """Read all labels once; `watch` is told of voxels that were read."""
    rows: list[tuple[Ids, Counts, Counts]] = []
    for number, labels in _parts(source, watch):
        ids, voxels = _counted(labels, source.ignore)
        rows.append((ids, np.full(len(ids), number), voxels))
    if not rows:
        nothing = np.zeros(0, dtype=np.int64)
        return Census(source, nothing, nothing, nothing, nothing)
    ids, cells, voxels = (np.concatenate(column) for column in zip(*rows, strict=True))
    order = np.lexsort((cells, ids))
    ids, cells, voxels = ids[order], cells[order], voxels[order]
    # A cell that was read in several parts has several rows of an instance.
    new = np.flatnonzero((np.diff(ids, prepend=ids[:1]) != 0) | (np.diff(cells, prepend=-1) != 0))
    voxels = np.add.reduceat(voxels, new) if len(new) else voxels
    ids, cells = ids[new], cells[new]
    first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))[: len(ids)]
    return Census(source, ids, cells, voxels, first)
