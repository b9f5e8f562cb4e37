"""From what the user names to a network: the one place that knows all its forms.

::

    disks-2d                   a name in models/, beside the package or inside an installed wheel
    folder/                    a model folder, or a bioimage.io package
    model.zip                  a bioimage.io package
    model.onnx                 an ONNX file
    model.pt2                  a program of torch.export; runs code, and needs trust
    package.module:factory     code that the user has installed; arguments and weights apart

A file is known by what it holds where its name could mislead. Nothing here runs code that a file
brings along, unless the user says that it may.
"""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from stitchsafe.bundled import models_root
from stitchsafe.errors import ModelError
from stitchsafe.networks._bioimageio import load_package
from stitchsafe.networks._config import ModelConfig, load_config
from stitchsafe.networks._damage import damage_named
from stitchsafe.networks._exported import load_exported
from stitchsafe.networks._factory import build_from, is_factory
from stitchsafe.networks._folder import load_folder
from stitchsafe.networks._onnx import ONNX_SUFFIXES, load_onnx
from stitchsafe.networks._package import describes, opened, zip_names
from stitchsafe.networks._protocol import Network
from stitchsafe.networks._torch import TorchNetwork
from stitchsafe.networks._torch_ready import own_copy
from stitchsafe.networks._weights import load_weights

__all__ = ["bundled_models", "load_network", "models_root"]

_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


def bundled_models() -> dict[str, ModelConfig]:
    """Configurations of the models that come with the package, by name."""
    folders = sorted(path.parent for path in models_root().glob("*/config.yaml"))
    return {folder.name: load_config(folder / "config.yaml") for folder in folders}


def load_network(
    model: str | Path | nn.Module | Network,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_channels: int | Sequence[int] | None = None,
    model_axes: str | Mapping[str, str] | None = None,
    trust: bool = False,
) -> Network:
    """Load the network that `model` names.

    Parameters
    ----------
    model
        A name in ``models/``, a model folder, a bioimage.io package (folder or zip), an ONNX file,
        a ``.pt2``, ``package.module:factory``, a `torch.nn.Module`, or a network already loaded.
    weights
        File of weights for a factory or a module: safetensors, or a state dict that torch saved.
    arguments
        Keyword arguments for a factory.
    input_channels
        Channels of each tensor that a factory's network or a module takes, in order; by default
        those of its convolutions, where it takes one tensor.
    model_axes
        Layout of all inputs of an ONNX file, such as ``"bczyx"``, or of single inputs and outputs
        by name; by default they are read from the graph.
    trust
        Whether code that `model` brings along or names may run: that of a ``.pt2``, and the
        architecture of a bioimage.io package.

    Raises
    ------
    ModelError
        If there is no such model, it cannot be loaded, or that would run code without trust.
    """
    given = _Given(weights, arguments, _counts(input_channels), model_axes, trust)
    if isinstance(model, nn.Module):
        given.refuse(type(model).__name__, "arguments", "model_axes")
        if weights is not None:
            model = own_copy(model, type(model).__name__)
            load_weights(model, Path(weights))
        return TorchNetwork(model, channels=given.input_channels)
    if not isinstance(model, str | Path):
        given.refuse(model.name)
        return model
    try:
        return _named(str(model), given)
    except OSError as error:
        raise ModelError(
            f"{model} cannot be read ({error.strerror or error}); check path and permissions"
        ) from error


@dataclass(frozen=True, slots=True)
class _Given:
    """What the user says of a model beside its name; see :func:`load_network`."""

    weights: str | Path | None
    arguments: Mapping[str, Any] | None
    input_channels: tuple[int, ...] | None
    model_axes: str | Mapping[str, str] | None
    trust: bool

    def refuse(self, model: str, *names: str) -> None:
        """Refuse some options, by default all of them, for a model that says it itself."""
        for name in names or ("weights", "arguments", "input_channels", "model_axes"):
            if not getattr(self, name):
                continue
            owner = "--weights, --arg and --input-channels go with package.module:factory"
            if name == "model_axes":
                owner = "--model-axes goes with ONNX files"
            raise ModelError(
                f"{model} says itself what it is made of, and takes no {name} ({owner}); leave "
                "them out"
            )


