"""Model folders: ``config.yaml``, ``weights.safetensors``, ``card.md``, ``geometry.json``.

Nothing in a folder is executed: the configuration is plain YAML, the weights are safetensors, and
the architecture is one of stitchsafe's own, named in the configuration. It may also name code that
the user has installed, which runs with trust only: whoever made the folder chose the name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import yaml
from safetensors.torch import load_file, save
from torch import nn

from stitchsafe import nn as layers
from stitchsafe.errors import ModelError
from stitchsafe.geometry import Graph, NetworkGeometry
from stitchsafe.networks._config import ModelConfig, load_config
from stitchsafe.networks._damage import damage_named
from stitchsafe.networks._factory import build_from, is_factory
from stitchsafe.networks._torch import TorchNetwork

__all__ = ["build_module", "load_folder", "network_of", "save_config", "save_folder", "write_whole"]

_ARCHITECTURES = {"unet": layers.UNet}

_ANALYSED: dict[str, NetworkGeometry] = {}
"""By architecture and what it is given: weights have no part in it."""

_TRACED: dict[tuple[str, tuple[int, ...]], Graph] = {}
_LAYOUTS: dict[tuple[str, str], str] = {}
"""By that too, and a size or a precision."""

_MOST = 64
"""Graphs that are kept. A plan asks for a few sizes, and the next one often for the same."""


class _FolderNetwork(TorchNetwork):
    """Its configuration tells all of its structure, so that a process analyses this once."""

    @cached_property
    def geometry(self) -> NetworkGeometry:
        if self._structure is None:
            return super().geometry
        if self._structure not in _ANALYSED:
            _ANALYSED[self._structure] = super().geometry
        return _ANALYSED[self._structure]

    def trace(self, shape: Sequence[int]) -> Graph:
        if self._structure is None:
            return super().trace(shape)
        key = (self._structure, tuple(shape))
        if (known := _TRACED.get(key)) is not None:
            return known
        graph = super().trace(shape)
        if len(_TRACED) >= _MOST:
            _TRACED.clear()
        _TRACED[key] = graph
        return graph

    def layout_for(self, precision: str) -> str:
        if self._structure is None:
            return super().layout_for(precision)
        key = (self._structure, precision)
        if key not in _LAYOUTS:
            _LAYOUTS[key] = super().layout_for(precision)
        return _LAYOUTS[key]

    @cached_property
    def _structure(self) -> str | None:
        """All that a trace depends on; None for a module that its configuration does not name."""
        assert self.config is not None
        if self.config.network is None:
            return None
        return f"{self.config.network!r} {self.ndim} {self._split}"


def build_module(config: ModelConfig, *, trust: bool = False) -> nn.Module:
    """The architecture that a configuration names, with fresh weights.

    Raises
    ------
    ModelError
        If it names none, or code without `trust`, or the architecture does not take the arguments.
    """
    if config.network is None:
        raise ModelError(
            f"the configuration of {config.name!r} names no network; give network: with one of "
            f"{', '.join(_ARCHITECTURES)}"
        )
    if is_factory(config.network.name):
        if not trust:
            raise ModelError(
                f"{config.name!r} is made by {config.network.name}, code that runs when the "
                "network is built; add --trust-model if you trust what is installed under that name"
            )
        return build_from(config.network.name, config.network.arguments)
    try:
        return _ARCHITECTURES[config.network.name](**config.network.arguments)
    except Exception as error:
        raise ModelError(
            f"the configuration of {config.name!r} does not fit {config.network.name!r}: {error}"
        ) from error


def load_folder(folder: Path, *, trust: bool = False) -> TorchNetwork:
    """Load a model folder.

    Raises
    ------
    ModelError
        If a file is missing or damaged, the weights do not fit the architecture, or it is code of
        the user's and there is no `trust`.
    """
    for name in ("config.yaml", "weights.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not a model folder: it has no {name}; "
                "a model folder holds config.yaml and weights.safetensors"
            )
    config = load_config(folder / "config.yaml")
    module = build_module(config, trust=trust)
    weights = folder / "weights.safetensors"
    with damage_named(f"{weights} does not hold weights for its config.yaml", "fetch both again"):
        module.load_state_dict(load_file(weights))
    return network_of(module, config)


def network_of(module: nn.Module, config: ModelConfig) -> TorchNetwork:
    """A module as the network that its model folder would give.

    Analysed once per process, where stitchsafe's own architectures are all of it.
    """
    known = config.network is not None and config.network.name in _ARCHITECTURES
    return (_FolderNetwork if known else TorchNetwork)(module, config=config)


def save_folder(folder: Path, module: nn.Module, config: ModelConfig) -> None:
    """Write weights, configuration and geometry of a module (not its card or picture)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    # Not by save_file, which lets nobody else read what it writes.
    write_whole(folder / "weights.safetensors", save(state))
    save_config(folder, config)
    network = network_of(module, config)  # a training writes its folder many times
    geometry = json.dumps(network.geometry.to_json(), indent=2) + "\n"
    write_whole(folder / "geometry.json", geometry.encode())


def save_config(folder: Path, config: ModelConfig) -> None:
    """Write the configuration of a model folder."""
    content = config.model_dump(mode="json", by_alias=True, exclude_defaults=False)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    write_whole(folder / "config.yaml", text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all, and durable then.

    What a crash leaves under the temporary name is overwritten by the next attempt.
    """
    temporary = path.with_name(f"{path.name}.stitchsafe-tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
