"""A mask: a volume of the same extent, or coarser by whole factors, that says where to predict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.tiling import Skipping
from stitchsafe.volumes import Volume, open_volume, pieces

__all__ = ["skipping"]


def skipping(path: object, extent: Sequence[int], cells: CellGrid) -> Skipping:
    """Look up which cells hold a voxel of a mask.

    Parameters
    ----------
    path
        Of the mask, or an array.
    extent
        Shape of the volume.
    cells
        Of the region that is predicted.

    Raises
    ------
    VolumeError
        If the mask cannot be read or does not lie over the volume.
    InputError
        If it leaves out everything.
    """
    mask = open_volume(path)
    name = mask.path or "the mask"
    if mask.channels != 1:
        raise VolumeError(f"the mask {name} has {mask.channels} channels; give one of a single one")
    factors = _factors(mask, extent, name)
    found = Skipping.of(mask.identity, cells, _wanted(mask, factors, cells))
    if found.skipped == found.total:
        raise InputError(
            f"the mask {name} is 0 all over {cells.region}, so that nothing is left to predict; "
            "check that it lies over the volume, or leave out --mask"
        )
    return found


def _factors(mask: Volume, extent: Sequence[int], name: str) -> tuple[int, ...]:
    """Voxels of the volume that one of the mask spans, per axis: the least that cover it."""
    factors = [max(1, math.ceil(e / m)) for e, m in zip(extent, mask.shape, strict=False)]
    if len(mask.shape) != len(extent) or any(
        math.ceil(e / f) != m for e, f, m in zip(extent, factors, mask.shape, strict=True)
    ):
        raise VolumeError(
            f"the mask {name} of shape {mask.shape} does not lie over the volume of shape "
            f"{tuple(extent)}; give one of that shape, or coarser by a whole factor along each axis"
        )
    return tuple(factors)


def _wanted(mask: Volume, factors: Sequence[int], cells: CellGrid) -> Iterator[bool]:
    whole = Roi.whole(mask.shape)
    for cell in cells.cells():
        region = Roi.from_bounds(
            [o // f for o, f in zip(cell.offset, factors, strict=True)],
            [math.ceil(e / f) for e, f in zip(cell.end, factors, strict=True)],
        ).intersect(whole)
        yield any(data.any() for _, data in pieces(mask, region))
