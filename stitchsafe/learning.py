"""The verb train, which judges by the verb predict while it trains."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stitchsafe.engine import Events
from stitchsafe.metrics import Scores
from stitchsafe.networks import ModelConfig, network_of
from stitchsafe.pipeline import evaluate, predict
from stitchsafe.training import KeptBack, TrainingConfig, TrainingResult
from stitchsafe.training import train as train_judged

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
    data: KeptBack,
    thresholds: Sequence[float],
    device: str,
) -> Scores:
    """Predict kept-back data by stitching, and score its instances."""
    with tempfile.TemporaryDirectory(prefix="stitchsafe-judged-") as folder:
        out = Path(folder) / "labels.zarr"
        region = [(o, o + n) for o, n in zip(data.region.offset, data.region.shape, strict=True)]
        predict(
            data.image,
            network_of(module, model),
            out,
            roi=region,
            voxel_size=None if data.image.voxel_size else model.input.voxel_size,
            device=device,
            image="none",
        )
        return evaluate(out, data.labels, thresholds=thresholds)
