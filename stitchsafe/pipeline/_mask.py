"""A mask: a volume of the same extent, or coarser by whole factors, that says where to predict.

It leaves out cells in which it is 0 everywhere. Where it is also the foreground of the labels, each
of its voxels matters: the recipe then holds a checksum of them for each cell, with which whoever
reads the mask later compares what is there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import Events
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.pipeline._reading import tell_absent
from stitchsafe.pipeline._settings import Settings
from stitchsafe.tiling import Recipe, Skipping
from stitchsafe.volumes import PlaceError, Volume, open_volume, pieces

__all__ = ["VoxelMask", "mask_place", "masked_otherwise", "skipping"]


@dataclass(frozen=True)
class VoxelMask:
    """A mask whose voxels are the foreground.

    Parameters
    ----------
    mask
        The mask.
    factors
        Voxels of the volume that one of the mask spans, per axis.
    recipe
        Whose labels it is the foreground of.
    """

    mask: Volume
    factors: tuple[int, ...]
    recipe: Recipe

    @classmethod
    def of(cls, path: object, recipe: Recipe) -> VoxelMask | None:
        """The mask of a result, from its path or an array; None where its voxels do not matter.

        Raises
        ------
        VolumeError
            If it cannot be read, or does not lie over the volume any more.
        """
        if recipe.labels is None or not recipe.labels.get("masked"):
            return None
        if path is None:
            raise VolumeError("the mask was an array in memory; give it as mask=")
        mask, _, factors = _opened(path, recipe.extent)
        return cls(mask, factors, recipe)

    def __call__(self, cell: Roi) -> NDArray[np.bool_]:
        """Which voxels of a cell it holds.

        Raises
        ------
        VolumeError
            If they are not those that the recipe knows.
        """
        factors, covering = self.factors, _covering(cell, self.factors, self.mask)
        held = _held(self.mask, covering)
        assert self.recipe.skipping is not None
        if _checksum(held) != self.recipe.skipping.content_of(self.recipe.cells.index(cell)):
            raise VolumeError(
                f"{_name(self.mask)} at {cell} is not what it was when the run began; bring that "
                "back, or predict again with --overwrite"
            )
        for axis, factor in enumerate(factors):
            if factor > 1:
                held = np.repeat(held, factor, axis=axis)
        first = [o - c * f for o, c, f in zip(cell.offset, covering.offset, factors, strict=True)]
        return held[tuple(slice(b, b + n) for b, n in zip(first, cell.shape, strict=True))]


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
    tell_absent(name, absent, settings, events)
    found = _looked_up(mask, factors, cells, content=settings.mask_voxels)
    if found.skipped == found.total:
        raise InputError(
            f"{name} is 0 all over {cells.region}, so that nothing is left to predict; "
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
    cells, was = list(recipe.cells.cells()), recipe.skipping
    now = _looked_up(mask, factors, recipe.cells, content=was.content is not None)
    places = [recipe.cells.index(cell) for cell in cells]
    other = [c for c, at in zip(cells, places, strict=True) if now.skips(at) != was.skips(at)]
    if other:
        return (
            f"{name} has changed: {len(other)} of {len(cells)} cells are left out that "
            f"were not, or the other way round (the first is {other[0]})"
        )
    pairs = zip(cells, places, strict=True)
    other = [cell for cell, at in pairs if now.content_of(at) != was.content_of(at)]
    if other:
        return (
            f"{name} has changed: it holds other voxels in {len(other)} of {len(cells)} "
            f"cells (the first is {other[0]})"
        )
    return None


def _opened(path: object, extent: Sequence[int]) -> tuple[Volume, str, tuple[int, ...]]:
    """The mask, what it is called, and the voxels of the volume that one of its own spans."""
    mask = open_volume(path)
    name = _name(mask)
    if mask.channels != 1:
        raise VolumeError(f"{name} has {mask.channels} channels; give one of a single one")
    return mask, name, _factors(mask, extent, name)


def _name(mask: Volume) -> str:
    return f"the mask {mask.path}" if mask.path else "the mask"


def _factors(mask: Volume, extent: Sequence[int], name: str) -> tuple[int, ...]:
    """Voxels of the volume that one of the mask spans, per axis: the least that cover it."""
    factors = [max(1, math.ceil(e / m)) for e, m in zip(extent, mask.shape, strict=False)]
    if len(mask.shape) != len(extent) or any(
        math.ceil(e / f) != m for e, f, m in zip(extent, factors, mask.shape, strict=True)
    ):
        raise VolumeError(
            f"{name} of shape {mask.shape} does not lie over the volume of shape "
            f"{tuple(extent)}; give one of that shape, or coarser by a whole factor along each axis"
        )
    return tuple(factors)


def _looked_up(mask: Volume, factors: Sequence[int], cells: CellGrid, *, content: bool) -> Skipping:
    """Which cells hold a voxel of a mask, and where asked for, a checksum of the voxels of each."""
    regions = [_covering(cell, factors, mask) for cell in cells.cells()]
    if not content:
        wanted = [any(bool(part.any()) for _, part in _set(mask, each)) for each in regions]
        return Skipping.of(mask.identity, cells, wanted)
    wanted, checksums = [], []
    for region in regions:
        held = _held(mask, region)
        wanted.append(bool(held.any()))
        checksums.append(_checksum(held))
    return Skipping.of(mask.identity, cells, wanted, checksums)


def _held(mask: Volume, region: Roi) -> NDArray[np.bool_]:
    """Which voxels of a region of the mask itself are set."""
    held = np.empty(region.shape, bool)
    for piece, part in _set(mask, region):
        held[piece.relative_to(region).slices] = part
    return held


def _set(mask: Volume, region: Roi) -> Iterator[tuple[Roi, NDArray[np.bool_]]]:
    """Which voxels of a region of the mask itself are not 0, piece by piece."""
    for piece, data in pieces(mask, region):
        if data.dtype.kind == "f" and np.isnan(data).any():
            raise VolumeError(
                f"{_name(mask)} holds NaN in {piece}, which says neither yes nor no; write 0 or 1"
            )
        yield piece, data[0] != 0


def _checksum(held: NDArray[np.bool_]) -> int:
    return zlib.crc32(np.packbits(held).tobytes())


def _covering(region: Roi, factors: Sequence[int], mask: Volume) -> Roi:
    """What of the mask lies over a region of the volume."""
    return Roi.from_bounds(
        [o // f for o, f in zip(region.offset, factors, strict=True)],
        [math.ceil(e / f) for e, f in zip(region.end, factors, strict=True)],
    ).intersect(Roi.whole(mask.shape))