def _counts(channels: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if channels is None:
        return None
    each: tuple[Any, ...] = (channels,) if not isinstance(channels, Iterable) else tuple(channels)
    if not each or not all(isinstance(count, Integral) and int(count) > 0 for count in each):
        raise ModelError(
            f"input_channels cannot be {channels!r}; give a positive whole number for each input, "
            "such as 1,2"
        )
    return tuple(map(int, each))


def _named(model: str, given: _Given) -> Network:
    path = Path(model)
    bundled = models_root() / model
    named = path.parent == Path() and (bundled / "config.yaml").is_file()
    if path.is_file():
        with damage_named(f"{path} cannot be loaded"):
            return _file(path, given)
    if path.exists() or named:
        given.refuse(model)
    if path.is_dir():
        with damage_named(f"{path} cannot be loaded"):
            return _folder(path, given)
    if named:
        return load_folder(bundled)
    if is_factory(model):
        given.refuse(model, "model_axes")
        module = build_from(model, given.arguments)
        if given.weights is not None:
            load_weights(module, Path(given.weights))
        return TorchNetwork(module, name=model, channels=given.input_channels)
    raise _unknown(model)


def _folder(path: Path, given: _Given) -> Network:
    described = describes([each.name for each in path.iterdir()])
    if described and not (path / "config.yaml").is_file():
        return _package(path, given.trust)
    return load_folder(path, trust=given.trust)


def _package(path: Path, trust: bool) -> Network:
    with ExitStack() as stack:
        network = load_package(stack.enter_context(opened(path)), trust=trust)
        if not isinstance(network, TorchNetwork):
            # Its files are read again when it runs: they go when it goes.
            weakref.finalize(network, stack.pop_all().close)
        return network


def _file(path: Path, given: _Given) -> Network:
    if path.suffix.lower() in ONNX_SUFFIXES:
        given.refuse(str(path), "weights", "arguments", "input_channels")
        return load_onnx(path, axes=given.model_axes)
    given.refuse(str(path))
    with path.open("rb") as file:
        start = file.read(4)
    names = zip_names(path) if start[:2] == b"PK" else []
    if describes(names):
        return _package(path, given.trust)
    if any(name.endswith("/archive_format") or name == "archive_format" for name in names):
        if not given.trust:
            raise ModelError(
                f"{path} is a program of torch.export, which runs code when it is loaded; add "
                "--trust-model if you trust who made it, or export it as ONNX"
            )
        return load_exported(path)
    if path.suffix.lower() == ".pt2":
        raise ModelError(f"{path} is no program of torch.export, or is damaged; export it again")
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelError(
            f"{path} is TorchScript, whose layers cannot be analysed; export the network as ONNX, "
            "or give its code and weights with -m package.module:factory --weights FILE"
        )
    if (
        start[:1] == b"\x80"
        or any(name.endswith(".pkl") for name in names)
        or path.suffix.lower() in _PICKLES
    ):
        raise ModelError(
            f"{path} is a pickle, which runs code when it is loaded; if it holds weights, give "
            "them with -m package.module:factory --weights FILE, or save them as safetensors in a "
            "model folder"
        )
    if path.suffix.lower() == ".safetensors":
        raise ModelError(
            f"{path} holds weights alone; say what network they are of with "
            "-m package.module:factory --weights FILE"
        )
    raise ModelError(
        f"{path} is a file of no known kind, and a model is a folder that holds config.yaml and "
        "weights.safetensors, an ONNX file, a bioimage.io package, or package.module:factory"
    )


def _unknown(model: str) -> ModelError:
    known = [folder.parent.name for folder in sorted(models_root().glob("*/config.yaml"))]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ModelError(
        f"there is no model {model!r}: {hint}bundled are {', '.join(known) or 'none'}, and else it "
        "is the path of a model or package.module:factory"
    )
