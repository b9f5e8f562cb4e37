"""What a training says of its data, in ``train.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stitchsafe.errors import InputError
from stitchsafe.training._deformation import Elastic
from stitchsafe.training._schema import Natural, Positive, Share, Strict

__all__ = [
    "AugmentationConfig",
    "DataConfig",
    "DisksConfig",
    "ElasticConfig",
    "ImagesConfig",
    "VolumeConfig",
]

Size = Annotated[float, Field(gt=0)]
Deviation = Annotated[float, Field(ge=0)]


class ElasticConfig(Strict):
    """A smooth random displacement; one number for all axes, or one for each.

    ``spacing`` of its control points and ``sigma`` of their displacement, in voxels.
    """

    spacing: Size | tuple[Size, ...]
    sigma: Deviation | tuple[Deviation, ...]

    def of(self, ndim: int, name: str) -> Elastic:
        """For so many axes.

        Raises
        ------
        InputError
            If there is another number of sizes.
        """
        for key, value in (("spacing", self.spacing), ("sigma", self.sigma)):
            if isinstance(value, tuple) and len(value) != ndim:
                raise InputError(
                    f"{name}.{key} has {len(value)} numbers, but there are {ndim} axes; give one "
                    "number for all, or one for each axis"
                )
        return Elastic(self.spacing, self.sigma)


class DisksConfig(Strict):
    """Synthetic disks, made anew for every step; see `stitchsafe.training.draw_disks`."""

    kind: Literal["disks"]
    spacing: Positive | None = None
    origin: tuple[int, ...] | None = None
    radius: Size | tuple[Size, Size] = (5.0, 5.0)
    jitter: Deviation = 0.0
    density: Annotated[float, Field(gt=0, lt=0.6)] = 0.25
    elastic: ElasticConfig | None = None
    noise: Deviation = 0.0
    image: Literal["disks", "ones"] = "disks"
    labels: Literal["disks", "voxels"] = "disks"

    @model_validator(mode="after")
    def _agree(self) -> DisksConfig:
        if isinstance(self.radius, tuple) and self.radius[0] > self.radius[1]:
            raise ValueError(f"radius {self.radius} needs the least first, then the largest")
        for name in ("origin", "jitter"):
            if self.spacing is None and getattr(self, name):
                raise ValueError(f"{name} is about the grid of centres; give its spacing, too")
        return self


class VolumeConfig(Strict):
    """One labelled volume in a file: ``path`` with the arrays ``image`` and ``labels`` in it."""

    kind: Literal["volume"]
    path: str
    image: str = "raw"
    labels: str = "labels"
    region: tuple[tuple[Natural, Positive], ...] | None = None


class ImagesConfig(Strict):
    """A folder of npz files of one image each; every ``keep_back``-th is left for judging.

    ``ground: dark`` leaves out images with a normalised median above .5 (a bright ground).
    """

    kind: Literal["images"]
    path: str
    image: str = "image"
    labels: str = "labels"
    keep_back: Annotated[int, Field(ge=2)] | None = 5
    ground: Literal["any", "dark"] = "any"


DataConfig = Annotated[DisksConfig | VolumeConfig | ImagesConfig, Field(discriminator="kind")]


class AugmentationConfig(Strict):
    """Flips and turns, and half-ranges of intensity changes of the normalised image."""

    symmetries: bool = True
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    invert: Share = 0.0
