"""A labelled volume or image, read box by box and never as a whole.

Boxes are in voxels of the labelled region and may reach out of it: there, it is reflected, image
and labels alike, as prediction extends a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity, border_map
from stitchsafe.errors import VolumeError
from stitchsafe.networks import InputConfig
from stitchsafe.volumes import (
    IntensityStatistics,
    StatisticsProgress,
    Volume,
    open_volume,
    statistics,
)

__all__ = [
    "Labelled",
    "UNKNOWN",
    "intensity_rule",
    "measured",
    "normalise",
    "refuse_negative",
    "refuse_unusual",
    "scaled_by",
]

UNKNOWN = -1
"""Stands for the ignored id in labels that were read."""

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """One source of windows.

    Attributes
    ----------
    name
        Where the labels lie, for errors.
    image, labels
        Of one shape; the labels have one channel.
    region
        What may be learnt from, in voxels of both.
    intensity
        How the image is scaled.
    ignore
        The id of voxels of which nothing is known.
    weight
        How often windows come from here, relative to other sources.
    number
        Which of all that a training opens it is, in the order of its configuration.
    origin
        Of the voxels of `labels` in the file, where only a part of it is held; for errors.
    """

    name: str
    image: Volume
    labels: Volume
    region: Roi
    intensity: Intensity
    ignore: int | None = None
    weight: float = 1.0
    number: int = 0
    origin: tuple[int, ...] | None = None

    def look(self, box: Roi) -> Image:
        """The scaled image, ``(c, *box.shape)``.

        Raises
        ------
        VolumeError
            If it holds NaN or infinities there.
        """
        raw = _read(self.image, self.region, box)
        scaled = np.asarray(self.intensity.apply(raw), np.float32)
        if raw.dtype.kind == "f" and not (usual := np.isfinite(scaled)).all():
            at = np.argwhere(~usual.all(axis=0))[0]
            value = raw[(slice(None), *at)]
            raise VolumeError(_unusual(self._named(box, at), value[~usual[(slice(None), *at)]][0]))
        return scaled

    def know(self, box: Roi) -> npt.NDArray[np.int32]:
        """The labels, numbered anew: `UNKNOWN` where ignored, 0 background, 1..n.

        Raises
        ------
        VolumeError
            If there are negative ids other than the ignored one.
        """
        stored = _read(self.labels, self.region, box)[0]
        ids, places = np.unique(stored, return_inverse=True)
        numbers = np.arange(1, len(ids) + 1, dtype=np.int32)
        numbers[ids == 0] = 0
        if self.ignore is not None:
            numbers[ids == self.ignore] = UNKNOWN
        if ids.dtype.kind == "i" and (wrong := ids[(ids < 0) & (numbers > 0)]).size:
            at = np.argwhere(stored == wrong[0])[0]
            raise VolumeError(_negative(self._named(box, at, labels=True), wrong[0]))
        return numbers[places].reshape(stored.shape)

    def _named(self, box: Roi, at: npt.NDArray[np.intp], *, labels: bool = False) -> str:
        """A voxel of a box as it lies in the file, whose name comes first."""
        begin = self.origin or self.region.offset
        inside = (
            int(border_map(b + i, b + i + 1, size, "reflect")[0]) + first
            for b, i, size, first in zip(box.offset, at, self.region.shape, begin, strict=True)
        )
        name = f"labels {self.name}" if labels else f"image {self.image.path or f'of {self.name}'}"
        return f"{name} at voxel {_place(inside)}"


def _read(volume: Volume, region: Roi, box: Roi) -> npt.NDArray[Any]:
    """A box of a region, reflected where it reaches out."""
    if Roi.whole(region.shape).contains(box):
        return volume.read(box.shift(region.offset))
    maps = [
        border_map(begin, end, size, "reflect")
        for begin, end, size in zip(box.offset, box.end, region.shape, strict=True)
    ]
    behind = Roi.from_bounds([int(m.min()) for m in maps], [int(m.max()) + 1 for m in maps])
    part = volume.read(behind.shift(region.offset))
    places = (m - begin for m, begin in zip(maps, behind.offset, strict=True))
    return part[np.ix_(np.arange(volume.channels), *places)]


def refuse_negative(name: str, stored: npt.NDArray[Any], begin: Roi, ignore: int | None) -> None:
    """Refuse labels ``(*begin.shape)`` with negative ids other than the ignored one.

    Raises
    ------
    VolumeError
        Naming the first such voxel, in voxels of the file that `begin` lies in.
    """
    wrong = stored < 0
    if ignore is not None and ignore < 0:
        wrong &= stored != ignore
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        place = _place(int(i) + o for i, o in zip(at, begin.offset, strict=True))
        raise VolumeError(_negative(f"labels {name} at voxel {place}", stored[at]))


def refuse_unusual(name: str, found: IntensityStatistics) -> None:
    """Refuse an image of which some voxels are no numbers.

    Raises
    ------
    VolumeError
        Naming the first one.
    """
    for value, count, first in (
        ("nan", found.nan_count, found.first_nan),
        ("inf", found.infinite_count, found.first_infinite),
    ):
        if first is not None:
            more = f", and {count - 1} others are" if count > 1 else ""
            raise VolumeError(_unusual(f"image {name} at voxel {_place(first)}", value, more))


def _negative(where: str, value: object) -> str:
    return (
        f"the {where} hold the negative id {value}, which is no instance; if nothing is known of "
        f"its voxels, say ignore: {value} beside the labels, or else give it another id"
    )


def _unusual(where: str, value: object, more: str = "") -> str:
    return (
        f"the {where} is {value}{more}, of which nothing can be learnt; repair the image, or give "
        "a region without such voxels"
    )


def _place(position: Iterable[int]) -> str:
    return ",".join(map(str, position))


def measured(
    volume: Volume,
    region: Roi,
    rule: InputConfig,
    watch: Callable[[StatisticsProgress], None] | None = None,
) -> IntensityStatistics | None:
    """What the rule needs to know of a region, in a streamed pass; None where that is nothing.

    Floating point numbers are looked at in any case, as some may be none.
    """
    if rule.normalize == "none":
        return statistics(volume, region, events=watch) if volume.dtype.kind == "f" else None
    return statistics(volume, region, percentiles=rule.percentiles, events=watch)


def intensity_rule(volume: Volume, region: Roi, rule: InputConfig) -> Intensity:
    """The rule of the network's input with the statistics of a region, found in a streamed pass."""
    return scaled_by(measured(volume, region, rule), volume.channels, rule)


def scaled_by(found: IntensityStatistics | None, channels: int, rule: InputConfig) -> Intensity:
    """The rule of the network's input with some statistics."""
    if found is None or rule.normalize == "none":
        return Intensity((0.0,) * channels, (1.0,) * channels)
    if rule.normalize == "percentile":
        low, high = (list(found.percentile(q)) for q in rule.percentiles)
    else:
        low = list(found.mean)
        high = [mean + std for mean, std in zip(found.mean, found.std, strict=True)]
    return Intensity.between(low, high, dtype="float32", nan_to_zero=False)


def normalise(raw: npt.NDArray[np.generic], rule: InputConfig) -> Image:
    """``(c, *spatial)`` as float32, by the rule and the statistics of the whole array."""
    volume = open_volume(raw, axes="c" + rule.axes)
    scaled = intensity_rule(volume, Roi.whole(volume.shape), rule).apply(raw)
    return np.asarray(scaled, dtype=np.float32)
