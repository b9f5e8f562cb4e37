"""Scores of two label volumes that need not fit into memory.

Both are read block by block over the same grid; only the contingency table stays, and what has
been counted at the seams of a grid, where one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.errors import VolumeError
from stitchsafe.metrics._contingency import Contingency, PairCounter
from stitchsafe.metrics._scores import (
    adapted_rand_error,
    average_precision,
    variation_of_information,
)
from stitchsafe.metrics._seams import SeamScores, SeamTally
from stitchsafe.seam_grid import SeamGrid

__all__ = ["THRESHOLDS", "LabelVolume", "Scores", "evaluate_volumes"]

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


class LabelVolume(Protocol):
    """Labels of one channel that can be read by regions."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, roi: Roi) -> npt.NDArray[Any]:
        """A region, shape ``roi.shape`` or ``(1, *roi.shape)``."""


@dataclass(frozen=True)
class Scores:
    """All scores of one comparison.

    Parameters
    ----------
    adapted_rand_error, rand_precision, rand_recall
        Over the voxels whose true label is not 0.
    voi_split, voi_merge
        Bits.
    ap
        Average precision by IoU threshold.
    n_true, n_pred
        Instances; 0 is background.
    seams
        What the seams of a grid have split and merged, where one was given.
    """

    adapted_rand_error: float
    rand_precision: float
    rand_recall: float
    voi_split: float
    voi_merge: float
    ap: dict[float, float]
    n_true: int
    n_pred: int
    seams: SeamScores | None = None

    @classmethod
    def of(
        cls,
        table: Contingency,
        *,
        thresholds: Sequence[float] = THRESHOLDS,
        ignore_background: bool = True,
    ) -> Scores:
        """The scores of a table.

        Parameters
        ----------
        ignore_background
            Leave voxels of true label 0 out of the variation of information, as out of the adapted
            Rand error always. Average precision needs and keeps them.
        """
        rand = adapted_rand_error(table)
        voi = variation_of_information(table, ignore_background=ignore_background)
        return cls(
            adapted_rand_error=rand.error,
            rand_precision=rand.precision,
            rand_recall=rand.recall,
            voi_split=voi.split,
            voi_merge=voi.merge,
            ap=average_precision(table, thresholds),
            n_true=int(np.count_nonzero(table.truth_sizes()[0])),
            n_pred=int(np.count_nonzero(table.predicted_sizes()[0])),
        )

    def to_json(self) -> dict[str, Any]:
        """The keys that ``stitchsafe evaluate --json`` prints."""
        return {
            "adapted_rand_error": self.adapted_rand_error,
            "voi_split": self.voi_split,
            "voi_merge": self.voi_merge,
            "ap": {f"{threshold:g}": value for threshold, value in self.ap.items()},
            "n_true": self.n_true,
            "n_pred": self.n_pred,
            "seams": None if self.seams is None else self.seams.to_json(),
        }


def evaluate_volumes(
    labels: LabelVolume,
    truth: LabelVolume,
    *,
    block_shape: Sequence[int] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    ignore_background: bool = True,
    roi: Roi | None = None,
    grids: Mapping[str, Sequence[int]] | None = None,
    axes: str = "",
    watch: Callable[[Roi], None] | None = None,
) -> Scores:
    """Compare two label volumes, streamed.

    Parameters
    ----------
    labels, truth
        Of one shape, and of whole numbers.
    block_shape
        Voxels read at once, some 16 million by default; about as many, where seams are scored.
        Does not change the scores.
    thresholds
        Of IoU for the average precision.
    ignore_background
        See :meth:`Scores.of`.
    roi
        The only region to compare; all by default.
    grids
        Cell shapes of grids whose seams are scored too, by name, the coarser first; see
        `SeamGrid`.
    axes
        Letters of the axes, by which seams are named; by default the last ones of ``zyx``.
    watch
        Told of each block that has been compared.

    Raises
    ------
    VolumeError
        The shapes differ, one of the volumes holds no labels, or a grid has other axes.
    """
    if labels.shape != truth.shape:
        raise VolumeError(
            f"the labels have the shape {labels.shape} and the truth {truth.shape}, so they "
            "cannot be compared; give the same region of the same volume"
        )
    for name, volume in (("labels", labels), ("truth", truth)):
        if volume.dtype.kind not in "bui":
            raise VolumeError(
                f"the {name} are of type {volume.dtype}, not whole numbers; give a label volume"
            )
    roi = Roi.whole(labels.shape) if roi is None else roi
    block = _default_block(labels.shape) if block_shape is None else tuple(block_shape)
    counter, tally = PairCounter(), None
    blocks = grid_cells(roi, block)
    try:
        if grids is not None:
            grid = SeamGrid({name: tuple(cell) for name, cell in grids.items()}, roi)
            tally, blocks = SeamTally(grid), grid.blocks(block)
        for cell in blocks:
            needed = cell if tally is None else tally.needed(cell)
            pair = _plain(labels, needed, "labels"), _plain(truth, needed, "truth")
            if tally is not None:
                tally.add(cell, *pair)
            inner = cell.relative_to(needed).slices
            counter.add(*(each[inner] for each in pair))
            if watch is not None:
                watch(cell)
    except ValueError as error:
        raise VolumeError(f"the volumes cannot be compared: {error}") from error
    scores = Scores.of(counter.table(), thresholds=thresholds, ignore_background=ignore_background)
    if tally is None:
        return scores
    return replace(scores, seams=tally.scores(axes or "zyx"[-len(labels.shape) :]))


def _default_block(shape: tuple[int, ...]) -> tuple[int, ...]:
    side = 256 if len(shape) > 2 else 4096
    return tuple(min(side, max(1, size)) for size in shape)


def _plain(volume: LabelVolume, cell: Roi, name: str) -> npt.NDArray[Any]:
    data = volume.read(cell)
    if data.shape == (1, *cell.shape):
        data = data[0]
    if data.shape != cell.shape:
        raise VolumeError(
            f"the {name} have {data.shape[0]} channels, and labels have one; choose with --channel"
        )
    return data
