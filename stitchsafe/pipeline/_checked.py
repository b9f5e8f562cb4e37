"""What a stage reads of an earlier one: refused unless it is what the ledger says was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi, ceil_to
from stitchsafe.engine import CellIndex, CellRecord, checksum
from stitchsafe.errors import IntegrityError
from stitchsafe.volumes import ArrayStore, downsample_labels, finer_region

__all__ = ["CheckedCells", "downsampling"]


@dataclass(frozen=True)
class CheckedCells:
    """Reads cells of an array.

    Parameters
    ----------
    array
        What an earlier stage wrote.
    cells, records
        Its cells, and what the ledger says of them.
    name
        Of the array, in a record.
    """

    array: ArrayStore
    cells: CellGrid
    records: Mapping[CellIndex, CellRecord]
    name: str

    def read(self, cell: Roi) -> NDArray[Any]:
        """A whole cell.

        Raises
        ------
        IntegrityError
            If it does not hold what was written.
        """
        data = self.array.read(cell)
        if checksum(data) != self.records[self.cells.index(cell)]["checksums"][self.name]:
            raise IntegrityError(
                f"{self.array.path} at {cell} no longer holds what was written; the same command "
                "with --repair does that cell again"
            )
        return data


def downsampling(finer: CheckedCells, steps: Sequence[int]) -> Callable[[Roi], NDArray[Any]]:
    """What makes the cells of a level of labels from the level below, one finer cell at a time."""

    def make(cell: Roi) -> NDArray[Any]:
        made = np.zeros(cell.shape, finer.array.dtype)
        for part in finer.cells.cells(finer_region(cell, steps)):
            whole = finer.cells.cell_at(finer.cells.index(part))
            covered = Roi.from_bounds(
                [ceil_to(o, s) // s for o, s in zip(whole.offset, steps, strict=True)],
                [ceil_to(e, s) // s for e, s in zip(whole.end, steps, strict=True)],
            ).intersect(cell)
            if covered.size:
                source = finer_region(covered, steps).relative_to(whole)
                data = downsample_labels(finer.read(whole)[source.slices], steps)
                made[covered.relative_to(cell).slices] = data
        return made

    return make
