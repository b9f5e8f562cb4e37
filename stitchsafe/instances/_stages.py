"""Instances on the engine's runner: segment each window, merge all, write final labels.

::

    map     segment   fields of a cell -> provisional labels + evidence     (one window per cell)
    reduce  merge     all evidence -> one table of final ids
    map     relabel   provisional labels -> final labels
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import CellIndex, CellRecord, Fields, checksum, load_arrays, save_arrays
from stitchsafe.instances._evidence import Contacts, stream_contacts
from stitchsafe.instances._meanshift import Modes
from stitchsafe.instances._merge import FinalIds, Merge, merge_segments
from stitchsafe.instances._records import SegmentTable, WindowRecord
from stitchsafe.instances._relabel import relabel
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._windows import segment_window
from stitchsafe.volumes import ArrayStore, Place

__all__ = ["SegmentSink", "final_labels", "load_records", "merge_windows"]

_AT_ONCE = 16


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
    nan_is_background, modes
        See `segment_window`.
    """

    def __init__(
        self,
        provisional: ArrayStore,
        place: Callable[[CellIndex], Place],
        cells: CellGrid,
        settings: LabelSettings,
        *,
        nan_is_background: bool = False,
        modes: Modes | None = None,
    ) -> None:
        self.provisional, self.place = provisional, place
        self.cells, self.settings = cells, settings
        self.nan_is_background, self.modes = nan_is_background, modes

    def take(self, cell: Roi, fields: Fields) -> CellRecord:
        segments = segment_window(
            fields,
            settings=self.settings,
            nan_is_background=self.nan_is_background,
            modes=self.modes,
        )
        record = WindowRecord.of_segments(segments, cell, self.provisional.shape)
        self.provisional.write(cell, segments.labels)
        evidence = save_arrays(self.place(self.cells.index(cell)), record.to_arrays())
        return {"checksums": {"provisional": checksum(segments.labels), "evidence": evidence}}

    def skip(self, cell: Roi) -> CellRecord:
        nothing = np.zeros(cell.shape, np.uint32)
        self.provisional.write(cell, nothing)
        return {"checksums": {"provisional": checksum(nothing)}}


def load_records(
    place: Callable[[CellIndex], Place],
    cells: CellGrid,
    entered: Mapping[CellIndex, CellRecord],
) -> Iterator[WindowRecord]:
    """The evidence of all cells in raster order, but of those that were skipped.

    Where reading takes a while, some are read ahead.

    Raises
    ------
    IntegrityError
        If it is not what was entered in the ledger.
    """

    def load(index: CellIndex) -> WindowRecord:
        known = entered[index]["checksums"]["evidence"]
        return WindowRecord.from_arrays(load_arrays(place(index), known))

    indices = map(cells.index, cells.cells())
    wanted = (index for index in indices if not entered[index].get("skipped"))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while batch := list(islice(wanted, _AT_ONCE)):
            yield from (map if place(batch[0]).local else pool.map)(load, batch)


def merge_windows(records: Iterable[WindowRecord], settings: LabelSettings) -> Merge:
    """Unite the segments of all windows, which come in raster order."""
    known, contacts = [], []
    for record, found in stream_contacts(records):
        known.append(record)
        contacts.append(found)
    table = SegmentTable.of_records(known)
    return merge_segments(table, Contacts.concatenate(contacts), settings=settings)


def final_labels(
    labels: NDArray[np.uint32], window: Roi, ids: FinalIds, extent: Sequence[int]
) -> NDArray[Any]:
    """Final labels of a window from its provisional ones.

    Parameters
    ----------
    labels, window
        Local labels, and where they lie.
    ids
        What merging decided.
    extent
        Shape of the volume, whose raster order names windows.
    """
    return relabel(labels, ids.lookup(int(np.ravel_multi_index(window.offset, tuple(extent)))))
