"""The verb train, which judges by the verb predict while it trains, and shows by it in the end."""

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
from stitchsafe.networks import ModelConfig, TorchNetwork, network_of
from stitchsafe.pipeline import draw_part, evaluate, predict
from stitchsafe.training import Labelled, Part, Shown, TrainingConfig, TrainingResult, compare
from stitchsafe.training import train as train_judged
from stitchsafe.volumes import Volume, open_volume

__all__ = ["judge", "show", "train"]


def train(
    config: str | Path | TrainingConfig,
    out: str | Path | None = None,
    *,
    events: Events | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a network, or go on with a training that was stopped.

    Validation, where the configuration asks for it, predicts what is kept back by stitching, and
    scores the instances. In the end, a part is predicted, drawn and counted; the same call shows it
    again.

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
    return train_judged(config, out, judge=judge, show=show, events=events, **options)


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


def show(network: TorchNetwork, part: Part, picture: Path, device: str) -> Shown:
    """Predict a part by stitching, and draw what is seen, its field, its labels and the truth."""
    assert network.config is not None
    box, data = part.box(), part.data
    truth = data.know(box)
    box = box.shift(data.region.offset)
    seen = _seen(box, network, data.image.shape)
    # Scaled here, by the statistics of the whole region that it is a part of.
    image = data.intensity.apply(data.image.read(seen)).astype(np.float32)
    given = network.config.input.model_copy(update={"normalize": "none", "voxel_size": None})
    model = network.config.model_copy(update={"input": given})
    made = predict(
        open_volume(image, axes="c" + given.axes),
        network_of(network.module, model),
        roi=box.relative_to(seen),
        save=("labels", "fields"),
        device=device,
    )
    assert made.labels is not None
    shown = Shown(picture, part.where, *compare(made.labels, truth), part.instances)
    raw = image[0][box.relative_to(seen).slices]
    name = next((name for name in made.fields if name == "embedding"), next(iter(made.fields)))
    draw_part(
        picture,
        raw,
        (name, made.fields[name]),
        made.labels,
        truth.clip(0),
        f"{model.name}: {shown}",
    )
    return shown


def _seen(box: Roi, network: TorchNetwork, shape: tuple[int, ...]) -> Roi:
    """What a network sees of a volume to predict a box, from a multiple of its period on."""
    before, after = zip(*network.geometry.context, strict=True)
    grown = box.grow(before, after).align_outward(network.geometry.period)
    return grown.intersect(Roi.whole(shape))
