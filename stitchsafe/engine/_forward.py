"""Forward passes: from the volume to the field of a cell, tile by tile.

A block's input is read once; every tile takes its part of it through the border map, is scaled,
goes through the network, and its crop is written into the field. Crops are disjoint, so each voxel
is written once, by one pass whose input does not depend on the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine._border import behind, border_map
from stitchsafe.engine._intensity import Intensity
from stitchsafe.engine._shares import Shares
from stitchsafe.errors import NonFiniteError
from stitchsafe.networks import Network, Runtime
from stitchsafe.tiling import BorderRule, Recipe, Tile, TileGrid

__all__ = ["BlockInput", "FieldMaker", "Fields", "Readable"]

Fields = dict[str, NDArray[np.floating]]
"""Fields of a region by name, each of shape (channels, *elements that cover the region)."""


class Readable(Protocol):
    """What is read from: a volume."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, roi: Roi) -> NDArray[np.generic]: ...


@dataclass(frozen=True)
class BlockInput:
    """The part of a volume that a block's tiles read."""

    data: NDArray[np.generic]
    region: Roi
    extent: tuple[int, ...]
    border: BorderRule

    @classmethod
    def read(
        cls, volume: Readable, boxes: Sequence[Roi], border: BorderRule, also: Sequence[Roi] = ()
    ) -> BlockInput:
        """Read what stands for some boxes of the extended volume, and some of the volume, once."""
        stands = [behind(box, volume.shape, border) for box in boxes]
        region = Roi.around([*stands, *also])
        return cls(volume.read(region), region, volume.shape, border)

    def part(self, region: Roi) -> NDArray[np.generic]:
        """A region of the volume as it was read, of shape (channels, *region.shape)."""
        return self.data[(slice(None), *region.relative_to(self.region).slices)]

    def take(self, region: Roi, intensity: Intensity) -> NDArray[np.floating]:
        """The scaled input of one tile, of shape (channels, *region.shape)."""
        maps = [
            border_map(begin, end, extent, self.border) - origin
            for begin, end, extent, origin in zip(
                region.offset, region.end, self.extent, self.region.offset, strict=True
            )
        ]
        raw = self.data
        for axis, positions in enumerate(maps, start=1):
            if _is_run(positions):
                index = [slice(None)] * raw.ndim
                index[axis] = slice(int(positions[0]), int(positions[-1]) + 1)
                raw = raw[tuple(index)]
            else:
                raw = raw.take(positions, axis=axis)
        scaled = intensity.apply(raw)
        if self.border == "zero":
            inside = region.intersect(Roi.whole(self.extent)).relative_to(region)
            kept = np.zeros_like(scaled)
            kept[(slice(None), *inside.slices)] = scaled[(slice(None), *inside.slices)]
            return kept
        return scaled


