"""Tiny model folders, and results of predict taken apart for comparison."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stitchsafe.engine import load_json, save_json
from stitchsafe.networks import ModelConfig, save_folder
from stitchsafe.nn import UNet

__all__ = ["Content", "content_of", "edit_json", "smooth_volume", "tiny_model", "tree"]

Content = dict[str, Any]


def tiny_model(
    folder: Path,
    *,
    ndim: int = 3,
    window: tuple[int, ...] = (16, 16, 16),
    tile: tuple[int, ...] | None = None,
    voxel_size: tuple[float, ...] | None = None,
    channels: int = 1,
    normalize: str = "zscore",
    labels: dict[str, Any] | None = None,
    seed: int = 0,
    **arguments: Any,
) -> Path:
    """A model folder with an embedding and a foreground head, and weights that nobody trained."""
    network = {
        "ndim": ndim, "in_channels": channels, "levels": 1, "base_channels": 2,
        "heads": {"embedding": 2, "foreground": 1}, **arguments,
    }  # fmt: skip
    axes = "zyx"[-ndim:]
    config = {
        "format": "stitchsafe-model/1",
        "name": folder.name,
        "network": {"name": "unet", "arguments": network},
        "input": {
            "axes": axes, "channels": channels, "normalize": normalize,
            "voxel_size": voxel_size, "unit": "nanometer",
        },
        "outputs": [
            {"name": "embedding", "channels": 2},
            {"name": "foreground", "channels": 1, "activation": "sigmoid"},
        ],
        "labels": {
            "from": "embeddings", "background": "foreground", "bandwidth": 0.8, "window": window,
            **(labels or {}),
        },
        "tiling": {"tile_shape": tile or window},
    }  # fmt: skip
    files = _files_of_folder(json.dumps(config), json.dumps(network), seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@functools.cache
def _files_of_folder(config: str, network: str, seed: int) -> dict[str, bytes]:
    """The files of a model folder, for which a network is analysed once."""
    torch.manual_seed(seed)
    module = UNet(**json.loads(network))
    with torch.no_grad():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 0.1)
    with tempfile.TemporaryDirectory() as place:
        save_folder(Path(place), module, ModelConfig.model_validate_json(config))
        return {file.name: file.read_bytes() for file in Path(place).iterdir()}


def smooth_volume(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs rather than noise, so that instances are larger than a voxel."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, 2.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record of a result as if it had been written so, its checksum included."""
    content = load_json(path)
    change(content)
    save_json(path, content)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; a link by where it points."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def content_of(store: Path) -> Content:
    """All of a result but what may differ from run to run: times, the schedule, locks, and which
    entry of the ledger a cell stands in."""
    content: Content = {}
    ledger: dict[str, dict[str, Any]] = {}
    for name, data in tree(store).items():
        if name.startswith(".stitchsafe/ledger/") and name.endswith(".json"):
            entry = json.loads(data)
            for cell in entry["cells"]:
                cells = ledger.setdefault(entry["stage"], {})
                assert str(cell["index"]) not in cells, f"{cell['index']} is entered twice"
                cells[str(cell["index"])] = cell["record"]
        elif name.startswith(".stitchsafe/ledger/lock"):
            assert data == b""
        elif name not in (".stitchsafe/provenance.json", ".stitchsafe/schedule.json"):
            content[name] = data
    return {**content, "ledger": ledger}
