"""Fields stitched from tiles without a store, for comparing them with one whole pass."""

from __future__ import annotations

import numpy as np
import torch

from stitchsafe.coordinates import Roi
from stitchsafe.engine import FieldMaker, Intensity
from stitchsafe.networks import Network, TorchNetwork
from stitchsafe.tiling import Normalization, Recipe, TileGrid

__all__ = [
    "ArrayVolume", "field_maker", "own_pass", "relative_error", "stitched", "stitched_fields",
]  # fmt: skip
MODES = {"reflect": "reflect", "edge": "edge", "zero": "constant"}


class ArrayVolume:
    """An array of shape (channels, *spatial) as a volume."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.shape = data.shape[1:]

    def read(self, roi: Roi) -> np.ndarray:
        assert Roi.whole(self.shape).contains(roi)
        return self.data[(slice(None), *roi.slices)]


def field_maker(
    module: torch.nn.Module | Network,
    data: np.ndarray,
    tile_shape: tuple[int, ...],
    *,
    border: str = "reflect",
    precision: str = "float64",
    halo: tuple[tuple[int, int], ...] | None = None,
    roi: Roi | None = None,
) -> FieldMaker:
    network = TorchNetwork(module) if isinstance(module, torch.nn.Module) else module
    extent = data.shape[1:]
    grid = TileGrid.of(network.geometry, extent, tile_shape, halo)
    recipe = Recipe(
        network="test", weights="", extent=extent, roi=roi or Roi.whole(extent),
        tile_shape=grid.tile_shape, halo=grid.halo, cell_shape=grid.tile_shape,
        outputs=tuple((o.name, o.channels) for o in network.outputs), save_fields=True,
        labels=None, border=border, normalization=Normalization(), nan="refuse", device="cpu",
        precision=precision, layout="channels_last", threads=1, build="", processor="", seed=0,
        scales=tuple(tuple(map(str, o.scale)) for o in network.geometry.outputs),
    )  # fmt: skip
    channels = data.shape[0]
    intensity = Intensity((0.0,) * channels, (1.0,) * channels, recipe.kept)
    return FieldMaker(recipe, grid, network, ArrayVolume(data), intensity)


def stitched_fields(
    maker: FieldMaker, block_shape: tuple[int, ...] | None = None
) -> dict[str, np.ndarray]:
    """All fields over the whole volume, cell by cell as the engine computes them; NaN elsewhere."""
    recipe = maker.recipe
    made = {
        field.name: np.full((field.channels, *field.shape(recipe.extent)), np.nan, recipe.kept)
        for field in recipe.fields
    }
    for block in recipe.cells.blocks(block_shape or recipe.cell_shape):
        source = maker.read(block)
        for cell in recipe.cells.cells(block):
            found = maker.fields(cell, source)
            for field in recipe.fields:
                target = made[field.name][field.box(cell).slices]
                assert np.isnan(target).all(), "an element is written twice"
                target[...] = found[field.name]
    return made


def stitched(maker: FieldMaker, block_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The first field over the whole volume."""
    return stitched_fields(maker, block_shape)[maker.recipe.outputs[0][0]]


def own_pass(maker: FieldMaker) -> tuple[dict[str, np.ndarray], tuple[tuple[int, int], ...]]:
    """The network's own pass over the plain volume, and how far this had to be extended.

    No tile and no domain have a part in it. An axis is extended only where the network does not
    take the volume's size, or gives too few elements for it.
    """
    network, data, extent = maker.network, maker.volume.data, maker.recipe.extent
    axes = network.geometry.axes
    after = [0] * len(axes)
    while True:
        before = [axis.output_offset for axis in axes]
        sizes = [b + n + a for b, n, a in zip(before, extent, after, strict=True)]
        short = [not axis.takes(size) for axis, size in zip(axes, sizes, strict=True)]
        if not any(short):
            margins = tuple(zip(before, after, strict=True))
            # One voxel on every axis but one has nothing to reflect, so numpy repeats it.
            volume = np.pad(data, [(0, 0), *margins], mode=MODES[maker.recipe.border])
            found = {}
            for field, output, made in zip(
                maker.recipe.fields, network.geometry.outputs,
                network.run(volume[np.newaxis]), strict=True,
            ):  # fmt: skip
                wanted = field.shape(extent)
                cut = [
                    slice(a.start, a.start + n) for a, n in zip(output.axes, wanted, strict=True)
                ]
                found[field.name] = made[(0, slice(None), *cut)]
                held = found[field.name].shape[1:]
                short = [s or h < w for s, h, w in zip(short, held, wanted, strict=True)]
        if not any(short):
            return found, margins
        after = [a + s for a, s in zip(after, short, strict=True)]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
