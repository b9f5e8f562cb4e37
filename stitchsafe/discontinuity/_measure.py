"""The measures of a field and labels at the seams of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._judge import judge
from stitchsafe.discontinuity._pieces import Dense, Layout, measure_pieces
from stitchsafe.discontinuity._report import SeamReport
from stitchsafe.seam_grid import SeamGrid

__all__ = ["measure_seams"]

_BLOCK_BYTES = 256 * 2**20


def measure_seams(
    grid: SeamGrid,
    *,
    field: Dense | None = None,
    labels: Dense | None = None,
    axes: str = "",
    out: str = "the array",
    period: Sequence[int | None] | None = None,
    block_bytes: int = _BLOCK_BYTES,
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
    block_bytes
        About so much is held at a time. Changes nothing that is measured.
    watch
        Told of each block that has been measured.

    Returns
    -------
    SeamReport
    """
    letters = axes or "zyx"[-grid.region.ndim :]
    layout = Layout.of(grid, period)
    pieces = measure_pieces(layout, field, labels, block_bytes=block_bytes, watch=watch)
    judged = judge(layout, pieces, letters, field=field is not None, labels=labels is not None)
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
        faces=judged.faces,
        measures=judged.measures,
    )
