"""Halos where stitching is inexact anyway: the wider, the closer a tile comes to the whole pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from stitchsafe.geometry import NetworkGeometry
from stitchsafe.tiling._grid import TileGrid

__all__ = ["Halo", "widest_halo"]

Halo = tuple[tuple[int, int], ...]


def widest_halo(
    geometry: NetworkGeometry,
    extent: Sequence[int],
    tile: Sequence[int],
    fits: Callable[[Halo], bool],
) -> Halo:
    """The widest halo on the lattice that memory allows, the same number of steps on every axis.

    Parameters
    ----------
    geometry, extent, tile
        The network, the volume's shape and the tile's.
    fits
        Whether memory holds a tile with this halo; the least halo is known to fit.
    """
    grid = TileGrid.of(geometry, extent, tile, exact=False)
    steps = [math.lcm(axis.period, axis.input_step) for axis in geometry.axes]
    # As far as the domain's other end, from the last tile as from the first; a step of 0 (the
    # network takes one size only) leaves nothing to widen.
    most = [
        -(-(axis.domain[1] - axis.domain[0]) // step) if step else 0
        for axis, step in zip(grid.axes, steps, strict=True)
    ]

    def halo(count: int) -> Halo:
        return tuple(
            (before + min(count, m) * step, after + min(count, m) * step)
            for (before, after), m, step in zip(grid.halo, most, steps, strict=True)
        )

    good, bad, trial = 0, max(most) + 1, 1
    while trial < bad and fits(halo(trial)):  # doubling first: most budgets end early
        good, trial = trial, 2 * trial
    bad = min(bad, trial)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(halo(middle)) else (good, middle)
    return halo(good)
