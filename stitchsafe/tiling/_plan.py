"""A plan: recipe, schedule and what they will cost, before anything is read or written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from stitchsafe.coordinates import CellGrid, Roi, ceil_to
from stitchsafe.errors import PlanError
from stitchsafe.geometry import Graph, NetworkGeometry, agrees
from stitchsafe.tiling._axis import AxisTiling
from stitchsafe.tiling._grid import TileGrid
from stitchsafe.tiling._halo import Halo, widest_halo
from stitchsafe.tiling._memory import MemoryEstimate, Storage, estimate_memory
from stitchsafe.tiling._recipe import Recipe, Schedule
from stitchsafe.tiling._shapes import Shapes, choose_shapes, format_bytes
from stitchsafe.tiling._skipping import Skipping

__all__ = ["Plan", "Planned", "grid_of", "make_plan", "with_seconds"]


_MOST_ELEMENTS = 2**31
"""Kernels count the elements of a tensor in 32 bits; from here on some go wrong, not all aloud."""

_UNFOLDED = ("float64", "float16")
"""Types whose convolutions unfold their input on a processor, having no fast kernels there."""


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
    limits
        Why larger tiles were passed over, where it is not the memory given.
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
    limits: tuple[str, ...] = ()

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
            "workers": self.memory.workers,
            "device": self.recipe.device,
            "precision": self.recipe.precision,
            "flops": self.flops,
            "seconds": self.seconds,
        }

    def describe(self) -> str:
        """The plan for people, one fact a line."""
        recipe = self.recipe
        halo = " ".join(f"{before}+{after}" for before, after in recipe.halo)
        time = "not estimated" if self.seconds is None else f"about {_duration(self.seconds)}"
        lines = [
            ("network", f"{recipe.network} in {recipe.precision}, on {recipe.processor}"),
            ("workers", f"{self.memory.workers} on {recipe.device}, "
                        f"{recipe.threads} threads each"),
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
            ("memory", f"{format_bytes(self.memory.peak)} at most: {_parts(self.memory)}"),
            *(
                [("device", f"{format_bytes(self.memory.device)} of its memory at most")]
                if self.memory.device
                else []
            ),
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
    storage: Storage,
    max_memory: int,
    draft: Callable[[Shapes, TileGrid], Recipe],
    tile_shape: Sequence[int] | None = None,
    preferred_tile: Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    block_shape: Sequence[int] | None = None,
    halo: Halo | None = None,
    exact: bool = True,
    workers: int = 1,
    max_device_memory: int | None = None,
    below: Sequence[int] | None = None,
    masked: Callable[[CellGrid], Skipping] | None = None,
) -> Plan:
    """Choose shapes within the budget, prove them by tracing, and cost them.

    Parameters
    ----------
    network
        Geometry, costs, and a trace at any size.
    extent, roi
        The volume and the part of it that is wanted.
    storage
        What is read of the volume and made of a cell.
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
    workers
        Processes that do blocks side by side and share the memory.
    max_device_memory
        Budget in bytes of a device's memory, for each worker; None where nothing bounds it.
    below
        A tile that memory has run out at: only smaller ones are taken.
    masked
        Which cells a mask leaves out; they are not counted.

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

    def memory_of(shapes: Shapes, margins: Halo | None = None) -> MemoryEstimate:
        grid = TileGrid.of(geometry, extent, shapes.tile, margins, exact=exact)
        recipe = draft(shapes, grid)
        return _memory(network, recipe, grid, shapes.cell, storage, traced, workers)

    def peak(shapes: Shapes, margins: Halo | None = None) -> int:
        return memory_of(shapes, margins).peak

    def refuses(shapes: Shapes, margins: Halo | None = None) -> str:
        if below is not None and math.prod(shapes.tile) >= math.prod(below):
            return f"memory ran out with tiles of {_shape(below)}"
        grid = TileGrid.of(geometry, extent, shapes.tile, margins, exact=exact)
        elements = traced(_largest_input(grid)).largest_tensor
        if elements >= _MOST_ELEMENTS:
            return (
                f"with tiles of {_shape(shapes.tile)} a tensor of the network has {elements} "
                f"elements, and convolutions count to {_MOST_ELEMENTS - 1}"
            )
        need = memory_of(shapes, margins).device
        if max_device_memory is not None and need > max_device_memory:
            return (
                f"tiles of {_shape(shapes.tile)} take {format_bytes(need, up=True)} of a device's "
                f"memory, more than the {format_bytes(max_device_memory)} that each worker has"
            )
        return ""

    limits: list[str] = []

    def refused(shapes: Shapes) -> str:
        if reason := refuses(shapes):
            limits.append(reason)
        return reason

    reach = tuple(ceil_to(e, p) for e, p in zip(extent, geometry.period, strict=True))
    largest = [
        AxisTiling.largest_tile(axis, size, exact=exact)
        for axis, size in zip(geometry.axes, extent, strict=True)
    ]
    shapes = Shapes(reach, reach)
    one_pass = not exact and tile_shape is None and window is None and not any(largest)
    if not one_pass or refused(shapes) or peak(shapes) > max_memory:
        shapes = choose_shapes(
            period=geometry.period,
            extent=extent,
            preferred_tile=preferred_tile,
            tile_shape=tile_shape,
            window=window,
            max_memory=max_memory,
            peak=peak,
            largest=largest,
            refuses=refused,
        )
    if halo is None and not exact and shapes.tile != reach:
        halo = widest_halo(
            geometry,
            extent,
            shapes.tile,
            lambda margins: not refuses(shapes, margins) and peak(shapes, margins) <= max_memory,
        )
    grid = TileGrid.of(geometry, extent, shapes.tile, halo, exact=exact)
    recipe = draft(shapes, grid)
    schedule = Schedule.of(recipe, block_shape)
    memory = _memory(network, recipe, grid, schedule.block_shape, storage, traced, workers)
    if memory.peak > max_memory:
        raise PlanError(
            f"blocks of {schedule.block_shape} need {format_bytes(memory.peak, up=True)}, more "
            f"than the {format_bytes(max_memory)} given; take smaller blocks or raise --max-memory"
        )
    if masked is not None:
        recipe = replace(recipe, skipping=masked(recipe.cells))
    wanted = [roi]
    if recipe.skipping is not None:
        wanted = [cell for cell in recipe.cells.cells() if not recipe.skips(cell)]
    counts: Counter[tuple[int, ...]] = sum(map(grid.input_shapes, wanted), Counter())
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
        scratch_bytes=_scratch_bytes(recipe),
        limits=tuple(dict.fromkeys(limits)),
    )


