"""What to do where memory ran out: smaller tiles, or the options by which the run would go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stitchsafe.engine import Silent
from stitchsafe.errors import MemoryShortageError, PlanError
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._planning import draft_plan
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Plan

__all__ = ["give_way"]


def give_way(
    error: MemoryShortageError, store: ResultStore, inputs: Inputs, plan: Plan, settings: Settings
) -> str:
    """Make room for smaller tiles; says why.

    Raises
    ------
    MemoryShortageError
        If something is finished, or others are at it, so that the tiles are decided; it says what
        would do.
    PlanError
        If the tiles are those that the user asked for.
    """
    tile = plan.recipe.tile_shape
    if settings.part is not None or store.ledger.finished("predict"):
        raise _with_flags(error, inputs, plan, settings) from error
    store.clear()
    what = f"memory ran out with tiles of {_comma(tile)}, before anything was finished"
    if settings.tile_shape is not None:
        smaller = _next_tile(inputs, plan, settings)
        raise PlanError(
            f"{what} ({error.__cause__ or error}); "
            f"give {f'--tile-shape {_comma(smaller)}' if smaller else 'more memory'}"
        ) from error
    return what


def _with_flags(
    error: MemoryShortageError, inputs: Inputs, plan: Plan, settings: Settings
) -> MemoryShortageError:
    """The same with the options by which the run would go on."""
    cell, workers = plan.recipe.cell_shape, plan.memory.workers
    flags = []
    if plan.schedule.block_shape != cell:
        flags.append(f"--block-shape {_comma(cell)}")
    if workers > 1:
        flags.append(f"--workers {workers // 2}")
    if flags:
        remedy = f"run the same command with {' and '.join(flags)}: it goes on from there"
    else:
        remedy = "free some memory, and run the same command again: it goes on from there"
        if smaller := _next_tile(inputs, plan, settings):
            remedy += f"; or start again with --tile-shape {_comma(smaller)} --overwrite"
    what = " ".join(str(error).partition("; ")[0].split())
    return MemoryShortageError(f"{what}; what is finished stays: {remedy}")


def _next_tile(inputs: Inputs, plan: Plan, settings: Settings) -> tuple[int, ...] | None:
    """The largest tile below the one that memory ran out at, if there is any."""
    try:
        free = replace(settings, tile_shape=None, block_shape=None)
        smaller = draft_plan(inputs, free, Silent(), below=plan.recipe.tile_shape)
    except PlanError:
        return None
    return smaller.recipe.tile_shape


def _comma(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))
