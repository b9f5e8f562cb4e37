"""What a training is: the schema of ``train.yaml``.

The file is data: nothing in it is executed, and a key that is not known is an error that names the
nearest known one, since a typing mistake that is ignored changes results in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stitchsafe.errors import InputError
from stitchsafe.networks import InputConfig, LabelsConfig, NetworkConfig, TilingConfig

__all__ = [
    "AugmentationConfig",
    "CardConfig",
    "DataConfig",
    "DisksConfig",
    "EmbeddingLossConfig",
    "ForegroundLossConfig",
    "ImagesConfig",
    "OptimiserConfig",
    "TrainingConfig",
    "VolumeConfig",
    "load_training",
]

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DisksConfig(_Strict):
    """Synthetic disks, made anew for every step; see `stitchsafe.training.draw_disks`."""

    kind: Literal["disks"]
    spacing: Positive | None = None
    radius: tuple[float, float] = (5.0, 5.0)
    jitter: Annotated[float, Field(ge=0)] = 0.0
    density: Annotated[float, Field(gt=0, lt=0.6)] = 0.25
    noise: Annotated[float, Field(ge=0)] = 0.0


class VolumeConfig(_Strict):
    """One labelled volume in a file: ``path`` with the arrays ``image`` and ``labels`` in it."""

    kind: Literal["volume"]
    path: str
    image: str = "raw"
    labels: str = "labels"
    region: tuple[tuple[Natural, Positive], ...] | None = None


class ImagesConfig(_Strict):
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


class EmbeddingLossConfig(_Strict):
    """The discriminative loss on the head ``embedding``.

    ``reach`` thins instances by so many voxels before they count; ``background`` is ``ignored`` or
    an ordinary ``cluster``.
    """

    weight: Annotated[float, Field(ge=0)] = 1.0
    delta_pull: Annotated[float, Field(ge=0)] = 0.0
    delta_push: Annotated[float, Field(gt=0)] = 3.0
    weights: tuple[float, float, float] = (1.0, 1.0, 1e-4)
    pairs: Literal["all", "touching"] = "all"
    neighbours: Positive = 1
    reach: Natural = 0
    background: Literal["ignored", "cluster"] = "cluster"


class ForegroundLossConfig(_Strict):
    """Binary cross-entropy on the head ``foreground``; `reach` thins the instances to learn."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    reach: Natural = 0
    boundary_weight: Annotated[float, Field(gt=0)] = 1.0


class AugmentationConfig(_Strict):
    """Flips and turns, and half-ranges of intensity changes of the normalised image."""

    symmetries: bool = True
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    invert: Share = 0.0


class OptimiserConfig(_Strict):
    """AdamW with a linear warm-up and a cosine decay to 2 % of the learning rate."""

    steps: Positive
    batch: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Natural = 0
    decay: Literal["cosine", "none"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None


class CardConfig(_Strict):
    """What the model's card says of the data and the licences."""

    data: str = ""
    license: str = "BSD-3-Clause (weights)"


class TrainingConfig(_Strict):
    """A training's ``train.yaml``."""

    format: Literal["stitchsafe-training/1"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    data: DataConfig
    input: InputConfig
    network: NetworkConfig
    window: tuple[Positive, ...]
    embedding: EmbeddingLossConfig | None = EmbeddingLossConfig()
    foreground: ForegroundLossConfig | None = None
    augmentation: AugmentationConfig = AugmentationConfig()
    optimiser: OptimiserConfig
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Positive | None = None
    checkpoint_every: Positive = 500
    seed: Natural = 0
    labels: LabelsConfig | None = None
    tiling: TilingConfig | None = None
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        ndim = len(self.input.axes)
        if len(self.window) != ndim:
            raise ValueError(f"window {self.window} needs one size per axis of {self.input.axes!r}")
        if self.input.tensors:
            raise ValueError("training scales by normalize; leave out the input's tensors")
        if self.embedding is None and self.foreground is None:
            raise ValueError("nothing to learn: give embedding or foreground")
        heads = self.network.arguments.get("heads", {"embedding": 3})
        wanted = [name for name in ("embedding", "foreground") if getattr(self, name) is not None]
        if sorted(heads) != wanted:
            raise ValueError(f"the network's heads {sorted(heads)} are not those trained: {wanted}")
        return self


def load_training(path: Path) -> TrainingConfig:
    """Read and check a ``train.yaml``.

    Raises
    ------
    InputError
        If it is not YAML, or does not follow the schema; names the key and the nearest known one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as YAML ({reason}); repair the file") from error
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is not a training: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            str(problem["loc"][-1]), sorted(_keys(TrainingConfig)), n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"unknown key {place!r}; {hint}"
    return f"{place}: {problem['msg']}"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Keys of a schema and of all that are nested in it."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for part in _models_in(field.annotation):
            yield from _keys(part)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