def with_seconds(plan: Plan, seconds: float) -> Plan:
    """The same plan with an estimate of its time."""
    return replace(plan, seconds=seconds)


def _memory(
    network: Planned,
    recipe: Recipe,
    grid: TileGrid,
    block: Sequence[int],
    storage: Storage,
    traced: Callable[[tuple[int, ...]], Graph],
    workers: int,
) -> MemoryEstimate:
    arithmetic, on_device = recipe.arithmetic, recipe.device != "cpu"
    largest = _largest_input(grid)
    margins = [before + after for before, after in grid.halo]
    return estimate_memory(
        parameter_bytes=network.parameter_bytes,
        activation_bytes=traced(largest).activation_bytes(
            arithmetic.itemsize,
            unfolds=not on_device and arithmetic.name in _UNFOLDED,
        ),
        input_shape=largest,
        block_input_shape=[
            min(b + m, extent) for b, m, extent in zip(block, margins, grid.extent, strict=True)
        ],
        cell_shape=recipe.cell_shape,
        in_channels=network.channels,
        field_channels=float(sum(field.density() for field in recipe.fields)),
        storage=storage,
        itemsize=np.dtype(recipe.kept).itemsize,
        saves_fields=recipe.save_fields or bool(recipe.raw),
        blocks=sum(1 for _ in islice(recipe.cells.blocks(block), 2 * workers)),
        workers=workers,
        on_device=on_device,
    )


def _largest_input(grid: TileGrid) -> tuple[int, ...]:
    return max(grid.input_shapes(Roi.whole(grid.extent)), key=math.prod)


def _parts(memory: MemoryEstimate) -> str:
    """What the memory is made of, for people."""
    parts = [
        f"{format_bytes(getattr(memory, name))} {name}"
        for name in ("interpreter", "weights", "reading", "fields")
    ]
    larger = "forward" if memory.forward >= memory.writing else "writing"
    text = ", ".join([*parts, f"{format_bytes(max(memory.forward, memory.writing))} {larger}"])
    if memory.workers == 1:
        return text
    return f"{text} in each worker, {format_bytes(memory.coordinator)} in their coordinator"


def _output_bytes(recipe: Recipe) -> int:
    total = 0
    if recipe.labels is not None:
        each = np.min_scalar_type(recipe.classes - 1).itemsize if recipe.classes else 4
        total += math.ceil(each * 8 / 7 * recipe.roi.size)
    if recipe.save_fields:
        numbers = sum(field.box(recipe.roi).size for field in recipe.fields)
        total += np.dtype(recipe.saved_type).itemsize * numbers
    return total


def _scratch_bytes(recipe: Recipe) -> int:
    raw = sum(field.box(recipe.roi).size for field in recipe.raw)
    labels = 4 * recipe.roi.size if recipe.labels is not None and not recipe.classes else 0
    return labels + np.dtype(recipe.kept).itemsize * raw


def _shape(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
