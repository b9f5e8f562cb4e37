"""The verb evaluate: how labels compare with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events, Silent
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.metrics import Scores, evaluate_volumes
from stitchsafe.pipeline._inputs import VolumeLike
from stitchsafe.pipeline._result import LabelResult, is_result
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import Volume, open_volume

__all__ = ["evaluate"]


def evaluate(
    labels: VolumeLike,
    truth: VolumeLike,
    *,
    thresholds: Sequence[float] = (0.5, 0.75, 0.9),
    grid: Sequence[int] | Literal["auto"] | None = None,
    events: Events | None = None,
) -> Scores:
    """Score labels against the truth, streamed.

    Parameters
    ----------
    labels
        A result of predict, of which what was predicted is scored; any label volume, or an array.
    truth
        A label volume or array of the same shape; its 0 is not scored.
    thresholds
        IoU thresholds of the average precision.
    grid
        Score the seams of this grid too: cells of so many voxels, anchored at the volume's origin.
        ``auto``: those of the cells (clustering windows) and tiles of a result.
    events
        Told of progress.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        If either cannot be read, their shapes differ, the grid is none, or the truth is empty.
    """
    roi: Roi | None = None
    recipe: Recipe | None = None
    if isinstance(labels, Volume) or not is_result(labels):
        found = _integers(labels)
    else:
        result = LabelResult.of(labels)
        found, recipe, roi = result.volume, result.recipe, result.recipe.roi
    expected = _integers(truth)
    if found.shape != expected.shape:
        raise VolumeError(
            f"the labels have the shape {found.shape} and the truth {expected.shape}; "
            "give volumes of one shape and level"
        )
    grids = None if grid is None else _grids(grid, recipe, found)
    events = events or Silent()
    events.stage("evaluate", (roi or Roi.whole(found.shape)).size, "voxels")
    scores = evaluate_volumes(
        found,
        expected,
        thresholds=thresholds,
        roi=roi,
        grids=grids,
        axes=found.axes,
        watch=lambda block: events.advance(block.size),
    )
    if not scores.n_true:
        raise VolumeError(
            f"the truth {expected.path or 'given'} holds no object in {roi or 'all of it'}, so "
            "there is nothing to score; check that it is the right array"
        )
    return scores


def _grids(
    grid: Sequence[int] | str, recipe: Recipe | None, labels: Volume
) -> Mapping[str, tuple[int, ...]]:
    if not isinstance(grid, str):
        cell = tuple(grid)
        if len(cell) != len(labels.shape) or any(size < 1 for size in cell):
            raise InputError(
                f"the grid {cell} does not fit labels of shape {labels.shape}; give one positive "
                f"number of voxels per axis ({','.join(labels.axes)})"
            )
        return {"grid": cell}
    if grid != "auto":
        raise InputError(
            f"the grid cannot be {grid!r}; give voxels per axis, such as 96,96,96, or auto"
        )
    if recipe is None:
        raise InputError(
            f"grid auto is that of a result's recipe, and {labels.path or 'the array'} is no "
            "result of predict; say how the labels were cut, as in 96,96,96"
        )
    return {"cells": recipe.cell_shape, "tiles": recipe.tile_shape}


def _integers(source: Any) -> Volume:
    if not isinstance(source, Volume) and is_result(source):
        return LabelResult.of(source).volume
    volume = source if isinstance(source, Volume) else open_volume(source)
    if volume.dtype.kind not in "iu" or volume.channels != 1:
        raise VolumeError(
            f"{volume.path or 'the array'} holds {volume.channels} channel(s) of {volume.dtype}, "
            "and labels are one channel of integers; name the right array"
        )
    return volume
