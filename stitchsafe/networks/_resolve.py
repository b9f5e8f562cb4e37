"""From what the user names to a network: a bundled name, a model folder, or a module.

Names are looked up in ``models/``, which lies beside the package in a checkout and inside it in an
installed wheel.
"""

from __future__ import annotations

import difflib
import zipfile
from pathlib import Path

from torch import nn

from stitchsafe.errors import ModelError
from stitchsafe.networks._config import ModelConfig, load_config
from stitchsafe.networks._folder import load_folder
from stitchsafe.networks._onnx import ONNX_SUFFIXES, load_onnx
from stitchsafe.networks._protocol import Network
from stitchsafe.networks._torch import TorchNetwork

__all__ = ["bundled_models", "load_network", "models_root"]

_PACKAGE = Path(__file__).resolve().parent.parent
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


def models_root() -> Path:
    """Where the bundled models lie: beside the package in a checkout, inside it once installed."""
    installed = _PACKAGE / "_models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def bundled_models() -> dict[str, ModelConfig]:
    """Configurations of the models that come with the package, by name."""
    folders = sorted(path.parent for path in models_root().glob("*/config.yaml"))
    return {folder.name: load_config(folder / "config.yaml") for folder in folders}


def load_network(model: str | Path | nn.Module | Network) -> Network:
    """Load the network that `model` names.

    Parameters
    ----------
    model
        A name in ``models/``, a model folder, an ONNX file, a `torch.nn.Module`, or a network
        already loaded.

    Raises
    ------
    ModelError
        If there is no such model, or loading it would run code that it brings along.
    """
    if isinstance(model, nn.Module):
        return TorchNetwork(model)
    if not isinstance(model, str | Path):
        return model
    path = Path(model)
    if path.is_dir():
        return load_folder(path)
    if path.is_file() and path.suffix.lower() in ONNX_SUFFIXES:
        return load_onnx(path)
    if path.is_file():
        raise _not_a_folder(path)
    bundled = models_root() / str(model)
    if path.parent == Path() and (bundled / "config.yaml").is_file():
        return load_folder(bundled)
    raise _unknown(str(model))


def _not_a_folder(path: Path) -> ModelError:
    if path.suffix.lower() in _PICKLES or _looks_pickled(path):
        return ModelError(
            f"{path} is a pickle, which runs code when it is loaded; save its weights as "
            "safetensors in a model folder (config.yaml and weights.safetensors) instead"
        )
    return ModelError(
        f"{path} is a file, and a model is a folder that holds config.yaml and weights.safetensors"
    )


def _looks_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80":
        return True
    if start != b"PK" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


def _unknown(model: str) -> ModelError:
    known = [folder.parent.name for folder in sorted(models_root().glob("*/config.yaml"))]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ModelError(
        f"there is no model {model!r}: {hint}bundled are {', '.join(known) or 'none'}, "
        "and a path must be a model folder"
    )
