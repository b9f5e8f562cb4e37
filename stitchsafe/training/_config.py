"""What a training is: the schema of ``train.yaml``.

The file is data: nothing in it is executed, and a key that is not known is an error that names the
nearest known one, since a typing mistake that is ignored changes results in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from stitchsafe.errors import InputError
from stitchsafe.networks import (
    InputConfig,
    LabelsConfig,
    NetworkConfig,
    TilingConfig,
    is_factory,
)
from stitchsafe.training._data_config import AugmentationConfig, DataConfig
from stitchsafe.training._loop_config import (
    LogsConfig,
    OptimiserConfig,
    TemperatureConfig,
    ValidationConfig,
)
from stitchsafe.training._loss_config import (
    AffinityLossConfig,
    EmbeddingLossConfig,
    ForegroundLossConfig,
)
from stitchsafe.training._schema import Natural, Positive, Strict

__all__ = ["CardConfig", "TrainingConfig", "load_training"]


class CardConfig(Strict):
    """What the model's card says of the data, the licences, and who made it.

    What is not said is not made up: without a licence the card says that none is stated, and
    without words on the data it has the names of the files.
    """

    data: str = ""
    license: str = ""
    authors: tuple[Annotated[str, Field(pattern=r"^[^/\\]+$")], ...] = ()


_LEARNT = ("embedding", "foreground", "affinities")


class TrainingConfig(Strict):
    """A training's ``train.yaml``.

    ``neighbours`` is how many windows that directly neighbour each other make one example;
    ``allow_breaking_window`` takes a window that the theory warns of, and stamps the model with it.
    ``loss`` names a function of one's own, ``package.module:function``, which is added to the
    others; ``init`` weights to start from. Both it and a network of one's own need trust.
    """

    format: Literal["stitchsafe-training/1"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    data: DataConfig
    input: InputConfig
    network: NetworkConfig
    init: str | None = None
    window: tuple[Positive, ...]
    neighbours: Positive = 1
    allow_breaking_window: bool = False
    embedding: EmbeddingLossConfig | None = EmbeddingLossConfig()
    foreground: ForegroundLossConfig | None = None
    affinities: AffinityLossConfig | None = None
    loss: str | None = None
    augmentation: AugmentationConfig = AugmentationConfig()
    optimiser: OptimiserConfig
    temperature: TemperatureConfig | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: Positive | None = None
    checkpoint_every: Positive = 500
    validation: ValidationConfig | None = None
    logs: LogsConfig = LogsConfig()
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
        if self.loss is not None and not is_factory(self.loss):
            raise ValueError(f"loss {self.loss!r} is not of the form package.module:function")
        if self.network.name == "unet":
            _refuse_nameless(self.network.arguments.get("heads", {}))
        wanted = sorted(self._trained)
        if not wanted and self.loss is None:
            raise ValueError("nothing to learn: give embedding, foreground, affinities or loss")
        if self.loss is None and not any(getattr(self, name).counts for name in wanted):
            raise ValueError(
                f"the weight of {' and '.join(wanted)} is 0, so nothing would be learnt; give a "
                "loss a weight above 0"
            )
        heads = sorted(self.heads)
        if self.network.name == "unet" and (
            heads != wanted if self.loss is None else not set(wanted) <= set(heads)
        ):
            raise ValueError(f"the network's heads {heads} are not those trained: {wanted}")
        if self.affinities is not None:
            self.affinities.refuse_unfit(ndim, self.heads["affinities"])
        return self

    @property
    def _trained(self) -> list[str]:
        """The heads that have a loss."""
        return [name for name in _LEARNT if getattr(self, name) is not None]

    @property
    def heads(self) -> dict[str, int | None]:
        """The network's outputs in their order, with their channels where the file tells them."""
        if self.network.name == "unet":
            return dict(self.network.arguments.get("heads", {"embedding": 3}))
        return dict.fromkeys(self._trained or ["output"])


def _refuse_nameless(heads: Any) -> None:
    """Refuse heads that are not channels by name."""
    if not isinstance(heads, Mapping):
        raise ValueError(
            f"network.arguments.heads is {heads!r}; give channels by name, such as {{embedding: 3}}"
        )
    for name, channels in heads.items():
        if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
            raise ValueError(
                f"network.arguments.heads.{name} is {channels!r}, and a head has at least one "
                f"channel; the nearest that would do is {name}: 1"
            )


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
    if not isinstance(content, Mapping):
        what = "it is empty" if content is None else f"it holds a {type(content).__name__}"
        raise InputError(
            f"{path} is not a training: {what}; give keys and values, such as name: mine"
        )
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is not a training: {_first(error, content)}") from error


def _first(error: ValidationError, content: Mapping[str, Any]) -> str:
    """The first problem, in words of the file."""
    problem = error.errors()[0]
    kind, told = problem["type"], problem["msg"]
    place = ".".join(_written(problem["loc"], content, missing=kind == "missing"))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(
            str(problem["loc"][-1]), sorted(_keys(TrainingConfig)), n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"unknown key {place!r}; {hint}"
    if kind == "missing":
        return f"{place} is missing; give it"
    if kind == "value_error":
        told = str(problem["ctx"]["error"])
        return f"{place}: {told}" if place else told
    if kind.startswith("union_tag"):
        tag = problem["input"].get("kind") if isinstance(problem["input"], Mapping) else None
        found = "is missing" if tag is None else f"is {tag!r}"
        return f"{place}.kind {found}; give disks, volume or images"
    return f"{place} is {problem['input']!r}; {told[0].lower()}{told[1:]}"


def _written(loc: Sequence[int | str], content: Any, *, missing: bool) -> Iterator[str]:
    """What the file itself says of a place, without the names of what was tried there."""
    for number, part in enumerate(loc):
        if isinstance(content, Mapping) and part in content:
            content = content[part]
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part] if part < len(content) else None
        elif not (missing and number == len(loc) - 1):
            continue
        yield str(part)


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
