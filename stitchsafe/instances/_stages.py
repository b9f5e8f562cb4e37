"""Instances on the engine's runner: what segments a window, and what makes its labels final.

What lies between, the merging of all windows, is :mod:`stitchsafe.instances._merging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import CellIndex, CellRecord, Fields, checksum, load_arrays, save_arrays
from stitchsafe.instances._meanshift import Modes
from stitchsafe.instances._records import WindowRecord
from stitchsafe.instances._relabel import relabel
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._windows import Inside, segment_window
from stitchsafe.volumes import ArrayStore, Place

__all__ = ["SegmentSink", "final_labels", "load_evidence"]


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
    inside
        Which voxels of a cell a mask holds; None without one.
    """

    def __init__(
        self,
        provisional: ArrayStore,
        place: Callable[[CellIndex], Place],
        cells: CellGrid,
        settings: LabelSettings,
        *,
        nan_is_background: bool = False,
        inside: Inside | None = None,
        modes: Modes | None = None,
    ) -> None:
        self.provisional, self.place = provisional, place
        self.cells, self.settings = cells, settings
        self.nan_is_background, self.inside, self.modes = nan_is_background, inside, modes

    def take(self, cell: Roi, fields: Fields) -> CellRecord:
        segments = segment_window(
            fields,
            settings=self.settings,
            nan_is_background=self.nan_is_background,
            inside=None if self.inside is None else self.inside(cell),
            modes=self.modes,
        )
        record = WindowRecord.of_segments(segments, cell, self.provisional.shape)
        self.provisional.write(cell, segments.labels)
        evidence = save_arrays(self.place(self.cells.index(cell)), record.to_arrays())
        checksums = {"provisional": checksum(segments.labels), "evidence": evidence}
        return {"checksums": checksums, "segments": record.count}

    def skip(self, cell: Roi) -> CellRecord:
        nothing = np.zeros(cell.shape, np.uint32)
        self.provisional.write(cell, nothing)
        return {"checksums": {"provisional": checksum(nothing)}, "segments": 0}


def load_evidence(
    place: Callable[[CellIndex], Place],
    cells: CellGrid,
    entered: Mapping[CellIndex, CellRecord],
    cell: Roi,
) -> WindowRecord | None:
    """The evidence of a cell; None of one that was skipped.

    Raises
    ------
    IntegrityError
        If it is not what was entered in the ledger.
    """
    index = cells.index(cell)
    if entered[index].get("skipped"):
        return None
    known = entered[index]["checksums"]["evidence"]
    return WindowRecord.from_arrays(load_arrays(place(index), known))


def final_labels(
    labels: NDArray[np.uint32],
    window: Roi,
    merged: Mapping[str, NDArray[Any]],
    extent: Sequence[int],
) -> NDArray[Any]:
    """Final labels of a window from its provisional ones.

    Parameters
    ----------
    labels, window
        Local labels, and where they lie.
    merged
        What merging left of the window's district: ``keys``, ``starts``, ``ids``.
    extent
        Shape of the volume, whose raster order names windows.

    Raises
    ------
    KeyError
        If the window is not among those that were merged.
    """
    key = int(np.ravel_multi_index(window.offset, tuple(extent)))
    at = int(np.searchsorted(merged["keys"], key))
    if at == len(merged["keys"]) or merged["keys"][at] != key:
        raise KeyError(f"no window with the key {key}")
    ids = merged["ids"][merged["starts"][at] : merged["starts"][at + 1]]
    return relabel(labels, np.concatenate([np.zeros(1, ids.dtype), ids]))
