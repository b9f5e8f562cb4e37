"""Instances on the engine's runner: segment each window, merge all, write final labels.

::

    map     segment   fields of a cell -> provisional labels + evidence     (one window per cell)
    reduce  merge     all evidence -> one table of final ids
    map     relabel   provisional labels -> final labels
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import CellIndex, CellRecord, Fields, checksum, save_arrays
from stitchsafe.instances._evidence import Contacts, find_contacts, neighbours
from stitchsafe.instances._merge import Merge, merge_segments
from stitchsafe.instances._records import SegmentTable, WindowRecord
from stitchsafe.instances._relabel import relabel
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._windows import segment_window
from stitchsafe.volumes import ArrayStore

__all__ = ["FinalIds", "SegmentSink", "load_records", "merge_windows", "relabel_cells"]


class SegmentSink:
    """Segments the window that a cell is; keeps its labels and what merging needs of them.

    Parameters
    ----------
    provisional
        Takes local labels, uint32 of the volume's shape.
    place
        Where the evidence of a cell goes.
    cells
        The clustering windows.
    settings
        How instances are made.
    """

    def __init__(
        self,
        provisional: ArrayStore,
        place: Callable[[CellIndex], Path],
        cells: CellGrid,
        settings: LabelSettings,
    ) -> None:
        self.provisional, self.place = provisional, place
        self.cells, self.settings = cells, settings

    def take(self, cell: Roi, fields: Fields) -> Mapping[str, str]:
        segments = segment_window(fields, settings=self.settings)
        record = WindowRecord.of_segments(segments, cell, self.provisional.shape)
        self.provisional.write(cell, segments.labels)
        save_arrays(self.place(self.cells.index(cell)), record.to_arrays())
        return {"provisional": checksum(segments.labels)}


def load_records(
    place: Callable[[CellIndex], Path], cells: CellGrid
) -> Iterator[WindowRecord]:
    """The evidence of all cells, in raster order."""
    for cell in cells.cells():
        with np.load(place(cells.index(cell))) as arrays:
            yield WindowRecord.from_arrays(arrays)


def merge_windows(
    records: Iterable[WindowRecord], settings: LabelSettings
) -> tuple[SegmentTable, Merge]:
    """Unite the segments of all windows."""
    known = list(records)
    table = SegmentTable.of_records(known)
    contacts = Contacts.concatenate(
        find_contacts(first, second, axis) for first, second, axis in neighbours(known)
    )
    return table, merge_segments(table, contacts, settings=settings)


@dataclass(frozen=True)
class FinalIds:
    """Final id of every segment, by window.

    Parameters
    ----------
    ids, starts, window_keys
        As in `Merge`.
    volume_shape
        In voxels.
    """

    ids: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    window_keys: NDArray[np.int64]
    volume_shape: tuple[int, ...]

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], volume_shape: tuple[int, ...]
    ) -> FinalIds:
        """What `Merge.to_arrays` gave."""
        return cls(arrays["ids"], arrays["starts"], arrays["window_keys"], volume_shape)

    def of(self, labels: NDArray[np.uint32], window: Roi) -> NDArray[Any]:
        """Final labels of a window from its provisional ones."""
        key = int(np.ravel_multi_index(window.offset, self.volume_shape))
        index = int(np.searchsorted(self.window_keys, key))
        ids = self.ids[self.starts[index] : self.starts[index + 1]]
        return relabel(labels, np.concatenate([np.zeros(1, self.ids.dtype), ids]))


def relabel_cells(
    provisional: ArrayStore, final: ArrayStore, ids: FinalIds
) -> Callable[[Roi, Sequence[Roi]], Iterator[tuple[Roi, CellRecord]]]:
    """Work for the runner: final labels of cells."""

    def work(block: Roi, cells: Sequence[Roi]) -> Iterator[tuple[Roi, CellRecord]]:
        del block
        for cell in cells:
            labels = ids.of(provisional.read(cell), cell)
            final.write(cell, labels)
            yield cell, {"checksums": {"labels": checksum(labels)}}

    return work
