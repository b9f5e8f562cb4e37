"""What a model folder says of its network: the schema of ``config.yaml``.

The file is data: nothing in it is executed, and a key that is not known is an error, since a typing
mistake that is ignored changes results in silence.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stitchsafe.errors import ModelError
from stitchsafe.networks import _steps
from stitchsafe.networks._factory import is_factory
from stitchsafe.networks._steps import After, Before, Finishing
from stitchsafe.networks._yaml import read_yaml

__all__ = [
    "DeclaredConfig",
    "InputConfig",
    "LabelsConfig",
    "ModelConfig",
    "NetworkConfig",
    "OutputConfig",
    "SkippedConfig",
    "TensorConfig",
    "TilingConfig",
    "first_problem",
    "load_config",
]

_STEPS = ("Zscore", "Percentiles", "ClipPercentiles", "Linear", "Clip", "Binarize", "Integer")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Strict):
    """Which architecture, with which arguments: ``unet``, or ``package.module:factory``.

    The latter is code of the user's, which runs with trust only.
    """

    name: str
    arguments: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "unet" and not is_factory(name):
            raise ValueError(
                f"the network {name!r} is not known; give unet, or package.module:factory"
            )
        return name


class TensorConfig(_Strict):
    """One input of a network that has several, or one whose intensities take several steps."""

    name: str = "input"
    channels: Positive = 1
    preprocessing: tuple[Before, ...] = ()

    @model_validator(mode="after")
    def _numbers_for_its_channels(self) -> TensorConfig:
        _fit(self.preprocessing, self.channels, self.name)
        return self


class InputConfig(_Strict):
    """What the network was trained to see.

    `normalize` is one rule for all channels; `tensors` says it step by step for each input, whose
    channels follow each other in the volume.
    """

    axes: Literal["yx", "zyx"]
    channels: Positive = 1
    voxel_size: tuple[float, ...] | None = None
    unit: str = "nanometer"
    normalize: Literal["none", "zscore", "percentile"] = "none"
    percentiles: tuple[float, float] = (1.0, 99.0)
    tensors: tuple[TensorConfig, ...] = ()

    @model_validator(mode="after")
    def _one_rule(self) -> InputConfig:
        if not self.tensors:
            return self
        if self.normalize != "none":
            raise ValueError("normalize and tensors both say how intensities are scaled; give one")
        total = sum(tensor.channels for tensor in self.tensors)
        if total != self.channels:
            raise ValueError(f"the tensors have {total} channels, and channels is {self.channels}")
        return self


class OutputConfig(_Strict):
    """One output of the network; its name is that of a folder, too.

    `postprocessing` is done tile by tile, and `finishing`, whose first step has statistics of the
    whole field, to the field when all of it is there.
    """

    name: str
    channels: Positive
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    postprocessing: tuple[After, ...] = ()
    finishing: tuple[Finishing, ...] = ()

    @field_validator("name")
    @classmethod
    def _could_be_a_folder(cls, name: str) -> str:
        if not _PLAIN.fullmatch(name):
            raise ValueError(
                f"the output {name!r} is kept in a folder of its name; use letters, digits and _-. "
                "in it, and begin with a letter, digit or _"
            )
        return name

    @model_validator(mode="after")
    def _numbers_for_its_channels(self) -> OutputConfig:
        _fit((*self.postprocessing, *self.finishing), self.channels, self.name)
        return self


class DeclaredConfig(_Strict):
    """What a description states of the network's sizes, to be held against what was derived.

    A step of 0 means just that size.
    """

    input_min: tuple[int, ...]
    input_step: tuple[int, ...]
    halo: tuple[int, ...] | None = None


class SkippedConfig(_Strict):
    """Steps that a description lists after one output, and that are not done.

    The first of them is the one that cannot be done; what follows it would have other values to
    work on.
    """

    output: str
    steps: tuple[str, ...] = Field(min_length=1)
    reason: str

    def __str__(self) -> str:
        return (
            f"the field {self.output!r} is given without the description's "
            f"{', '.join(self.steps)}: {self.steps[0]} {self.reason}"
        )


class LabelsConfig(_Strict):
    """How instances are made of the outputs; see `stitchsafe.instances.LabelSettings`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    source: Literal["embeddings", "foreground", "argmax"] = Field("embeddings", alias="from")
    window: tuple[Positive, ...]


class TilingConfig(_Strict):
    """Defaults for tiles."""

    tile_shape: tuple[Positive, ...]


class ModelConfig(_Strict):
    """A model folder's ``config.yaml``."""

    format: Literal["stitchsafe-model/1"]
    name: str
    description: str = ""
    network: NetworkConfig | None = None
    input: InputConfig
    outputs: tuple[OutputConfig, ...]
    labels: LabelsConfig | None = None
    tiling: TilingConfig | None = None
    training: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    license: str = ""
    authors: tuple[str, ...] = ()
    declared: DeclaredConfig | None = None
    skipped: tuple[SkippedConfig, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_output_once(self) -> ModelConfig:
        names = [output.name for output in self.outputs]
        if len(set(names)) < len(names):
            raise ValueError(f"the outputs {', '.join(names)} need different names")
        return self


def load_config(path: Path) -> ModelConfig:
    """Read and check a ``config.yaml``.

    Raises
    ------
    ModelError
        If it is not YAML, or does not follow the schema; names the key and the nearest known one.
    """
    content = read_yaml(path)
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        raise ModelError(
            f"{path} is not a model's configuration: {first_problem(error, _known_keys())}"
        ) from error


def first_problem(error: ValidationError, known: list[str]) -> str:
    """The first thing that is wrong, with the nearest of the `known` keys for an unknown one."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {place!r}{hint}"
    return f"{place}: {' '.join(problem['msg'].removeprefix('Value error, ').split())}"


def _fit(steps: tuple[Before | After | Finishing, ...], channels: int, name: str) -> None:
    """Refuse numbers per channel that are not one for each."""
    for step in steps:
        for key in ("gain", "offset", "threshold"):
            count = len(getattr(step, key, (0,)))
            if count not in (1, channels):
                raise ValueError(
                    f"{step.kind} has {count} numbers for {key}, and {name!r} has {channels} "
                    "channels; give one for all or one for each"
                )


def _known_keys() -> list[str]:
    models: list[type[BaseModel]] = [
        ModelConfig, NetworkConfig, InputConfig, OutputConfig, LabelsConfig, TilingConfig,
        TensorConfig, DeclaredConfig, *(getattr(_steps, name) for name in _STEPS),
    ]  # fmt: skip
    return sorted({field.alias or name for m in models for name, field in m.model_fields.items()})
