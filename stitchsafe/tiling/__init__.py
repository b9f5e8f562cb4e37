"""Plans: which tiles, in which portions, at which cost. No voxel is read here."""

from stitchsafe.tiling._axis import AxisTiling, Span
from stitchsafe.tiling._fields import Field
from stitchsafe.tiling._grid import Tile, TileGrid
from stitchsafe.tiling._halo import Halo
from stitchsafe.tiling._memory import INTERPRETER_BYTES, MemoryEstimate, Storage, estimate_memory
from stitchsafe.tiling._plan import Plan, Planned, grid_of, make_plan, with_seconds
from stitchsafe.tiling._recipe import BorderRule, Normalization, Recipe, Schedule
from stitchsafe.tiling._shapes import Shapes, choose_shapes, format_bytes
from stitchsafe.tiling._skipping import Skipping

__all__ = [
    "INTERPRETER_BYTES",
    "AxisTiling",
    "BorderRule",
    "Field",
    "Halo",
    "MemoryEstimate",
    "Normalization",
    "Plan",
    "Planned",
    "Recipe",
    "Schedule",
    "Shapes",
    "Span",
    "Tile",
    "Skipping",
    "Storage",
    "TileGrid",
    "choose_shapes",
    "estimate_memory",
    "format_bytes",
    "grid_of",
    "make_plan",
    "with_seconds",
]
