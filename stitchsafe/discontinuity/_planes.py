"""Which planes are looked at: the seams, and planes between them to hold them against.

A network with strides writes a texture into its field that repeats with its period, so a seam,
which lies on the network's lattice, may only be held against planes that lie on it as well.
Controls are therefore whole *steps* away from the seam. The step is the network's period where
that is known. Where it is not, it is the largest power of two that divides the cell (half of it,
where that is the cell itself): periods are powers of two as a rule, and tiles hold whole ones. ::

    seam     control     seam           cell 96, step 32
    ──┊────────┆────────────┊──
      0   .    32   .  64   96

Of the planes between two seams the nearest to the middle is taken. Values within a few voxels of
a plane are compared, and those of a control must not reach over a seam; at a larger scale they
reach farther, so small cells allow small scales only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from stitchsafe.seam_grid import SeamGrid

__all__ = ["SCALES", "AxisPlanes", "planes_of"]

SCALES = (1, 2, 4, 8)
"""Sides, in voxels, of the cubes whose means are compared across a plane."""


@dataclass(frozen=True)
class AxisPlanes:
    """The planes across one axis.

    Parameters
    ----------
    seams
        Family of each seam by position, in order.
    controls
        Per gap between seams, or a seam and the region's border, the control plane; None where
        none has room. One more than there are seams.
    scales
        Those at which some control does not reach over a seam.
    rooms
        Voxels from each control to the nearest seam.
    step
        Voxels that a control may be moved by and keep the seams' phase.
    bounds
        Where gaps between seams begin, and the end of the last.
    """

    seams: dict[int, str]
    controls: tuple[int | None, ...]
    scales: tuple[int, ...]
    rooms: dict[int, int] = field(default_factory=dict)
    step: int = 1
    bounds: tuple[int, ...] = ()

    def allows(self, position: int, scale: int) -> bool:
        """Whether a plane can be measured at a scale."""
        return scale in self.scales and self.has_room(position, 4 * scale)

    def has_room(self, position: int, reach: int) -> bool:
        """Whether a control has so many voxels without a seam; a seam is measured anyhow."""
        return reach <= self.rooms.get(position, reach)

    @property
    def positions(self) -> list[int]:
        """All planes, in order."""
        return sorted({*self.seams, *(at for at in self.controls if at is not None)})

    def undisturbed(self, reach: int) -> list[int]:
        """All planes of the seams' phase that have so many voxels without a seam on both sides."""
        return [
            at
            for a, b in itertools.pairwise(self.bounds)
            for at in range(_anchor(a, b, self.bounds[0]) % self.step, b, self.step)
            if a + reach <= at <= b - reach
        ]


def planes_of(grid: SeamGrid, axis: int, period: int | None = None) -> AxisPlanes:
    """The planes across an axis.

    Parameters
    ----------
    grid
        The seams.
    period
        Of the network along the axis, if that is known.
    """
    seams = grid.seams(axis)
    if not seams:
        return AxisPlanes({}, (None,), SCALES[:1])
    step = _step(min(cell[axis] for cell in grid.families.values()), period)
    begin, end = grid.region.offset[axis], grid.region.end[axis]
    bounds = [begin, *seams, end]
    controls = tuple(
        _control(a, b, anchor=_anchor(a, b, begin), step=step)
        for a, b in itertools.pairwise(bounds)
    )
    rooms = {
        at: min(
            [*([at - a] if a != begin else []), *([b - at] if b != end else [])],
            default=end - begin,
        )
        for at, (a, b) in zip(controls, itertools.pairwise(bounds), strict=True)
        if at is not None
    }
    most = max(rooms.values(), default=0)
    scales = tuple(s for s in SCALES if s == 1 or 4 * s <= most)
    return AxisPlanes(seams, controls, scales, rooms, step, tuple(bounds))


def _anchor(begin: int, end: int, first: int) -> int:
    """The seam of a gap whose phase its planes are to have."""
    return end if begin == first else begin


def _step(cell: int, period: int | None) -> int:
    if period is not None and period < cell:
        return period
    power = cell & -cell
    return max(1, power if power < cell else cell // 2)


def _control(begin: int, end: int, *, anchor: int, step: int) -> int | None:
    """The plane a number of steps from the anchor that is nearest to the middle of a gap."""
    middle = (begin + end) / 2
    inside = [
        at
        for k in _about((middle - anchor) / step)
        if begin + 2 <= (at := anchor + k * step) <= end - 2
    ]
    return min(inside, key=lambda at: (abs(at - middle), at), default=None)


def _about(value: float) -> Sequence[int]:
    low = int(value // 1)
    return (low - 1, low, low + 1, low + 2)
