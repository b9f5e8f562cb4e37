"""A bioimage.io model description, formats 0.4 and 0.5, as it is written.

Only what bears on running the network is read, and that strictly; authors, covers, links and the
like are left alone. The older format is brought into the form of the newer one. It is read here
and not by a library: a description comes from a stranger, and this reader neither fetches nor
looks at any other file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stitchsafe.errors import ModelError
from stitchsafe.networks._config import LabelsConfig, TilingConfig, first_problem
from stitchsafe.networks._yaml import read_yaml

__all__ = [
    "Architecture",
    "Axis",
    "Description",
    "Processing",
    "Size",
    "Tensor",
    "Weights",
    "read_description",
]

_LETTERS = {"batch": "b", "channel": "c", "index": "i", "time": "t"}
_TYPES = {"b": "batch", "c": "channel", "i": "index", "t": "time"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Size(_Part):
    """A size: ``min + k * step``, or that of another axis."""

    min: int | None = None
    step: int = 0
    tensor_id: str | None = None
    axis_id: str | None = None


class Axis(_Part):
    """One axis of a tensor."""

    type: Literal["batch", "channel", "index", "time", "space"]
    id: str = ""
    size: int | Size | None = None
    channel_names: tuple[str, ...] | None = None
    scale: float = 1.0
    unit: str | None = None
    halo: int = 0

    @property
    def name(self) -> str:
        return self.id or ("x" if self.type == "space" else self.type)

    @property
    def letter(self) -> str:
        """As in a layout: ``b``, ``c``, ``z``, ``y``, ``x``."""
        return self.name if self.type == "space" else _LETTERS[self.type]


class Processing(_Part):
    """One step of pre- or postprocessing."""

    id: str = Field(validation_alias=AliasChoices("id", "name"))
    kwargs: dict[str, Any] = {}


class Tensor(_Part):
    """An input or output."""

    id: str = ""
    axes: tuple[Axis, ...]
    optional: bool = False
    preprocessing: tuple[Processing, ...] = ()
    postprocessing: tuple[Processing, ...] = ()

    @property
    def layout(self) -> str:
        return "".join(axis.letter for axis in self.axes)

    @property
    def channels(self) -> int:
        """1 where there is no such axis."""
        return next((len(a.channel_names or ()) for a in self.axes if a.type == "channel"), 1)


class Architecture(_Part):
    """What makes the network that a state dict belongs to: a file of the package, or a package."""

    callable: str
    source: str | None = None
    sha256: str | None = None
    import_from: str | None = None
    kwargs: dict[str, Any] = {}


class Weights(_Part):
    """One set of weights."""

    source: str
    sha256: str | None = None
    architecture: Architecture | None = None


def _mapping(value: Any) -> Any:
    """Nothing where a program left something else than keys and values."""
    return value if isinstance(value, dict) else {}


class Own(_Part):
    """What a package of ours says beyond the format; keys that are added later do no harm."""

    labels: LabelsConfig | None = None
    tiling: TilingConfig | None = None
    training: dict[str, Any] = {}


class Extras(_Part):
    """The part of a description that each program may use for itself."""

    stitchsafe: Annotated[Own, BeforeValidator(_mapping)] = Own()


class Description(_Part):
    """What a package says of its model."""

    format_version: str
    type: Literal["model"] = "model"
    name: str
    description: str = ""
    license: str | None = None
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    weights: dict[str, Weights] = Field(min_length=1)
    run_mode: dict[str, Any] | None = None
    config: Annotated[Extras, BeforeValidator(_mapping)] = Extras()


def read_description(path: Path, origin: Path) -> Description:
    """Read a description.

    Parameters
    ----------
    origin
        The package that it describes, for messages.

    Raises
    ------
    ModelError
        If it is not one of these formats, or says of the network what cannot be.
    """
    content = read_yaml(path)
    version = content.get("format_version") if isinstance(content, dict) else None
    where = origin if path.parent != origin else path
    if not isinstance(version, str) or version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
        raise ModelError(
            f"{where} has the format version {version!r}, and 0.4 and 0.5 are read; bring it to "
            "one of them"
        )
    try:
        if version.startswith("0.4"):
            content = _of_0_4(content)
        description = Description.model_validate(_with_names(content))
    except ValidationError as error:
        raise ModelError(
            f"{where} is not a model's description: {first_problem(error, [])}; repair it"
        ) from error
    except Exception as error:  # a value of another kind than meant, wherever it is first used
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{where} is not a model's description ({reason}); repair it") from error
    return description


def _with_names(content: dict[str, Any]) -> dict[str, Any]:
    """Tensors without a name called as the format calls them."""
    named = dict(content)
    for key in ("inputs", "outputs"):
        named[key] = [{"id": key[:-1], **tensor} for tensor in content[key]]
    return named


def _of_0_4(content: dict[str, Any]) -> dict[str, Any]:
    inputs = [_tensor_of_0_4(tensor, {}) for tensor in content["inputs"]]
    known = {tensor["id"]: tensor for tensor in inputs}
    return {
        **content,
        "inputs": inputs,
        "outputs": [_tensor_of_0_4(tensor, known) for tensor in content["outputs"]],
        "weights": {kind: _weights_of_0_4(each) for kind, each in content["weights"].items()},
    }


def _tensor_of_0_4(tensor: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    letters, shape = str(tensor["axes"]), tensor["shape"]
    halo = tensor.get("halo") or [0] * len(letters)
    axes = []
    for place, letter in enumerate(letters):
        axis: dict[str, Any] = {"type": _TYPES.get(letter, "space"), "halo": halo[place]}
        if axis["type"] == "space":
            axis["id"] = letter
        if isinstance(shape, dict) and "reference_tensor" in shape:
            # An output's size follows from the input's, and is derived, not read.
            scale, offset = shape["scale"][place], shape["offset"][place]
            size: Any = None
            if letter == "c":
                size = _channels_of_0_4(inputs[shape["reference_tensor"]], scale, offset)
        elif isinstance(shape, dict):
            step = int(shape["step"][place])
            size = {"min": shape["min"][place], "step": step} if step else shape["min"][place]
        else:
            size = shape[place]
        if letter == "c":
            count = size["min"] if isinstance(size, dict) else size
            axis["channel_names"] = [f"channel{k}" for k in range(min(int(count), 10_000))]
        else:
            axis["size"] = size
        axes.append(axis)
    return {**tensor, "id": tensor["name"], "axes": axes}


def _channels_of_0_4(reference: dict[str, Any], scale: float | None, offset: float) -> int:
    """``size * scale + 2 * offset``; without a scale the axis is new, and the offset its half."""
    channels = next(
        (len(a["channel_names"]) for a in reference["axes"] if a["type"] == "channel"), 1
    )
    return int(channels * (scale or 0) + 2 * offset)


def _weights_of_0_4(entry: dict[str, Any]) -> dict[str, Any]:
    architecture = entry.get("architecture")
    if not isinstance(architecture, str):
        return entry
    source, colon, name = architecture.rpartition(":")
    if colon:
        found = {"source": source, "sha256": entry.get("architecture_sha256"), "callable": name}
    else:
        place, _, name = architecture.rpartition(".")
        found = {"import_from": place, "callable": name}
    return {**entry, "architecture": {**found, "kwargs": entry.get("kwargs") or {}}}
