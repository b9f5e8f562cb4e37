"""Models as others hand them out, made small: packages, architectures, and files that mean harm."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

__all__ = ["UNET_SOURCE", "Trap", "package", "small_package"]

UNET_SOURCE = '''
"""A U-Net whose parameters have the names of those that many packages were trained with."""

import torch
from torch import nn
from torch.nn.functional import interpolate


def block(inside, outside, norm):
    parts = []
    for channels in (inside, outside):
        parts += [nn.InstanceNorm2d(channels)] if norm else []
        parts += [nn.Conv2d(channels, outside, 3, padding=1), nn.ReLU()]
    held = nn.Module()
    held.block = nn.Sequential(*parts)
    return held


def sampler(inside, outside):
    held = nn.Module()
    held.conv = nn.Conv2d(inside, outside, 1)
    return held


class UNet2d(nn.Module):
    def __init__(self, in_channels, out_channels, initial_features, depth, norm=True, **_):
        super().__init__()
        sizes = [initial_features * 2**k for k in range(depth + 1)]
        pairs = list(zip([in_channels, *sizes], sizes))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.blocks = nn.ModuleList(block(a, b, norm) for a, b in pairs[:-1])
        self.base = block(*pairs[-1], norm)
        back = list(zip(sizes[::-1], sizes[-2::-1]))
        self.decoder.blocks = nn.ModuleList(block(a, b, norm) for a, b in back)
        self.decoder.samplers = nn.ModuleList(sampler(a, b) for a, b in back)
        self.out_conv = nn.Conv2d(sizes[0], out_channels, 1)

    def features(self, x):
        kept = []
        for part in self.encoder.blocks:
            x = part.block(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.base.block(x)
        for part, up in zip(self.decoder.blocks, self.decoder.samplers):
            x = up.conv(interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            x = part.block(torch.cat([x, kept.pop()], dim=1))
        return self.out_conv(x)

    def forward(self, x):
        return self.features(x)


class ResizeUNet(UNet2d):
    def forward(self, x):
        return interpolate(self.features(x), scale_factor=0.5)


class MultiTensorUNet(UNet2d):
    def __init__(self, **arguments):
        super().__init__(norm=False, **arguments)

    def forward(self, first, second):
        both = self.features(torch.cat([first, second], dim=1))
        return [both[:, k : k + 1] for k in range(both.shape[1])]
'''


class Trap:
    """Unpickled, it makes a folder: what is read must leave none."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return (Path.mkdir, (self.marker,))

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self)


def space(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "space", "id": name, "size": {"min": 8, "step": 4}, **more}


def package(**changes: Any) -> dict[str, Any]:
    """A description in format 0.5 of a network with one input and one output."""
    channel = {"type": "channel", "channel_names": ["a"]}
    first = {
        "id": "raw",
        "axes": [{"type": "batch"}, channel, space("y"), space("x")],
        "preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}],
    }
    size = {"tensor_id": "raw", "axis_id": "y"}
    output = {
        "id": "probability",
        "axes": [{"type": "batch"}, channel, space("y", size=size), space("x", size=size)],
        "postprocessing": [{"id": "sigmoid"}],
    }
    weights = {
        "pytorch_state_dict": {
            "source": "weights.pt",
            "architecture": {"source": "net.py", "callable": "make", "kwargs": {"features": 3}},
        }
    }
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "small",
        "inputs": [first],
        "outputs": [output],
        "weights": weights,
        **changes,
    }


SMALL_SOURCE = """
from torch import nn

def make(features=2, outputs=1):
    return nn.Sequential(
        nn.Conv2d(1, features, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(features, outputs, 3, padding=1), nn.Upsample(scale_factor=2),
    )
"""


def small_package(folder: Path, source: str = SMALL_SOURCE, **changes: Any) -> Path:
    """A sound package in a new folder."""
    folder.mkdir()
    made: dict[str, Any] = {}
    exec(SMALL_SOURCE, made)
    torch.manual_seed(0)
    torch.save(made["make"](features=3).state_dict(), folder / "weights.pt")
    (folder / "net.py").write_text(source)
    (folder / "bioimageio.yaml").write_text(yaml.safe_dump(package(**changes)))
    return folder
