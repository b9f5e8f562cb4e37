"""A mask: a volume of the same extent, or coarser by whole factors, that says where to predict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import Events
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.pipeline._reading import tell_absent
from stitchsafe.pipeline._settings import Settings
from stitchsafe.tiling import Recipe, Skipping
from stitchsafe.volumes import PlaceError, Volume, open_volume, pieces

__all__ = ["mask_place", "masked_otherwise", "skipping"]


def skipping(
    path: object, extent: Sequence[int], cells: CellGrid, settings: Settings, events: Events
) -> Skipping:
    """Look up which cells hold a voxel of a mask.

    Parameters
    ----------
    path
        Of the mask, or an array.
    extent
        Shape of the volume.
    cells
        Of the region that is predicted.
    settings, events
        What becomes of chunks that it lacks, and who is told.

    Raises
    ------
    VolumeError
        If the mask cannot be read, does not lie over the volume, or lacks chunks and may not.
    InputError
        If it leaves out everything.
    """
    mask, name, factors = _opened(path, extent)
    covered = _covering(cells.region, factors, mask)
    try:
        absent = set(mask.absent_chunks(covered))
    except PlaceError as error:
        raise error.refusal(VolumeError) from error
    tell_absent(f"the mask {name}", absent, settings, events)
    found = Skipping.of(mask.identity, cells, _wanted(mask, factors, cells))
    if found.skipped == found.total:
        raise InputError(
            f"the mask {name} is 0 all over {cells.region}, so that nothing is left to predict; "
            "check that it lies over the volume, or leave out --mask"
        )
    return found


def mask_place(path: object) -> str | None:
    """Where a mask lies; None for an array, or where there is no mask."""
    return None if path is None else open_volume(path).path


def masked_otherwise(path: object, recipe: Recipe) -> str | None:
    """Whether a mask leaves out other cells than when it was read: which, if so.

    Raises
    ------
    VolumeError
        If the mask cannot be read, or does not lie over the volume any more.
    """
    assert recipe.skipping is not None
    mask, name, factors = _opened(path, recipe.extent)
    cells = list(recipe.cells.cells())
    wanted = _wanted(mask, factors, recipe.cells)
    other = [cell for cell, now in zip(cells, wanted, strict=True) if now == recipe.skips(cell)]
    if not other:
        return None
    return (
        f"the mask {name} has changed: {len(other)} of {len(cells)} cells are left out that were "
        f"not, or the other way round (the first is {other[0]})"
    )


def _opened(path: object, extent: Sequence[int]) -> tuple[Volume, str, tuple[int, ...]]:
    """The mask, what it is called, and the voxels of the volume that one of its own spans."""
    mask = open_volume(path)
    name = mask.path or "the mask"
    if mask.channels != 1:
        raise VolumeError(f"the mask {name} has {mask.channels} channels; give one of a single one")
    return mask, name, _factors(mask, extent, name)


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
    for cell in cells.cells():
        yield any(bool(data.any()) for _, data in pieces(mask, _covering(cell, factors, mask)))


def _covering(region: Roi, factors: Sequence[int], mask: Volume) -> Roi:
    """What of the mask lies over a region of the volume."""
    return Roi.from_bounds(
        [o // f for o, f in zip(region.offset, factors, strict=True)],
        [math.ceil(e / f) for e, f in zip(region.end, factors, strict=True)],
    ).intersect(Roi.whole(mask.shape))
