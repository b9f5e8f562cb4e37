"""Training examples: windows of labelled volumes, of folders of images, of synthetic disks.

An example is a function of (seed, step, place in the batch) alone, so a training that was stopped
goes on with the very examples that it would have seen.
Windows lie in the labelled region, and are read with what the network needs around them, so no
volume need fit into memory; an input that reaches out of the region is reflected, as in prediction.
Intensities are normalised by the same rule as in prediction, with the statistics of the region (of
each image, where there are many).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events, Silent
from stitchsafe.errors import InputError, InterruptedRunError, VolumeError
from stitchsafe.training._augmentation import Bending, Intensity, View, draw_symmetry
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig, VolumeConfig
from stitchsafe.training._data_record import DataRecord
from stitchsafe.training._disks import draw_as_said
from stitchsafe.training._labelled import Labelled
from stitchsafe.training._sampling import Sampler
from stitchsafe.training._sections import Sections
from stitchsafe.training._sources import open_images, open_volumes
from stitchsafe.training._targets import Targets, inner_voxels, make_targets, margin, split_parts
from stitchsafe.training._turning import Turning
from stitchsafe.training._window import TrainingWindow
from stitchsafe.volumes import PlaceError

__all__ = ["Example", "Examples", "open_examples"]

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """One window.

    Attributes
    ----------
    image
        ``(c, *input)`` float32, normalised.
    instances
        ``(*window)`` int32: connected parts, 0 background; -1 where nothing is known.
    clusters
        ``(*window)`` int32: what the embedding learns; -1 where it learns nothing.
    foreground
        ``(*window)`` bool, and its `weight`, float32: 0 where nothing is known.
    """

    image: Image
    instances: npt.NDArray[np.int32]
    clusters: npt.NDArray[np.int32]
    foreground: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


class Examples(Protocol):
    """Draws examples."""

    @property
    def sources(self) -> Sequence[Labelled]:
        """What windows are cut from; nothing where examples are drawn."""

    def draw(self, generator: np.random.Generator) -> Example: ...


def open_examples(
    config: TrainingConfig,
    window: TrainingWindow,
    *,
    folder: Path,
    data: str | Path | None = None,
    events: Events | None = None,
    record: DataRecord | None = None,
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
    events
        Told of reading, which takes a while where volumes are large.
    record
        What the run knows of its data, with events of its own.

    Raises
    ------
    VolumeError
        If the data are missing, do not have the channels or shapes that are needed, hold no
        instance or a negative one, or the image is not finite everywhere.
    StoreError
        If they are not those of the run.
    InputError
        If what is said of disks or of augmentation does not fit them.
    """
    if isinstance(config.data, DisksConfig):
        return _disk_examples(config, config.data, window)
    rule, shape, bending = config.input, window.window, _bending(config)
    record = record or DataRecord(events=events or Silent())
    try:
        if isinstance(config.data, VolumeConfig):
            sources = open_volumes(
                config.data, rule, shape, folder=folder, instead=data, record=record
            )
        else:
            path = Path(data) if data is not None else folder / config.data.path
            sources = open_images(path, config.data, rule, shape, record)
        sampler = Sampler(sources, shape, config.data.sampling, record.census)
        return _WindowExamples(config, window, bending, sampler)
    except PlaceError as error:
        raise error.refusal(VolumeError) from error


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
    for name in ("elastic", "sections", "rotation", "scale"):
        if getattr(config.augmentation, name):
            remedy = "say data.elastic" if name == "elastic" else "leave it out"
            raise InputError(
                f"augmentation.{name} is for volumes and images, and disks are drawn anew; {remedy}"
            )
    if data.origin is not None and len(data.origin) != ndim:
        raise InputError(
            f"data.origin {data.origin} has {len(data.origin)} numbers, but there are {ndim} axes; "
            "give one for each axis"
        )
    if data.elastic is not None:
        data.elastic.of(ndim, "data.elastic")
    return _DiskExamples(config, data, window)


