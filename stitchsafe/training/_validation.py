"""Validation: kept-back data, predicted by stitching and scored as instances.

What counts is not the loss of a window but the labels of a volume, so the network is judged by the
verb predict itself. That lives beside this room, so whoever starts a training hands in a `Judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.metrics import Scores
from stitchsafe.networks import ModelConfig
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig, VolumeConfig
from stitchsafe.training._data_record import DataRecord
from stitchsafe.training._disks import draw_as_said
from stitchsafe.training._labelled import Labelled, intensity_rule
from stitchsafe.training._loop_config import ValidationConfig
from stitchsafe.training._sources import image_files, open_volumes, opened_images
from stitchsafe.volumes import open_volume

__all__ = [
    "Judge",
    "drawn_disks",
    "is_better",
    "mean_scores",
    "open_kept_back",
    "refuse_trained_on",
]

_SIDE = {2: 256, 3: 64}
_OWN_SEED = 2**32 - 1
"""Beside the numbers of steps, so that no synthetic image is ever trained on."""


class Judge(Protocol):
    """Predicts kept-back data with a network and scores the labels."""

    def __call__(
        self,
        module: nn.Module,
        model: ModelConfig,
        data: Labelled,
        thresholds: Sequence[float],
        device: str,
    ) -> Scores: ...


def open_kept_back(
    config: TrainingConfig,
    *,
    folder: Path,
    data: str | Path | None = None,
    record: DataRecord | None = None,
) -> list[Labelled]:
    """What a training is judged by; nothing, where it asks for no validation.

    Parameters
    ----------
    folder
        What a relative path in the configuration is relative to.
    data
        A path to take instead of the training's, in validation too where that names the same.
    record
        What the run knows of its data, those to train on being entered already.

    Raises
    ------
    InputError
        If nothing is kept back, or it does not fit the network, or holds no instance, or is not
        that of the run.
    """
    record = record or DataRecord()
    wish = config.validation
    if wish is None:
        return []
    source, rule = wish.data or config.data, config.input
    if isinstance(source, DisksConfig):
        return [drawn_disks(config, source, wish, number) for number in range(wish.count)]
    instead = data if source.path == getattr(config.data, "path", None) else None
    if isinstance(source, VolumeConfig):
        if wish.data is None:
            raise InputError(
                "validation has no data, and the training has volumes: keep a region or a volume "
                "back, and name it by validation.data"
            )
        least = (1,) * len(rule.axes)
        found = open_volumes(
            source, rule, least, folder=folder, instead=instead, hold=False, record=record
        )
    else:
        path = Path(instead) if instead is not None else folder / source.path
        used, kept = image_files(path, source)
        files = kept if wish.data is None else sorted(used + kept)
        found = opened_images(files, source, rule, record)
    judging = [each for each in found if record.has_instance(each)]
    if not judging:
        raise InputError(
            "nothing that is kept back holds an instance, so the training cannot be judged by it; "
            "give data.keep_back, or other validation.data"
        )
    return judging


def refuse_trained_on(judging: Sequence[Labelled], learning: Sequence[Labelled]) -> None:
    """Refuse to judge a network by what it has learned.

    Raises
    ------
    InputError
        If labels that judge are labels that are trained on.
    """
    for kept in judging:
        for used in learning:
            shared = kept.region.intersect(used.region)
            if kept.name == used.name and shared.size:
                raise InputError(
                    f"validation.data has {shared.size} voxels of {kept.name} that are trained on, "
                    "and says nothing of others; keep them out of data.region, or judge elsewhere"
                )


def drawn_disks(
    config: TrainingConfig, source: DisksConfig, wish: ValidationConfig, number: int
) -> Labelled:
    """A synthetic image that no training draws; each `number` is another one."""
    axes, ndim = config.input.axes, len(config.input.axes)
    shape = wish.size or (_SIDE[ndim],) * ndim
    if len(shape) != ndim:
        raise InputError(f"validation.size {shape} needs one size per axis of {axes}")
    generator = np.random.default_rng((config.seed, _OWN_SEED, number))
    image, labels = draw_as_said(source, shape, generator)
    volume, region = open_volume(image, axes="c" + axes), Roi.whole(shape)
    return Labelled(
        f"synthetic image {number}",
        volume,
        open_volume(labels, axes=axes),
        region,
        intensity_rule(volume, region, config.input),
    )


def mean_scores(scores: Sequence[Scores], threshold: float) -> dict[str, float]:
    """The means over all images: adapted Rand error, VOI's parts and AP at an IoU threshold."""
    rows = [
        {
            "adapted_rand_error": each.adapted_rand_error,
            "voi_split": each.voi_split,
            "voi_merge": each.voi_merge,
            f"ap_{threshold:g}": each.ap[threshold],
        }
        for each in scores
    ]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def is_better(
    scores: Mapping[str, float], best: Mapping[str, float], wish: ValidationConfig
) -> bool:
    """Whether scores are better than the best ones by the score that decides."""
    return _cost(scores, wish) < _cost(best, wish)


def _cost(scores: Mapping[str, float], wish: ValidationConfig) -> float:
    if wish.score == "ap":
        return -scores[f"ap_{wish.threshold:g}"]
    if wish.score == "voi":
        return scores["voi_split"] + scores["voi_merge"]
    return scores["adapted_rand_error"]
