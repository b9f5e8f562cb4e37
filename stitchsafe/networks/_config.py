"""What a model folder says of its network: the schema of ``config.yaml``.

The file is data: nothing in it is executed, and a key that is not known is an error, since a typing
mistake that is ignored changes results in silence.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stitchsafe.errors import ModelError

__all__ = [
    "InputConfig",
    "LabelsConfig",
    "ModelConfig",
    "NetworkConfig",
    "OutputConfig",
    "TilingConfig",
    "load_config",
]

Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Strict):
    """Which architecture, with which arguments."""

    name: Literal["unet"]
    arguments: dict[str, Any] = {}


class InputConfig(_Strict):
    """What the network was trained to see."""

    axes: Literal["yx", "zyx"]
    channels: Positive = 1
    voxel_size: tuple[float, ...] | None = None
    unit: str = "nanometer"
    normalize: Literal["none", "zscore", "percentile"] = "none"
    percentiles: tuple[float, float] = (1.0, 99.0)


class OutputConfig(_Strict):
    """One output of the network."""

    name: str
    channels: Positive
    activation: Literal["none", "sigmoid", "softmax"] = "none"


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
    network: NetworkConfig
    input: InputConfig
    outputs: tuple[OutputConfig, ...]
    labels: LabelsConfig | None = None
    tiling: TilingConfig | None = None
    training: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    license: str = ""


def load_config(path: Path) -> ModelConfig:
    """Read and check a ``config.yaml``.

    Raises
    ------
    ModelError
        If it is not YAML, or does not follow the schema; names the key and the nearest known one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} cannot be read as YAML ({reason}); repair the file") from error
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{path} is not a model's configuration: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), _known_keys(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {place!r}{hint}"
    return f"{place}: {problem['msg']}"


def _known_keys() -> list[str]:
    models = (ModelConfig, NetworkConfig, InputConfig, OutputConfig, LabelsConfig, TilingConfig)
    return sorted({field.alias or name for m in models for name, field in m.model_fields.items()})
