"""A labelled volume or image, read box by box and never as a whole.

Boxes are in voxels of the labelled region and may reach out of it: there, it is reflected, image
and labels alike, as prediction extends a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity, border_map
from stitchsafe.errors import VolumeError
from stitchsafe.networks import InputConfig
from stitchsafe.volumes import Volume, open_volume, statistics

__all__ = ["Labelled", "UNKNOWN", "intensity_rule", "normalise"]

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
    """

    name: str
    image: Volume
    labels: Volume
    region: Roi
    intensity: Intensity
    ignore: int | None = None
    weight: float = 1.0

    def look(self, box: Roi) -> Image:
        """The scaled image, ``(c, *box.shape)``."""
        return np.asarray(self.intensity.apply(_read(self.image, self.region, box)), np.float32)

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
            raise VolumeError(
                f"the labels {self.name} hold the negative id {wrong[0]}, which is no instance; "
                f"if nothing is known of its voxels, say ignore: {wrong[0]}"
            )
        return numbers[places].reshape(stored.shape)


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


def intensity_rule(volume: Volume, region: Roi, rule: InputConfig) -> Intensity:
    """The rule of the network's input with the statistics of a region, found in a streamed pass."""
    if rule.normalize == "none":
        return Intensity((0.0,) * volume.channels, (1.0,) * volume.channels)
    found = statistics(volume, region, percentiles=rule.percentiles)
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
