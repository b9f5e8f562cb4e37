"""What `stitchsafe check` says of networks that others made, as a table for the documentation.

Each network is built with random weights, or read from a file, and analysed. Where safe, the
probe measures the running network, and a volume that is longer than the context is stitched from
tiles and compared with one pass over the whole. Packages that are absent are listed as such::

    pip install monai dynamic-network-architectures pytorch3dunet elektronn3 careamics
    python benchmarks/survey.py --write docs/networks.md --models path/to/models
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import stitchsafe
from stitchsafe.errors import StitchsafeError
from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import Network, TorchNetwork, load_network
from stitchsafe.tiling import TileGrid


@dataclass(frozen=True)
class Entry:
    """One row: what is shown, and how to come by the network."""

    name: str
    origin: str
    make: Callable[[], Network]


def module(name: str, path: str, ndim: int = 3, /, *args: Any, **keywords: Any) -> Entry:
    """A network of another package, by ``package.module:class`` and its arguments."""

    def make() -> Network:
        package, attribute = path.split(":")
        factory = getattr(importlib.import_module(package), attribute)
        torch.manual_seed(0)
        return TorchNetwork(factory(*args, **keywords), name=name, ndim=ndim, channels=1)

    return Entry(name, path.split(".")[0], make)


def torch_entries() -> Iterator[Entry]:
    monai = "monai.networks.nets"
    for norm in ("instance", "batch"):
        features = (8, 8, 16, 32, 32, 8)
        yield module(f"BasicUNet, {norm} norm", f"{monai}:BasicUNet", 3, 3, 1, 2, features=features,
                     norm=norm)  # fmt: skip
        yield module(f"UNet, residual, {norm} norm", f"{monai}:UNet", 3, 3, 1, 2, (8, 16, 32),
                     (2, 2), num_res_units=2, norm=norm)  # fmt: skip
        yield module(f"DynUNet, {norm} norm", f"{monai}:DynUNet", 3, 3, 1, 2, (3, 3, 3), (1, 2, 2),
                     (2, 2), filters=(8, 16, 32), norm_name=norm)  # fmt: skip
    yield module("SegResNet, group norm", f"{monai}:SegResNet", 3, 3, 8, 1, 2)
    yield module("SegResNet, batch norm", f"{monai}:SegResNet", 3, 3, 8, 1, 2, norm="batch")
    yield module("AttentionUnet", f"{monai}:AttentionUnet", 3, 3, 1, 2, (8, 16, 32), (2, 2))
    yield module("UNETR", f"{monai}:UNETR", 3, 1, 2, (96, 96, 96), 8, 192, 384, 4)
    yield module("SwinUNETR", f"{monai}:SwinUNETR", 3, 1, 2, feature_size=12)
    plantseg = {"f_maps": 8, "num_levels": 3, "num_groups": 4}
    path = "pytorch3dunet.unet3d.model"
    yield module("UNet3D, group norm (PlantSeg)", f"{path}:UNet3D", 3, 1, 2, **plantseg)
    yield module("UNet3D, batch norm", f"{path}:UNet3D", 3, 1, 2, layer_order="bcr", **plantseg)
    yield module("ResidualUNet3D, batch norm", f"{path}:ResidualUNet3D", 3, 1, 2,
                 layer_order="bcr", **plantseg)  # fmt: skip
    yield module("UNet2D, batch norm", f"{path}:UNet2D", 2, 1, 2, layer_order="bcr",
                 conv_padding=1, **plantseg)  # fmt: skip
    path = "dynamic_network_architectures.architectures.unet"
    shared: dict[str, Any] = {
        "conv_op": nn.Conv3d, "kernel_sizes": 3, "strides": (1, 2, 2), "num_classes": 2,
        "conv_bias": True, "nonlin": nn.LeakyReLU, "norm_op_kwargs": {},
    }  # fmt: skip
    for title, norm_op in (("instance", nn.InstanceNorm3d), ("batch", nn.BatchNorm3d)):
        yield module(f"PlainConvUNet (nnU-Net), {title} norm", f"{path}:PlainConvUNet", 3, 1, 3,
                     (8, 16, 32), n_conv_per_stage=2, n_conv_per_stage_decoder=2, norm_op=norm_op,
                     **shared)  # fmt: skip
        yield module(f"ResidualEncoderUNet (nnU-Net), {title} norm", f"{path}:ResidualEncoderUNet",
                     3, 1, 3, (8, 16, 32), n_blocks_per_stage=2, n_conv_per_stage_decoder=1,
                     norm_op=norm_op, **shared)  # fmt: skip
    yield module("UNet (CAREamics)", "careamics.models.unet:UNet", 2, 2, depth=2,
                 num_channels_init=8)  # fmt: skip
    yield module("UNet (elektronn3)", "elektronn3.models.unet:UNet", 3, 1, 2, 3, 8)
    yield module("UNet, valid (elektronn3)", "elektronn3.models.unet:UNet", 3, 1, 2, 3, 8,
                 conv_mode="valid")  # fmt: skip
    yield module("UNet, planar blocks (elektronn3)", "elektronn3.models.unet:UNet", 3, 1, 2, 3, 8,
                 planar_blocks=(0,), normalization="batch")  # fmt: skip
    yield module("VNet", f"{monai}:VNet")


def file_entries(folder: Path) -> Iterator[Entry]:
    """Every model below a folder: bioimage.io packages, and files of ONNX outside of them."""
    packages = sorted({path.parent for path in folder.rglob("*bioimageio.yaml")})
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".onnx", ".czann") and path.parent not in packages
    ]
    for path in [*packages, *files]:
        origin = "bioimage.io package" if path in packages else path.parent.name
        yield Entry(path.name, origin, partial(load_network, path))


def long_extent(geometry: NetworkGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A volume in which tiles of the last axis see no border, and a tile of it."""
    tile = [max(axis.period, -(-16 // axis.period) * axis.period) for axis in geometry.axes]
    extent = [2 * t for t in tile]
    last = geometry.axes[-1]
    extent[-1] = -(-(sum(last.context) + 3 * tile[-1]) // last.period) * last.period
    # Extended to the next size that the network takes, the pass over the whole is one plain pass.
    for place, axis in enumerate(geometry.axes):
        while not axis.takes(extent[place] + axis.shrinkage):
            extent[place] += 1
    return tuple(extent), tuple(tile)


def stitched_against_whole(network: Network) -> float:
    """Largest difference of stitched fields from one pass, relative to the largest value."""
    geometry = network.geometry
    extent, tile = long_extent(geometry)
    image = np.random.default_rng(0).random((network.channels, *extent), np.float32)
    made = stitchsafe.predict(
        image, network, save="fields", tile_shape=tile, border="edge", normalize="none",
        axes="c" + "zyx"[-network.ndim :],
    )  # fmt: skip
    whole = TileGrid.of(geometry, extent, tile).whole()
    before = [-o for o in whole.input.offset]
    after = [end - e for end, e in zip(whole.input.end, extent, strict=True)]
    padded = np.pad(image, [(0, 0), *zip(before, after, strict=True)], "edge")
    worst = 0.0
    for output, field, expected in zip(
        geometry.outputs, made.fields.values(), network.run(padded[None]), strict=True
    ):
        inside = tuple(
            slice(a.start, a.start + n) for a, n in zip(output.axes, field.shape[1:], strict=True)
        )
        expected = expected[(0, slice(None), *inside)]
        worst = max(worst, float(np.abs(field - expected).max() / np.abs(expected).max()))
    return worst


def row(entry: Entry) -> str:
    """One line of the table."""
    began = time.perf_counter()
    try:
        network = entry.make()
        geometry = network.geometry
    except ImportError as error:
        return f"| {entry.name} | {entry.origin} | not installed ({error.name}) | | | | | |"
    except StitchsafeError as error:
        reason = str(error).split(entry.name, 1)[-1].strip(" :")
        return f"| {entry.name} | {entry.origin} | not loaded | | | | | {reason} |"
    seconds = time.perf_counter() - began
    period = "×".join(map(str, geometry.period))
    context = ", ".join(dict.fromkeys(f"{a.context[0]}/{a.context[1]}" for a in geometry.axes))
    sizes = ", ".join(dict.fromkeys(f"{a.input_min}+{a.input_step}k" for a in geometry.axes))
    proof = "; ".join(dict.fromkeys(f"`{b.layer}`: {b.reason}" for b in geometry.breaks[:1]))
    if len(geometry.breaks) > 1:
        proof += f" (and {len(geometry.breaks) - 1} more)"
    if geometry.verdict != "unsafe":
        probe = stitchsafe.check(network, probe=True).probe
        assert probe is not None
        seen = "contradicts" if probe.contradictions else "equals" if probe.equal else "within"
        proof = f"probe {seen} trace; "
        if all(axis.input_step for axis in geometry.axes):
            proof += f"stitched = whole to {stitched_against_whole(network):.0e}"
        else:
            proof += "takes no larger whole to compare with"
    size = f"{network.parameter_bytes / 4e6:.1f} M"
    cells = (entry.name, entry.origin, size, geometry.verdict, period, context, sizes, proof)
    print(f"{entry.name}: {geometry.verdict} ({seconds:.1f} s)", file=sys.stderr)
    return "| " + " | ".join(cells) + " |"


HEAD = """# Networks of others

What `stitchsafe check` says of networks that others made, written by `benchmarks/survey.py` (random
weights; context before/after and input sizes in voxels, one where all axes agree). For each that is
safe the probe measured the running network, and a volume longer than the context was stitched from
tiles and compared with one pass over the whole, relative to the largest value.

| network | from | parameters | verdict | period | context | input sizes | proof, or reason |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="folder with model files of others")
    parser.add_argument("--write", type=Path, help="file for the table; standard output by default")
    parser.add_argument("--only", default="", help="part of the names of networks to show")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    files = file_entries(arguments.models) if arguments.models else ()
    entries = [*files, *torch_entries()]
    with arguments.write.open("w") if arguments.write else nullcontext(sys.stdout) as table:
        table.write(HEAD)
        for entry in entries:
            if arguments.only in entry.name:
                table.write(row(entry) + "\n")
                table.flush()


if __name__ == "__main__":
    main()
