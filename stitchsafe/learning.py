"""The verb train, which judges by the verb predict while it trains."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events
from stitchsafe.metrics import Scores, evaluate_volumes
from stitchsafe.networks import ModelConfig, network_of
from stitchsafe.pipeline import evaluate, predict
from stitchsafe.training import Labelled, TrainingConfig, TrainingResult
from stitchsafe.training import train as train_judged
from stitchsafe.volumes import Volume, open_volume

__all__ = ["judge", "train"]


def train(
    config: str | Path | TrainingConfig,
    out: str | Path | None = None,
    *,
    events: Events | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a network, or go on with a training that was stopped.

    Validation, where the configuration asks for it, predicts what is kept back by stitching, and
    scores the instances.

    Parameters
    ----------
    config
        A YAML file, a configuration, or a name: ``disks`` or that of a bundled model.
    out
        The run's folder; by default ``runs/NAME`` in the current folder.
    events
        Told about progress.
    **options
        See `stitchsafe.training.train`.

    Returns
    -------
    TrainingResult

    Raises
    ------
    InputError
        If the configuration, the data or the shapes do not fit. Nothing has been written then.
    InterruptedRunError
        If training diverged; the last checkpoint stays.
    """
    return train_judged(config, out, judge=judge, events=events, **options)


def judge(
    module: nn.Module,
    model: ModelConfig,
    data: Labelled,
    thresholds: Sequence[float],
    device: str,
) -> Scores:
    """Predict kept-back data by stitching, and score its instances; not where nothing is known."""
    region = [(o, o + n) for o, n in zip(data.region.offset, data.region.shape, strict=True)]
    size = model.input.voxel_size
    if data.image.voxel_size is None and size is not None:
        known = model.input.model_copy(update={"voxel_size": None})
        model = model.model_copy(update={"input": known})  # as while training: not to be checked
    with tempfile.TemporaryDirectory(prefix="stitchsafe-judged-") as folder:
        out = Path(folder) / "labels.zarr"
        network = network_of(module, model)
        predict(data.image, network, out, roi=region, device=device, image="none")
        if data.ignore is None:
            return evaluate(out, data.labels, thresholds=thresholds)
        found = open_volume(out, image="labels/instances")
        return evaluate_volumes(
            _Known(found, data.labels, data.ignore),
            _Known(data.labels, data.labels, data.ignore),
            thresholds=thresholds,
            roi=data.region,
        )


@dataclass(frozen=True)
class _Known:
    """Labels where something is known, read block by block; 0 elsewhere."""

    labels: Volume
    truth: Volume
    ignore: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.labels.dtype

    def read(self, roi: Roi) -> npt.NDArray[Any]:
        labels = self.labels.read(roi)
        return np.where(self.truth.read(roi) == self.ignore, labels.dtype.type(0), labels)