class FieldMaker:
    """Computes fields of a recipe.

    Parameters
    ----------
    recipe, grid
        What to compute, and its tiles.
    network
        The network of the recipe.
    volume
        What it reads.
    intensity
        The scale, decided by consensus.
    device
        Which one passes run on; by default the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        grid: TileGrid,
        network: Network,
        volume: Readable,
        intensity: Intensity,
        *,
        device: str | None = None,
    ) -> None:
        self.recipe, self.grid, self.network = recipe, grid, network
        self.volume, self.intensity = volume, intensity
        network.prepare(
            Runtime(
                device=device or recipe.device,
                precision=recipe.precision,
                layout=recipe.layout,
                threads=recipe.threads,
            )
        )

    @cached_property
    def shares(self) -> Shares:
        """Which voxels each cell answers for."""
        return Shares(self.recipe, self.grid)

    def read(self, region: Roi) -> BlockInput:
        """The input of all tiles that meet `region`."""
        return BlockInput.read(self.volume, [self.grid.bounds(region)], self.recipe.border)

    def read_cells(self, cells: Sequence[Roi]) -> BlockInput | None:
        """The input of all tiles of some cells, and what the cells answer for; None for nothing."""
        wanted = [self.grid.bounds(cell) for cell in cells if not self.recipe.skips(cell)]
        shares = [share for cell in cells if (share := self.shares.of(cell)) is not None]
        if not shares:
            return None
        return BlockInput.read(self.volume, wanted, self.recipe.border, shares)

    def fields(self, cell: Roi, source: BlockInput) -> Fields:
        """The fields of one cell (or of any region, tile by tile): the elements that cover it."""
        return next(self.stream([cell], source))

    def stream(self, cells: Sequence[Roi], source: BlockInput) -> Iterator[Fields]:
        """The fields of each cell, in order, by one stream of passes over the tiles of them all."""
        tiles = [list(self.grid.tiles(cell)) for cell in cells]
        passes = self._passes([tile for each in tiles for tile in each], source)
        for cell, within in zip(cells, tiles, strict=True):
            fields = {
                field.name: np.empty(field.box(cell).shape, self.recipe.kept)
                for field in self.recipe.fields
            }
            for tile in within:
                # Not by `for`: what it iterates over must hold no result while the next is made.
                results = next(passes)
                self._place(tile, results, cell, fields)
                del results
            yield fields
            del fields

    def _place(
        self, tile: Tile, results: Sequence[NDArray[np.floating]], cell: Roi, fields: Fields
    ) -> None:
        """Put what a pass gave where it belongs in the fields of a cell."""
        wanted = tile.output.intersect(cell)
        for field, crop, result in zip(self.recipe.fields, tile.crops, results, strict=True):
            elements = field.elements(wanted)
            part = elements.relative_to(field.elements(tile.output)).shift(crop.offset)
            target = (slice(None), *elements.relative_to(field.elements(cell)).slices)
            fields[field.name][target] = result[(slice(None), *part.slices)]

    def pass_over(self, tile: Tile, source: BlockInput) -> tuple[NDArray[np.floating], ...]:
        """One forward pass; each result of shape (channels, *output of the network).

        Raises
        ------
        NonFiniteError
            If a finite input gives what is not.
        """
        return next(self._passes([tile], source))

    def _passes(
        self, tiles: Sequence[Tile], source: BlockInput
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        inputs = (source.take(tile.input, self.intensity)[np.newaxis] for tile in tiles)
        passes = self.network.stream(inputs)
        for tile in tiles:
            results = tuple(result[0] for result in next(passes))
            if not all(map(_is_finite, results)):
                self._refuse_overflow(tile, source)
            yield results
            del results

    def _refuse_overflow(self, tile: Tile, source: BlockInput) -> None:
        """Where no number came out, none may have gone in."""
        if not _is_finite(source.take(tile.input, self.intensity)):
            return
        arithmetic = self.recipe.arithmetic
        wider = {"float16": "bf16 or fp32", "bfloat16": "fp32", "float32": "fp64"}
        remedy = "the network cannot take this input"
        if arithmetic.name in wider:
            remedy = f"start again with --precision {wider[arithmetic.name]} and --overwrite"
        raise NonFiniteError(
            f"the network gives values that are not finite for the tile at {tile.output}, whose "
            f"input is: its sums leave the range of {arithmetic.name}; {remedy}"
        )

    def whole(self) -> Fields:
        """The fields of the whole volume by one pass: the reference, for volumes that fit."""
        tile = self.grid.whole()
        source = BlockInput.read(self.volume, [tile.input], self.recipe.border)
        results = self.pass_over(tile, source)
        return {
            field.name: result[(slice(None), *crop.slices)]
            for field, crop, result in zip(self.recipe.fields, tile.crops, results, strict=True)
        }


def _is_finite(array: NDArray[np.floating]) -> bool:
    """Whether all values are numbers; NaN is neither the largest nor the smallest, but is given."""
    return array.size == 0 or bool(np.isfinite(array.max()) and np.isfinite(array.min()))


def _is_run(positions: NDArray[np.intp]) -> bool:
    """Whether the positions are consecutive, so that a view will do."""
    return bool(
        positions[-1] - positions[0] == len(positions) - 1 and np.all(np.diff(positions) == 1)
    )
