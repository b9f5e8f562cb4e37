"""The verb evaluate: how labels compare with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stitchsafe.errors import StoreError, VolumeError
from stitchsafe.metrics import Scores, evaluate_volumes
from stitchsafe.pipeline._inputs import VolumeLike
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.volumes import Volume, open_volume

__all__ = ["evaluate"]


def evaluate(
    labels: VolumeLike, truth: VolumeLike, *, thresholds: Sequence[float] = (0.5, 0.75, 0.9)
) -> Scores:
    """Score labels against the truth, streamed.

    Parameters
    ----------
    labels
        A result of predict, any label volume, or an array.
    truth
        A label volume or array of the same shape; its 0 is not scored.
    thresholds
        IoU thresholds of the average precision.

    Returns
    -------
    Scores

    Raises
    ------
    VolumeError
        If either cannot be read, or their shapes differ.
    """
    found, expected = _integers(labels), _integers(truth)
    if found.shape != expected.shape:
        raise VolumeError(
            f"the labels have the shape {found.shape} and the truth {expected.shape}; "
            "give volumes of one shape and level"
        )
    return evaluate_volumes(found, expected, thresholds=thresholds)


def _is_result(source: str | Path) -> bool:
    try:
        return ResultStore.at(source).exists
    except StoreError:
        return False  # what it is, opening it tells


def _integers(source: VolumeLike) -> Volume:
    if isinstance(source, str | Path) and _is_result(source):
        source = ResultStore.at(source).labels
    volume = source if isinstance(source, Volume) else open_volume(source)
    if volume.dtype.kind not in "iu" or volume.channels != 1:
        raise VolumeError(
            f"{volume.path or 'the array'} holds {volume.channels} channel(s) of {volume.dtype}, "
            "and labels are one channel of integers; name the right array"
        )
    return volume
