"""The measures of a field and labels at the seams of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._judge import judge
from stitchsafe.discontinuity._pieces import Dense, Layout, Pieces, measure_pieces
from stitchsafe.discontinuity._report import SeamReport
from stitchsafe.errors import PlanError
from stitchsafe.seam_grid import SeamGrid

__all__ = ["measure_seams"]

_BLOCK_BYTES = 256 * 2**20
_SMALL = 16 * 2**20  # what anything takes, however small


def measure_seams(
    grid: SeamGrid,
    *,
    field: Dense | None = None,
    labels: Dense | None = None,
    axes: str = "",
    out: str = "the array",
    period: Sequence[int | None] | None = None,
    computed: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    max_bytes: int | None = None,
    decoding: int = 0,
    watch: Callable[[Roi], None] | None = None,
) -> SeamReport:
    """Measure the faces of a grid, streamed.

    Parameters
    ----------
    grid
        The seams, and the region that is looked at.
    field, labels
        Of one shape; either may be left out.
    axes
        Letters of the axes; by default the last ones of ``zyx``.
    out
        What the report calls the data.
    period
        Of the network that made the field, per axis, where it is known.
    computed
        Which of some voxels, shape (n, d), were ever computed; by default all. Planes between two
        of which one was not are no measure of anything, and such faces are left out.
    max_bytes
        No more is held at a time; by default blocks of 256 MiB, and what the faces take. Changes
        nothing that is measured.
    decoding
        So many of these are taken while anything is read.
    watch
        Told of each block that has been measured.

    Returns
    -------
    SeamReport

    Raises
    ------
    PlanError
        `max_bytes` are too few for the faces, or for the least block of whole pieces. Nothing has
        been read by then.
    """
    letters = axes or "zyx"[-grid.region.ndim :]
    layout = Layout.of(grid, period, 0 if field is None else field.channels)
    block_bytes = _BLOCK_BYTES
    if max_bytes is not None:
        block_bytes = _room(layout, field, labels, max_bytes, decoding)
    pieces = measure_pieces(layout, field, labels, block_bytes=block_bytes, watch=watch)
    if computed is not None:
        for axis, each in enumerate(pieces):
            _forget(layout, axis, each, computed)
    judged = judge(layout, pieces, letters, labels=labels is not None)
    return SeamReport(
        out=out,
        axes=letters,
        grids={name: tuple(cell) for name, cell in grid.families.items()},
        origin=grid.origin,
        guessed=False,
        region=grid.region,
        field=None if field is None else "field",
        labels=None if labels is None else "labels",
        scale=judged.scale,
        ratios=judged.ratios,
        faces=judged.faces if computed is None else _between(judged.faces, computed),
        measures=judged.measures,
        threshold=judged.threshold,
    )


def _forget(
    layout: Layout,
    axis: int,
    pieces: Pieces,
    computed: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> None:
    """Set to nothing what was measured where a side of a plane was not computed."""
    for plane, position in enumerate(layout.planes[axis].positions):
        corner = pieces.corner.copy()
        corner[:, axis] = position
        out = ~_both(corner, np.full(len(corner), axis), computed)
        for values in (pieces.contrasts, pieces.logs, pieces.areas, pieces.labels):
            values[plane, out] = 0


def _between(
    faces: FaceTable, computed: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> FaceTable:
    """The faces both sides of which were computed."""
    both = _both(faces.corner, faces.axis, computed)
    return FaceTable(**{name: values[both] for name, values in vars(faces).items()})


def _both(
    corner: NDArray[np.int64],
    axis: NDArray[np.integer],
    computed: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    before = corner.copy()
    before[np.arange(len(corner)), axis] -= 1
    return computed(corner) & computed(before)


def _room(
    layout: Layout, field: Dense | None, labels: Dense | None, max_bytes: int, decoding: int
) -> int:
    """What is left for blocks beside the numbers of all pieces."""
    kept, judged = layout.kept_bytes()
    block = layout.block_bytes(field, labels, 1) + decoding
    needed = _SMALL + kept + max(block, judged)
    if needed > max_bytes:
        raise PlanError(
            f"{max_bytes / 1e6:,.0f} MB of memory are too few: the faces of this grid take "
            f"{(kept + judged) / 1e6:,.0f} MB and the least block {block / 1e6:,.0f} MB; give "
            f"{math.ceil(needed / 1e6):,} MB, a coarser grid, or a smaller region"
        )
    return max_bytes - kept - decoding - _SMALL
