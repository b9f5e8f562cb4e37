"""Validation: kept-back data, predicted by stitching and scored as instances.

What counts is not the loss of a window but the labels of a volume, so the network is judged by the
verb predict itself. That lives beside this room, so whoever starts a training hands in a `Judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.metrics import Scores
from stitchsafe.networks import ModelConfig
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig, ImagesConfig, VolumeConfig
from stitchsafe.training._disks import draw_disks
from stitchsafe.training._examples import image_files, to_channels
from stitchsafe.training._loop_config import ValidationConfig
from stitchsafe.volumes import Volume, open_volume

__all__ = ["Judge", "KeptBack", "is_better", "mean_scores", "open_kept_back"]

_SIDE = {2: 256, 3: 64}
_OWN_SEED = 2**32 - 1
"""Beside the numbers of steps, so that no synthetic image is ever trained on."""


@dataclass(frozen=True)
class KeptBack:
    """A labelled image to be judged by.

    Attributes
    ----------
    name
        For messages.
    image
        ``(c, *spatial)``, intensities as they are.
    labels
        Of the same spatial shape; 0 is background.
    region
        What of them is judged.
    """

    name: str
    image: Volume
    labels: Volume
    region: Roi


class Judge(Protocol):
    """Predicts kept-back data with a network and scores the labels."""

    def __call__(
        self,
        module: nn.Module,
        model: ModelConfig,
        data: KeptBack,
        thresholds: Sequence[float],
        device: str,
    ) -> Scores: ...


def open_kept_back(
    config: TrainingConfig, *, folder: Path, data: str | Path | None = None
) -> list[KeptBack]:
    """What a training is judged by; nothing, where it asks for no validation.

    Parameters
    ----------
    folder
        What a relative path in the configuration is relative to.
    data
        A path to take instead of the configuration's, where validation has no data of its own.

    Raises
    ------
    InputError
        If nothing is kept back, or it holds no instance.
    """
    wish = config.validation
    if wish is None:
        return []
    source = wish.data or config.data
    path = Path(data) if data is not None and wish.data is None else None
    if isinstance(source, DisksConfig):
        found = [_drawn(config, source, wish, number) for number in range(wish.count)]
    elif isinstance(source, VolumeConfig):
        if wish.data is None:
            raise InputError(
                "validation has no data, and the training has one volume: keep a region of it back "
                "and name it by validation.data"
            )
        found = [_volume(source, path or folder / source.path)]
    else:
        found = _images(config, source, path or folder / source.path, own=wish.data is not None)
    for each in found:
        _refuse_unfit(each, config)
    return found


def _drawn(
    config: TrainingConfig, source: DisksConfig, wish: ValidationConfig, number: int
) -> KeptBack:
    ndim = len(config.input.axes)
    shape = wish.size or (_SIDE[ndim],) * ndim
    if len(shape) != ndim:
        raise InputError(f"validation.size {shape} needs one size per axis of {config.input.axes}")
    generator = np.random.default_rng((config.seed, _OWN_SEED, number))
    settings = source.model_dump(exclude={"kind", "elastic"})
    elastic = source.elastic.of(ndim, "data.elastic") if source.elastic else None
    image, labels = draw_disks(shape, generator, elastic=elastic, **settings)
    return _of_arrays(f"synthetic image {number}", image, labels, config)


def _volume(source: VolumeConfig, path: Path) -> KeptBack:
    image = open_volume(f"{path}:{source.image}")
    labels = open_volume(f"{path}:{source.labels}")
    region = Roi.whole(image.shape)
    if source.region is not None:
        region = Roi.from_bounds(*zip(*source.region, strict=True))
    return KeptBack(str(path), image, labels, region)


def _images(
    config: TrainingConfig, source: ImagesConfig, path: Path, *, own: bool
) -> list[KeptBack]:
    used, kept = image_files(path, source)
    files = sorted(used + kept) if own else kept
    if not files:
        raise InputError(
            f"validation has no data, and none of the images in {path} are kept back; give "
            "data.keep_back, or validation.data"
        )
    found = []
    for file in files:
        with np.load(file, allow_pickle=False) as content:
            image, labels = content[source.image], content[source.labels]
        found.append(_of_arrays(str(file), to_channels(image, config.input), labels, config))
    return [each for each in found if _has_objects(each)]


def _of_arrays(name: str, image: Any, labels: Any, config: TrainingConfig) -> KeptBack:
    axes = config.input.axes
    return KeptBack(
        name,
        open_volume(np.ascontiguousarray(image), axes="c" + axes),
        open_volume(np.ascontiguousarray(labels), axes=axes),
        Roi.whole(labels.shape),
    )


def _refuse_unfit(data: KeptBack, config: TrainingConfig) -> None:
    if data.image.shape != data.labels.shape or data.image.channels != config.input.channels:
        raise VolumeError(
            f"{data.name}, which the training is judged by, holds an image of {data.image.shape} "
            f"with {data.image.channels} channels and labels of {data.labels.shape}, but needs "
            f"both alike with {config.input.channels} channels; correct validation.data"
        )
    if not Roi.whole(data.image.shape).contains(data.region) or data.region.size == 0:
        raise VolumeError(
            f"the region {data.region} reaches out of {data.name} with shape {data.image.shape}; "
            "correct validation.data.region"
        )
    if data.labels.dtype.kind not in "iu" or not _has_objects(data):
        raise VolumeError(
            f"{data.name} holds no instances in {data.region} (labels of {data.labels.dtype}), so "
            "the training cannot be judged by it; correct validation.data"
        )


def _has_objects(data: KeptBack) -> bool:
    return bool(np.any(data.labels.read(data.region)))


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