@dataclass(frozen=True)
class _DiskExamples:
    config: TrainingConfig
    data: DisksConfig
    window: TrainingWindow
    sources: tuple[Labelled, ...] = ()

    def draw(self, generator: np.random.Generator) -> Example:
        image, labels = draw_as_said(self.data, self.window.input, generator)
        targets, embedded = _targets(labels, self.config)
        cut = Roi(self.window.offset, self.window.window).slices
        return _example(
            _intensity(self.config).apply(image, generator),
            targets.labels[cut],
            embedded[cut],
            targets.inner[cut],
            targets.weight[cut],
        )


class _WindowExamples:
    """Windows of labelled volumes or images, each with what lies around it."""

    def __init__(
        self,
        config: TrainingConfig,
        window: TrainingWindow,
        bending: Bending,
        sampler: Sampler,
    ) -> None:
        self.config, self.window, self.bending, self.sampler = config, window, bending, sampler
        # Axes may be swapped where windows, inputs and voxels are alike along them.
        size = config.input.voxel_size or (1.0,) * len(window.window)
        self.alike = tuple(zip(window.window, window.input, window.offset, size, strict=True))
        self.symmetric = config.augmentation.symmetries and window.centred

    @property
    def sources(self) -> Sequence[Labelled]:
        return self.sampler.everywhere.sources

    def draw(self, generator: np.random.Generator) -> Example:
        source, corner = self.sampler.draw(generator)
        window = Roi(corner, self.window.window)
        seen = Roi(corner, self.window.input).shift([-o for o in self.window.offset])
        reach = (_margin(self.config),) * window.ndim
        known = window.grow(reach, reach)
        view = self.bending.draw(Roi.around([seen, known]), generator)
        image, labels = _read(source, seen, known, view)
        targets, embedded = _targets(labels, self.config)
        cut = window.relative_to(known).slices
        missing = self._missing(generator)
        turn = draw_symmetry(generator, self.alike, enabled=self.symmetric)
        turned = np.asarray(turn.apply(image), dtype=np.float32)
        shown = _intensity(self.config).apply(turned, generator)
        if missing is not None:
            shown[:, turn.apply(missing)] = 0.0
        return _example(
            shown,
            turn.apply(targets.labels[cut]),
            turn.apply(embedded[cut]),
            turn.apply(targets.inner[cut]),
            turn.apply(targets.weight[cut]),
        )

    def _missing(self, generator: np.random.Generator) -> npt.NDArray[np.bool_] | None:
        """Voxels of the input in sections that are missing."""
        sections = self.bending.sections
        if sections is None or not sections.missing:
            return None
        shape = self.window.input
        lost = sections.draw_missing(shape[0], generator)
        return np.broadcast_to(lost.reshape(-1, *(1,) * (len(shape) - 1)), shape)


def _read(
    source: Labelled, seen: Roi, known: Roi, view: View | None
) -> tuple[Image, npt.NDArray[np.int32]]:
    """Image and labels, as the view shows them.

    Raises
    ------
    InterruptedRunError
        If they cannot be read; they could when the training began.
    """
    try:
        if view is None:
            return source.look(seen), source.know(known)
        image = np.asarray(view.see(source.look, seen, order=1), dtype=np.float32)
        return image, np.asarray(view.see(source.know, known, order=0), dtype=np.int32)
    except (VolumeError, OSError) as error:
        raise InterruptedRunError(
            f"training stopped, as a window could not be read: {error}; mend that and run the same "
            "command again: it goes on from the last checkpoint"
        ) from error


def _bending(config: TrainingConfig) -> Bending:
    change, axes = config.augmentation, config.input.axes
    elastic = change.elastic.of(len(axes), "augmentation.elastic") if change.elastic else None
    turning = None
    if change.rotation or change.scale:
        voxel = config.input.voxel_size or (1.0,) * len(axes)
        turning = Turning(tuple(voxel), change.rotation, change.scale)
    if change.sections is None:
        return Bending(elastic, turning=turning)
    if axes != "zyx":
        raise InputError(
            f"augmentation.sections is for stacks with sections along z, but the axes are "
            f"{axes!r}; leave it out"
        )
    said = change.sections
    return Bending(elastic, Sections(said.missing, said.shifted, said.shift), turning)


def _margin(config: TrainingConfig) -> int:
    """Voxels around a window that its targets depend on."""
    losses = (config.embedding, config.foreground)
    return max((margin(loss.reach) for loss in losses if loss is not None), default=0)


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
