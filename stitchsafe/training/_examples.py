"""Where training examples come from: labelled volumes, folders of images, synthetic disks.

An example is a function of (seed, step, place in the batch) alone, so a training that was stopped
goes on with the very examples that it would have seen.
Windows lie anywhere in the labelled region; an input that reaches out of it is reflected, as in
prediction. Intensities are normalised by the same rule as in prediction, with the statistics of the
region (of each image, where there are many).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity as IntensityMap
from stitchsafe.engine import border_map
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.networks import InputConfig
from stitchsafe.training._augmentation import Intensity, draw_symmetry
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig, ImagesConfig, VolumeConfig
from stitchsafe.training._deformation import Elastic
from stitchsafe.training._disks import draw_disks
from stitchsafe.training._targets import Targets, inner_voxels, make_targets, split_parts
from stitchsafe.training._window import TrainingWindow
from stitchsafe.volumes import open_volume, statistics

__all__ = ["Example", "Examples", "Scene", "image_files", "normalise", "open_examples"]

Image = npt.NDArray[np.float32]

_BRIGHT = 0.5


@dataclass(frozen=True)
class Example:
    """One window.

    Attributes
    ----------
    image
        ``(c, *input)`` float32, normalised.
    instances
        ``(*window)`` int32: connected parts, 0 background.
    clusters
        ``(*window)`` int32: what the embedding learns; -1 where it learns nothing.
    foreground
        ``(*window)`` bool, and its `weight`, float32.
    """

    image: Image
    instances: npt.NDArray[np.int32]
    clusters: npt.NDArray[np.int32]
    foreground: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


class Examples(Protocol):
    """Draws examples."""

    def draw(self, generator: np.random.Generator) -> Example: ...


@dataclass(frozen=True)
class Scene:
    """A labelled image, normalised, with its targets."""

    image: Image
    targets: Targets
    embedded: npt.NDArray[np.bool_]


def normalise(raw: npt.NDArray[np.generic], rule: InputConfig) -> Image:
    """``(c, *spatial)`` as float32, by the rule and the statistics of the whole array."""
    if rule.normalize == "none":
        return np.asarray(raw, dtype=np.float32)
    axes = "c" + rule.axes
    found = statistics(open_volume(raw, axes=axes), percentiles=rule.percentiles)
    if rule.normalize == "percentile":
        low, high = (list(found.percentile(q)) for q in rule.percentiles)
    else:
        low = list(found.mean)
        high = [mean + std for mean, std in zip(found.mean, found.std, strict=True)]
    return np.asarray(
        IntensityMap.between(low, high, dtype="float32", nan_to_zero=False).apply(raw), np.float32
    )


def open_examples(
    config: TrainingConfig, window: TrainingWindow, *, folder: Path, data: str | Path | None = None
) -> Examples:
    """The examples that a configuration asks for.

    Parameters
    ----------
    config, window
        What to train, with which shapes.
    folder
        What a relative path in the configuration is relative to.
    data
        A path to take instead of the configuration's.

    Raises
    ------
    VolumeError
        If the data are missing, or do not have the channels or shapes that are needed.
    """
    if isinstance(config.data, DisksConfig):
        return _disk_examples(config, config.data, window)
    path = Path(data) if data is not None else folder / config.data.path
    if isinstance(config.data, VolumeConfig):
        return _SceneExamples(config, window, [_volume_scene(path, config.data, config)])
    return _SceneExamples(config, window, _image_scenes(path, config.data, config))


def image_files(path: Path, config: ImagesConfig) -> tuple[list[Path], list[Path]]:
    """Files to train on, and files kept back: every `keep_back`-th in the order of their names."""
    files = sorted(path.glob("*.npz"))
    if not files:
        raise VolumeError(f"{path} holds no npz files to train on; give their folder with --data")
    step = config.keep_back
    kept = [] if step is None else files[step - 1 :: step]
    return [file for file in files if file not in set(kept)], kept


def _volume_scene(path: Path, data: VolumeConfig, config: TrainingConfig) -> Scene:
    axes = config.input.axes
    image = open_volume(f"{path}:{data.image}")
    labels = open_volume(f"{path}:{data.labels}")
    if image.axes != axes or labels.axes != axes or image.shape != labels.shape:
        raise VolumeError(
            f"{path} holds an image {image.axes}{image.shape} and labels "
            f"{labels.axes}{labels.shape}, but training needs both alike, with axes {axes!r}"
        )
    region = Roi.whole(image.shape)
    if data.region is not None:
        region = Roi.from_bounds(*zip(*data.region, strict=True))
    if not Roi.whole(image.shape).contains(region) or region.size == 0:
        raise VolumeError(
            f"the region {region} reaches out of {path} with shape {image.shape}; make it smaller"
        )
    return _scene(image.read(region), labels.read(region)[0], config, str(path))


def _image_scenes(path: Path, data: ImagesConfig, config: TrainingConfig) -> list[Scene]:
    scenes = []
    for file in image_files(path, data)[0]:
        with np.load(file, allow_pickle=False) as content:
            image, labels = content[data.image], content[data.labels]
        scene = _scene(to_channels(image, config.input), labels, config, str(file))
        if data.ground == "any" or np.median(scene.image) <= _BRIGHT:
            scenes.append(scene)
    return scenes


def to_channels(image: npt.NDArray[np.generic], rule: InputConfig) -> npt.NDArray[np.generic]:
    """Channels first; a colour image becomes its mean where the network takes one channel."""
    ndim = len(rule.axes)
    if image.ndim == ndim:
        return image[None]
    if rule.channels == 1:
        grey = image.mean(axis=-1, dtype=np.float64).round()
        return np.asarray(grey[None], dtype=image.dtype)
    return np.moveaxis(image, -1, 0)


def _scene(
    raw: npt.NDArray[np.generic],
    labels: npt.NDArray[np.integer],
    config: TrainingConfig,
    name: str,
) -> Scene:
    if raw.shape[0] != config.input.channels:
        raise VolumeError(
            f"{name} has {raw.shape[0]} channels, but the network takes {config.input.channels}; "
            "change input.channels or the data"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"the labels of {name} are {labels.dtype}, not whole numbers; convert them"
        )
    ids = np.unique(labels, return_inverse=True)
    compact = ids[1].reshape(labels.shape).astype(np.int32) + (0 if ids[0][0] == 0 else 1)
    return Scene(normalise(raw, config.input), *_targets(compact, config))


def _targets(
    labels: npt.NDArray[np.int32], config: TrainingConfig
) -> tuple[Targets, npt.NDArray[np.bool_]]:
    """Targets of the foreground, and where the embedding learns."""
    foreground, embedding = config.foreground, config.embedding
    targets = make_targets(
        labels,
        reach=foreground.reach if foreground else 0,
        boundary_weight=foreground.boundary_weight if foreground else 1.0,
    )
    if embedding is None:
        return targets, np.zeros(labels.shape, dtype=np.bool_)
    embedded = inner_voxels(labels, embedding.reach)
    if embedding.background == "cluster":
        embedded |= labels == 0
    return targets, embedded


def _disk_examples(
    config: TrainingConfig, data: DisksConfig, window: TrainingWindow
) -> _DiskExamples:
    ndim = len(window.window)
    if data.origin is not None and len(data.origin) != ndim:
        raise InputError(
            f"data.origin {data.origin} has {len(data.origin)} numbers, but there are {ndim} axes; "
            "give one for each axis"
        )
    elastic = data.elastic.of(ndim, "data.elastic") if data.elastic else None
    return _DiskExamples(config, data, window, elastic)


@dataclass(frozen=True)
class _DiskExamples:
    config: TrainingConfig
    data: DisksConfig
    window: TrainingWindow
    elastic: Elastic | None

    def draw(self, generator: np.random.Generator) -> Example:
        settings = self.data.model_dump(exclude={"kind", "elastic"})
        image, labels = draw_disks(self.window.input, generator, elastic=self.elastic, **settings)
        targets, embedded = _targets(labels, self.config)
        cut = Roi(self.window.offset, self.window.window).slices
        return _example(
            _intensity(self.config).apply(image, generator),
            targets.labels[cut],
            embedded[cut],
            targets.inner[cut],
            targets.weight[cut],
        )


class _SceneExamples:
    """Scenes by turns, whatever their size; windows anywhere in a scene that holds them."""

    def __init__(
        self, config: TrainingConfig, window: TrainingWindow, scenes: Sequence[Scene]
    ) -> None:
        self.config, self.window = config, window
        self.scenes = [s for s in scenes if _fits(s.targets.labels.shape, window.window)]
        if not self.scenes:
            raise VolumeError(
                f"none of the {len(scenes)} labelled images to train on is as large as the "
                f"training window {window.window}; make the window smaller or give other data"
            )
        # Axes may be swapped where windows, inputs and voxels are alike along them.
        size = config.input.voxel_size or (1.0,) * len(window.window)
        self.alike = tuple(zip(window.window, window.input, window.offset, size, strict=True))
        self.symmetric = config.augmentation.symmetries and window.centred

    def draw(self, generator: np.random.Generator) -> Example:
        scene = self.scenes[int(generator.integers(len(self.scenes)))]
        extent = scene.targets.labels.shape
        corner = [
            int(generator.integers(0, n - w + 1))
            for n, w in zip(extent, self.window.window, strict=True)
        ]
        cut = Roi(tuple(corner), self.window.window).slices
        maps = [
            border_map(c - o, c - o + i, n, "reflect")
            for c, o, i, n in zip(
                corner, self.window.offset, self.window.input, extent, strict=True
            )
        ]
        image = scene.image[np.ix_(np.arange(scene.image.shape[0]), *maps)]
        turn = draw_symmetry(generator, self.alike, enabled=self.symmetric)
        turned = np.asarray(turn.apply(image), dtype=np.float32)
        return _example(
            _intensity(self.config).apply(turned, generator),
            turn.apply(scene.targets.labels[cut]),
            turn.apply(scene.embedded[cut]),
            turn.apply(scene.targets.inner[cut]),
            turn.apply(scene.targets.weight[cut]),
        )


def _fits(extent: Sequence[int], window: Sequence[int]) -> bool:
    return all(n >= w for n, w in zip(extent, window, strict=True))


def _intensity(config: TrainingConfig) -> Intensity:
    change = config.augmentation
    return Intensity(
        contrast=change.contrast,
        brightness=change.brightness,
        gamma=change.gamma,
        noise=change.noise,
        invert=change.invert,
    )


def _example(
    image: Image,
    labels: npt.NDArray[np.generic],
    embedded: npt.NDArray[np.generic],
    foreground: npt.NDArray[np.generic],
    weight: npt.NDArray[np.generic],
) -> Example:
    instances = split_parts(np.asarray(labels, dtype=np.int32))
    return Example(
        image,
        instances,
        np.where(embedded, instances, -1).astype(np.int32),
        np.asarray(foreground, dtype=np.bool_),
        np.asarray(weight, dtype=np.float32),
    )
