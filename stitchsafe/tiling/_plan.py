"""A plan: recipe, schedule and what they will cost, before anything is read or written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stitchsafe.coordinates import Roi, ceil_to
from stitchsafe.errors import PlanError
from stitchsafe.geometry import Graph, NetworkGeometry, agrees
from stitchsafe.tiling._axis import AxisTiling
from stitchsafe.tiling._grid import TileGrid
from stitchsafe.tiling._halo import Halo, widest_halo
from stitchsafe.tiling._memory import MemoryEstimate, estimate_memory
from stitchsafe.tiling._recipe import Recipe, Schedule
from stitchsafe.tiling._shapes import Shapes, choose_shapes, format_bytes

__all__ = ["Plan", "Planned", "grid_of", "make_plan", "with_seconds"]


class Planned(Protocol):
    """What planning asks of a network."""

    @property
    def geometry(self) -> NetworkGeometry: ...

    @property
    def channels(self) -> int: ...

    @property
    def parameter_bytes(self) -> int: ...

    def trace(self, shape: Sequence[int]) -> Graph: ...


@dataclass(frozen=True)
class Plan:
    """What will be done, and what it will cost.

    Parameters
    ----------
    recipe, schedule
        What may change bits, and what may not.
    grid
        The tiles.
    memory
        Predicted resident memory.
    tiles, blocks
        How many.
    flops, whole_flops
        Of all tiles, and of one pass over the whole volume.
    output_bytes, scratch_bytes
        Uncompressed, at most.
    seconds
        Predicted time of the forward passes; None where it was not estimated.
    """

    recipe: Recipe
    schedule: Schedule
    grid: TileGrid
    memory: MemoryEstimate
    tiles: int
    blocks: int
    flops: int
    whole_flops: int
    output_bytes: int
    scratch_bytes: int
    seconds: float | None = None

    @property
    def redundancy(self) -> float:
        """Work of the tiles relative to one pass over the whole."""
        return self.flops / max(1, self.whole_flops)

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_json(),
            "schedule": self.schedule.to_json(),
            "output_bytes": self.output_bytes,
            "scratch_bytes": self.scratch_bytes,
            "blocks": self.blocks,
            "tiles": self.tiles,
            "tile_shape": list(self.recipe.tile_shape),
            "cell_shape": list(self.recipe.cell_shape),
            "block_shape": list(self.schedule.block_shape),
            "halo": [list(h) for h in self.recipe.halo],
            "fields": [
                {
                    "name": field.name,
                    "channels": field.channels,
                    "scale": [str(scale) for scale in field.scale],
                    "shape": list(field.shape(self.recipe.extent)),
                }
                for field in self.recipe.fields
            ],
            "executor": "whole",
            "redundancy": self.redundancy,
            "peak_memory_bytes": self.memory.peak,
            "memory": self.memory.to_json(),
            "flops": self.flops,
            "seconds": self.seconds,
        }

    def describe(self) -> str:
        """The plan for people, one fact a line."""
        recipe = self.recipe
        halo = " ".join(f"{before}+{after}" for before, after in recipe.halo)
        time = "not estimated" if self.seconds is None else f"about {_duration(self.seconds)}"
        lines = [
            ("network", f"{recipe.network} ({recipe.precision}, {recipe.device}, "
                        f"{recipe.threads} threads)"),
            ("volume", f"{_shape(recipe.extent)} voxels, predicted {recipe.roi}"),
            ("tile", f"{_shape(recipe.tile_shape)}, halo {halo}, {self.tiles} in all"),
            ("window" if recipe.labels else "chunk", _shape(recipe.cell_shape)),
            *(
                ("field", f"{field.name}: {_shape(field.shape(recipe.extent))}, "
                          f"{_shape(field.scale)} elements per voxel")
                for field in recipe.fields
                if not field.on_voxels
            ),
            ("block", f"{_shape(self.schedule.block_shape)}, {self.blocks} in all"),
            ("memory", f"{format_bytes(self.memory.peak)} at most"),
            ("work", f"{self.flops / 1e12:.3g} TFLOP, {self.redundancy:.2f} times one whole pass"),
            ("time", time),
            ("disk", f"{format_bytes(self.output_bytes)} of output and "
                     f"{format_bytes(self.scratch_bytes)} of scratch before compression"),
        ]  # fmt: skip
        return "\n".join(f"{name:<8} {value}" for name, value in lines)


def grid_of(recipe: Recipe, geometry: NetworkGeometry) -> TileGrid:
    """The tiles of a recipe; fails where the recipe does not fit the network."""
    return TileGrid.of(geometry, recipe.extent, recipe.tile_shape, recipe.halo, exact=recipe.exact)


def make_plan(
    network: Planned,
    *,
    extent: Sequence[int],
    roi: Roi,
    source_itemsize: int,
    max_memory: int,
    draft: Callable[[Shapes, TileGrid], Recipe],
    tile_shape: Sequence[int] | None = None,
    preferred_tile: Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    block_shape: Sequence[int] | None = None,
    halo: Halo | None = None,
    exact: bool = True,
) -> Plan:
    """Choose shapes within the budget, prove them by tracing, and cost them.

    Parameters
    ----------
    network
        Geometry, costs, and a trace at any size.
    extent, roi
        The volume and the part of it that is wanted.
    source_itemsize
        Bytes per voxel of the volume.
    max_memory
        Budget in bytes.
    draft
        Makes the recipe once shapes and tiles are known.
    tile_shape, block_shape
        What the user asks for.
    preferred_tile, window
        What the model's card proposes.
    halo
        Of a run that is resumed; the least exact one by default.
    exact
        Whether the network can be stitched exactly. If not, one pass over the whole is taken where
        memory allows it, and the widest halo that memory allows otherwise.

    Raises
    ------
    PlanError
        If the shapes do not fit the network, or the budget is too small.
    """
    geometry = network.geometry
    traces: dict[tuple[int, ...], Graph] = {}

    def traced(shape: tuple[int, ...]) -> Graph:
        if shape not in traces:
            traces[shape] = network.trace(shape)
        return traces[shape]

    def peak(shapes: Shapes, margins: Halo | None = None) -> int:
        grid = TileGrid.of(geometry, extent, shapes.tile, margins, exact=exact)
        return _memory(
            network, draft(shapes, grid), grid, shapes.cell, source_itemsize, traced
        ).peak

    reach = tuple(ceil_to(e, p) for e, p in zip(extent, geometry.period, strict=True))
    largest = [
        AxisTiling.largest_tile(axis, size, exact=exact)
        for axis, size in zip(geometry.axes, extent, strict=True)
    ]
    shapes = Shapes(reach, reach)
    one_pass = not exact and tile_shape is None and window is None and not any(largest)
    if not one_pass or peak(shapes) > max_memory:
        shapes = choose_shapes(
            period=geometry.period,
            extent=extent,
            preferred_tile=preferred_tile,
            tile_shape=tile_shape,
            window=window,
            max_memory=max_memory,
            peak=peak,
            largest=largest,
        )
    if halo is None and not exact and shapes.tile != reach:
        halo = widest_halo(
            geometry, extent, shapes.tile, lambda margins: peak(shapes, margins) <= max_memory
        )
    grid = TileGrid.of(geometry, extent, shapes.tile, halo, exact=exact)
    recipe = draft(shapes, grid)
    schedule = Schedule.of(recipe, block_shape)
    memory = _memory(network, recipe, grid, schedule.block_shape, source_itemsize, traced)
    if memory.peak > max_memory:
        raise PlanError(
            f"blocks of {schedule.block_shape} need {format_bytes(memory.peak, up=True)}, more "
            f"than the {format_bytes(max_memory)} given; take smaller blocks or raise --max-memory"
        )
    counts = grid.input_shapes(roi)
    whole = grid.whole()
    if exact:
        for shape in counts:
            ends = [
                axis.geometry.padded and axis.domain[1] - axis.domain[0] == size
                for axis, size in zip(grid.axes, shape, strict=True)
            ]
            agrees(geometry, traced(shape), whole=ends)
    flops = sum(n * traced(shape).flops() for shape, n in counts.items())
    if all(axis.takes(s) for axis, s in zip(geometry.axes, whole.input.shape, strict=True)):
        if exact:
            agrees(geometry, traced(whole.input.shape), whole=(True,) * len(grid.axes))
        whole_flops = traced(whole.input.shape).flops()
    else:  # a network of one input size has no pass over the whole to be asked
        read = sum(n * math.prod(shape) for shape, n in counts.items())
        whole_flops = flops * whole.input.size // read
    return Plan(
        recipe=recipe,
        schedule=schedule,
        grid=grid,
        memory=memory,
        tiles=sum(counts.values()),
        blocks=sum(1 for _ in recipe.cells.blocks(schedule.block_shape)),
        flops=flops,
        whole_flops=whole_flops,
        output_bytes=_output_bytes(recipe),
        scratch_bytes=4 * roi.size if recipe.labels is not None else 0,
    )


def with_seconds(plan: Plan, seconds: float) -> Plan:
    """The same plan with an estimate of its time."""
    return replace(plan, seconds=seconds)


def _memory(
    network: Planned,
    recipe: Recipe,
    grid: TileGrid,
    block: Sequence[int],
    source_itemsize: int,
    traced: Callable[[tuple[int, ...]], Graph],
) -> MemoryEstimate:
    itemsize = np.dtype(recipe.precision).itemsize
    largest = max(grid.input_shapes(Roi.whole(grid.extent)), key=math.prod)
    margins = [before + after for before, after in grid.halo]
    return estimate_memory(
        parameter_bytes=network.parameter_bytes,
        activation_bytes=traced(largest).activation_bytes(itemsize),
        input_shape=largest,
        block_input_shape=[
            min(b + m, extent) for b, m, extent in zip(block, margins, grid.extent, strict=True)
        ],
        cell_shape=recipe.cell_shape,
        in_channels=network.channels,
        field_channels=float(sum(field.density() for field in recipe.fields)),
        source_itemsize=source_itemsize,
        itemsize=itemsize,
        clusters=recipe.labels is not None,
    )


def _output_bytes(recipe: Recipe) -> int:
    total = 0
    if recipe.labels is not None:
        total += math.ceil(4 * 8 / 7 * recipe.roi.size)
    if recipe.save_fields:
        numbers = sum(field.box(recipe.roi).size for field in recipe.fields)
        total += np.dtype(recipe.precision).itemsize * numbers
    return total


def _shape(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
