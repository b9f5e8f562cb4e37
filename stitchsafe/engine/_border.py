"""The border rule, as a map from positions of an extended axis to positions of the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.tiling import BorderRule

__all__ = ["behind", "border_map"]


def border_map(begin: int, end: int, extent: int, rule: BorderRule) -> NDArray[np.intp]:
    """Positions of the volume that stand for ``begin, …, end - 1`` of the extended axis.

    Parameters
    ----------
    begin, end
        Part of the extended axis, in voxels; may lie partly or wholly outside the volume.
    extent
        Size of the volume along the axis.
    rule
        ``reflect`` mirrors at the first and last voxel without repeating them, as often as needed;
        ``edge`` repeats them. Under ``zero`` and ``crop`` the values outside do not come from the
        volume; the map then repeats the edge as a placeholder.

    Returns
    -------
    ndarray of shape (end - begin,)
    """
    position = np.arange(begin, end)
    if rule == "reflect" and extent > 1:
        turn = 2 * (extent - 1)
        position = np.abs((position + extent - 1) % turn - (extent - 1))
        return position.astype(np.intp)
    return np.clip(position, 0, extent - 1).astype(np.intp)


def behind(box: Roi, extent: Sequence[int], rule: BorderRule) -> Roi:
    """The part of a volume that stands for a box, which may lie partly outside it."""
    maps = [
        border_map(begin, end, size, rule)
        for begin, end, size in zip(box.offset, box.end, extent, strict=True)
    ]
    return Roi.from_bounds([int(m.min()) for m in maps], [int(m.max()) + 1 for m in maps])
