"""Recorded elements of the fields, and the same elements from other tiles.

What a network gives for an element must not depend on the tile that it lies in. Where it does, the
difference between two tile grids says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi, floor_to
from stitchsafe.engine import CellIndex, FieldMaker, load_arrays
from stitchsafe.errors import IntegrityError
from stitchsafe.geometry import AxisGeometry
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import AxisTiling, Field, Recipe, Tile, TileGrid

__all__ = ["Samples", "Seams", "elsewhere", "measure_seams", "recorded", "spread", "values_at"]

Values = NDArray[np.floating]
"""Of some elements of a field, shape (channels, elements)."""


@dataclass(frozen=True)
class Samples:
    """Recorded elements of all fields that share a scale.

    Parameters
    ----------
    layout
        The fields.
    positions
        Of the elements, shape (samples, ndim).
    values
        By the field's name, shape (channels, samples).
    """

    layout: tuple[Field, ...]
    positions: NDArray[np.int64]
    values: dict[str, Values]

    def first(self, count: int) -> Samples:
        values = {name: each[:, :count] for name, each in self.values.items()}
        return Samples(self.layout, self.positions[:count], values)


@dataclass(frozen=True)
class Seams:
    """How much elements differ between two tile grids.

    Parameters
    ----------
    elements
        How many were compared.
    max_abs_diff
        The largest difference.
    max_abs_value
        The largest value, to compare it with.
    seams
        How many seams they lie at; 0 for recorded elements, which lie anywhere.
    """

    elements: int
    max_abs_diff: float
    max_abs_value: float
    seams: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "seams": self.seams,
            "elements": self.elements,
            "max_abs_diff": self.max_abs_diff,
            "max_abs_value": self.max_abs_value,
        }

    def describe(self) -> str:
        """What was measured, for people."""
        if not self.elements:
            return "no seam lies within the region, or no other tiles can be laid to measure it"
        return (
            f"from other tiles, {self.elements:,} elements at {self.seams:,} seams differ by up to "
            f"{self.max_abs_diff:.2g} (largest value {self.max_abs_value:.2g})"
        )


def spread(store: ResultStore, count: int) -> list[CellIndex]:
    """Some of the finished cells, spread over the region."""
    done = sorted(store.ledger.finished("predict"))
    if not done:
        return []
    return [done[k] for k in np.unique(np.linspace(0, len(done) - 1, count).astype(int))]


def recorded(store: ResultStore, recipe: Recipe, index: CellIndex) -> tuple[Samples, ...] | None:
    """Recorded elements of a cell, by scale; None if the record is damaged."""

    def scale(field: Field) -> tuple[Fraction, ...]:
        return field.scale

    found = []
    try:
        record = load_arrays(store.samples(index))
        for _, group in groupby(sorted(recipe.fields, key=scale), key=scale):
            layout = tuple(group)
            positions = record[f"positions_{layout[0].name}"]
            values = {field.name: record[f"field_{field.name}"] for field in layout}
            found.append(Samples(layout, positions, values))
    except (IntegrityError, KeyError, OSError):
        return None
    return tuple(found)


def elsewhere(maker: FieldMaker) -> FieldMaker:
    """The same fields by tiles that begin elsewhere on the lattice.

    For a network that can be stitched exactly small tiles do, and any will; one that cannot keeps
    its halo, and gets the next smaller tile, or the next larger one where there is none. Of a
    network that takes one size only, the smallest tile stays, and what it reads slides by a period.
    """
    recipe, geometry = maker.recipe, maker.network.geometry
    if recipe.exact:
        shape = [
            (3 if tile == 2 * axis.period else 2) * axis.period
            for axis, tile in zip(geometry.axes, recipe.tile_shape, strict=True)
        ]
        most = [
            AxisTiling.largest_tile(axis, extent)
            for axis, extent in zip(geometry.axes, recipe.extent, strict=True)
        ]
        shape = [s if m is None else min(s, m) for s, m in zip(shape, most, strict=True)]
        grid = TileGrid.of(geometry, recipe.extent, shape)
    else:
        shape, halo = [], []
        for axis, extent, tile, (before, after) in zip(
            geometry.axes, recipe.extent, recipe.tile_shape, recipe.halo, strict=True
        ):
            step = math.lcm(axis.period, axis.input_step)
            if step:
                shape.append(tile - step if tile > step else tile + step)
                halo.append((before, after))
                continue
            if tile == axis.period:
                shape.append(tile)
                halo.append(_slid(axis, (before, after)))
                continue
            other = max(axis.period, floor_to(tile - 1, axis.period))
            shape.append(other)
            halo.append(AxisTiling.least(axis, extent, other, exact=False).halo)
        grid = TileGrid.of(geometry, recipe.extent, shape, halo, exact=False)
    changed = replace(
        recipe, tile_shape=grid.tile_shape, cell_shape=grid.tile_shape, halo=grid.halo
    )
    return FieldMaker(changed, grid, maker.network, maker.volume, maker.intensity)


def _slid(axis: AxisGeometry, halo: tuple[int, int]) -> tuple[int, int]:
    """The halo with its input a period earlier, or later; as it is where there is no room."""
    before, after = halo
    if after - axis.period >= axis.shrinkage - axis.output_offset:
        return before + axis.period, after - axis.period
    if before - axis.period >= axis.output_offset:
        return before - axis.period, after + axis.period
    return halo


def values_at(maker: FieldMaker, groups: Sequence[Samples]) -> list[dict[str, Values]]:
    """Fields at the positions of some samples, from one pass per tile that holds any of them."""
    found = [
        {name: np.full_like(expected, np.nan) for name, expected in samples.values.items()}
        for samples in groups
    ]
    wanted: dict[tuple[int, ...], tuple[Tile, list[tuple[int, int]]]] = {}
    for group, samples in enumerate(groups):
        for place, position in enumerate(samples.positions):
            # A voxel that the element touches.
            corner = [
                int(Fraction(int(p)) / scale)
                for p, scale in zip(position, samples.layout[0].scale, strict=True)
            ]
            (tile,) = maker.grid.tiles(Roi(tuple(corner), (1,) * len(corner)))
            wanted.setdefault(tile.output.offset, (tile, []))[1].append((group, place))
    crops = {field.name: place for place, field in enumerate(maker.recipe.fields)}
    for tile, places in wanted.values():
        results = maker.pass_over(tile, maker.read(tile.output))
        for group, place in places:
            for field in groups[group].layout:
                output = crops[field.name]
                origin = np.asarray(field.elements(tile.output).offset)
                inside = groups[group].positions[place] - origin + tile.crops[output].offset
                found[group][field.name][:, place] = results[output][(slice(None), *inside)]
    return found


def measure_seams(
    store: ResultStore, maker: FieldMaker, cells: Sequence[CellIndex], per_cell: int = 4
) -> Seams:
    """Compare recorded elements of some cells with what other tiles give for them.

    It takes at most `per_cell` passes for each cell and grid.
    """
    other = elsewhere(maker)
    count, difference, largest = 0, 0.0, 0.0
    for index in cells:
        known = recorded(store, maker.recipe, index) or ()
        groups = [each.first(per_cell) for each in known]
        for samples, found in zip(groups, values_at(other, groups), strict=True):
            difference = max(difference, differences(samples, found))
            count += len(samples.positions)
        for samples in known:
            largest = max(largest, magnitude(samples.values.values()))
    return Seams(count, difference, largest)


def differences(samples: Samples, found: dict[str, Values]) -> float:
    """The largest difference; NaN counts nowhere."""
    return max(
        float(np.nanmax(np.abs(found[name] - expected), initial=0.0))
        for name, expected in samples.values.items()
    )


def magnitude(values: Iterable[Values]) -> float:
    return max((float(np.nanmax(np.abs(each), initial=0.0)) for each in values), default=0.0)
