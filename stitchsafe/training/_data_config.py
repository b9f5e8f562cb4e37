"""What a training says of its data, in ``train.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stitchsafe.training._schema import Natural, Positive, Share, Strict

__all__ = ["AugmentationConfig", "DataConfig", "DisksConfig", "ImagesConfig", "VolumeConfig"]


class DisksConfig(Strict):
    """Synthetic disks, made anew for every step; see `stitchsafe.training.draw_disks`."""

    kind: Literal["disks"]
    spacing: Positive | None = None
    radius: tuple[float, float] = (5.0, 5.0)
    jitter: Annotated[float, Field(ge=0)] = 0.0
    density: Annotated[float, Field(gt=0, lt=0.6)] = 0.25
    noise: Annotated[float, Field(ge=0)] = 0.0


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
