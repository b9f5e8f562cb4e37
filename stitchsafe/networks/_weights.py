"""Weights from a file into a module, without running anything that the file brings along.

A file is known by how it begins, not by its name. Safetensors are read as they are. What torch
saved is read by its restricted unpickler, which knows tensors and plain containers and refuses all
else before it is made. Checkpoints keep the weights among other things, and some wrappers put a
prefix before every name; both are understood. Weights that are older than a buffer of a layer are
taken where the layer says what it was before: as torch has it, by filling it into the state in
``_load_from_state_dict``. Parameters are never made up.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stitchsafe.errors import ModelError
from stitchsafe.legible import legible
from stitchsafe.networks._damage import damage_named, one_line
from stitchsafe.networks._torch_ready import refuse_unready

__all__ = ["load_weights", "read_weights"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network_weights", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a module.

    Raises
    ------
    ModelError
        If the file holds none, or they are not those of the module; names the first that differ.
    """
    refuse_unready(module, type(module).__name__)
    given, wanted = read_weights(path), module.state_dict()
    state = _without_prefix(given, wanted)
    buffers = {name for name, _ in module.named_buffers()}
    missing = [key for key in wanted if key not in state and key not in buffers]
    _refuse_other_names(missing, [key for key in state if key not in wanted], path, module)
    for name, tensor in wanted.items():
        if name in state and tuple(state[name].shape) != tuple(tensor.shape):
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: {name} has the shape "
                f"{tuple(state[name].shape)}, and the network takes {tuple(tensor.shape)}; give "
                "the arguments that the network was trained with"
            )
    with damage_named(f"{path} does not fit {type(module).__name__}", "give its own weights"):
        left = module.load_state_dict(state, strict=False)
    _refuse_other_names(left.missing_keys, [], path, module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises
    ------
    ModelError
        If there is no such file, it is damaged, or to read it would run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise ModelError(f"the weights {path} cannot be read ({error.strerror})") from error
    if start == b"PK" or start[:1] == b"\x80":
        return _tensors(_unpickle(path), path)
    with damage_named(
        f"{path} holds no weights: it is no file of torch's and damaged or no safetensors",
        "give .safetensors, or .pth with a state dict",
    ):
        return load_file(path)


def _unpickle(path: Path) -> Any:
    _refuse_what_swells(path)
    try:
        # Opened here: given a path, torch would look at its name.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is a pickle of more than weights, which runs code when it is loaded, and was "
            f"refused unread ({_blamed(error)}); save module.state_dict() alone, or as safetensors"
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive, a network and no weights; give it as the model, "
                "with --trust-model"
            ) from error
        raise ModelError(f"{path} is damaged ({one_line(error)}); fetch it again") from error
    except Exception as error:
        raise ModelError(f"{path} is damaged ({one_line(error)}); fetch it again") from error


def _refuse_what_swells(path: Path) -> None:
    """Refuse an archive that unpacks to much more than it is: torch never compresses."""
    with damage_named(f"{path} is damaged"):
        if not zipfile.is_zipfile(path):  # which raises, too
            return
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if total > 2 * size + 2**20:
        raise ModelError(
            f"{path} has {size} bytes and unpacks to {total}, which torch's own files never do; "
            "save it again with torch.save"
        )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if found:
            return found
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
    found_instead = f"a mapping with {keys}" if keys else f"a {type(content).__name__}"
    raise ModelError(
        f"{path} holds {found_instead}, and no tensors by name; save module.state_dict(), alone or "
        "under 'state_dict'"
    )


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name, as long as it fits the module no better."""
    for _ in range(len(_PREFIXES)):
        if state.keys() == wanted.keys():
            break
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None or any(key.startswith(prefix) for key in wanted):
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _refuse_other_names(
    missing: Sequence[str], unexpected: Sequence[str], path: Path, module: nn.Module
) -> None:
    if not missing and not unexpected:
        return
    parts = [
        f"{len(keys)} {what}, first {legible(', '.join(keys[:3]))}"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    raise ModelError(
        f"{path} does not hold the weights of {type(module).__name__} ({'; '.join(parts)}); give "
        "the arguments that the network was trained with, or its own weights"
    )


def _blamed(error: Exception) -> str:
    """What a refused pickle asked for, of torch's many lines."""
    text = " ".join(str(error).split())
    for begin in ("Unsupported global: ", "Unsupported class ", "Unsupported operand "):
        place = text.find(begin)
        if place >= 0:
            return text[place : place + 120].split(" was not ")[0].split(". ")[0]
    return "it asks for what is no tensor"
