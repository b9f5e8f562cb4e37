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
    "SamplingConfig",
    "SectionsConfig",
    "SourceConfig",
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


class SourceConfig(Strict):
    """A labelled volume: an image and its labels, in one container or in two.

    With ``path``, ``image`` and ``labels`` are the names in it of the one and the other (``""`` for
    the image that the container is); without, each is a path or URL of its own, with what is inside
    a container after a colon. ``region`` (begin, end per axis) is what may be learnt from,
    ``ignore`` the id of voxels of which nothing is known, ``weight`` how often windows come from
    here. ``level``, ``axes``, ``channel`` and ``time`` say what of the image is meant.
    """

    path: str | None = None
    image: str = "raw"
    labels: str = "labels"
    region: tuple[tuple[Natural, Positive], ...] | None = None
    ignore: int | None = None
    weight: Size = 1.0
    level: Natural = 0
    axes: str | None = None
    channel: Natural | None = None
    time: Natural | None = None


class SamplingConfig(Strict):
    """Where windows lie; the rest of them lies anywhere.

    ``instances`` is the share laid around an instance, each as likely, however large;
    ``foreground`` the share laid around a voxel of an instance, each voxel as likely.
    """

    instances: Share = 0.0
    foreground: Share = 0.0

    @model_validator(mode="after")
    def _agree(self) -> SamplingConfig:
        if self.instances + self.foreground > 1:
            raise ValueError(
                f"instances {self.instances} and foreground {self.foreground} are shares of all "
                "windows; make them 1 or less together"
            )
        return self


class VolumeConfig(SourceConfig):
    """One labelled volume, or several as `sources`."""

    kind: Literal["volume"]
    sources: tuple[SourceConfig, ...] = ()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        return self.sources or (self,)

    @model_validator(mode="after")
    def _agree(self) -> VolumeConfig:
        own = {name: field.default for name, field in SourceConfig.model_fields.items()}
        given = [name for name, default in own.items() if getattr(self, name) != default]
        if self.sources and given:
            raise ValueError(f"with sources, {given[0]} is said of each; move it there")
        for source in self.all_sources:
            if source.path is None and not {"image", "labels"} <= source.model_fields_set:
                raise ValueError(
                    "no volume is named; give path, or image and labels, or several sources"
                )
        return self


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
    ignore: int | None = None
    sampling: SamplingConfig = SamplingConfig()


DataConfig = Annotated[DisksConfig | VolumeConfig | ImagesConfig, Field(discriminator="kind")]


class SectionsConfig(Strict):
    """Probabilities of each section along z to be missing or shifted, and by how much at most."""

    missing: Share = 0.0
    shifted: Share = 0.0
    shift: Natural = 0

    @model_validator(mode="after")
    def _agree(self) -> SectionsConfig:
        if bool(self.shifted) != bool(self.shift):
            raise ValueError(
                f"shifted {self.shifted} and shift {self.shift} need each other; give both"
            )
        return self


class AugmentationConfig(Strict):
    """Flips and turns, deformations, and half-ranges of intensity changes of the normalised image.

    ``rotation`` is the largest angle in degrees, ``scale`` the largest change of size. What moves
    voxels moves image and labels alike; it reads so much more of the volume that no border comes
    into the window.
    """

    symmetries: bool = True
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    elastic: ElasticConfig | None = None
    sections: SectionsConfig | None = None
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Deviation = 0.0
    gamma: Deviation = 0.0
    noise: Deviation = 0.0
    invert: Share = 0.0
