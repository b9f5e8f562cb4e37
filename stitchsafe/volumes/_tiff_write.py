"""Writing OME-TIFF: tiled, compressed, of volumes larger than memory.

A TIFF lists its tiles page by page, a volume is stored in chunks of many pages. So chunks are read
once, a slab of pages at a time and in it a column of tiles at a time; each tile is compressed at
once and put aside, in memory or in a nameless file beside the output, until its page is written::

    chunks of a slab ──> tiles, column by column ──> put aside ──> tiles, page by page ──> file

Levels of a pyramid become SubIFDs, in which a page has the levels that it has, so only levels that
keep every page can.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi, ceil_to, grid_cells
from stitchsafe.errors import VolumeError
from stitchsafe.volumes._volume import Volume
from stitchsafe.volumes._voxel_size import VoxelSize

__all__ = ["keeps_every_page", "refuse_tiff_type", "tiff_windows", "write_ome_tiff"]

_TILE = 256
_IN_MEMORY = 1 << 26
_CLASSIC = 2**32 - 2**25
_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_SYMBOLS = {
    "picometer": "pm",
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "decimeter": "dm",
    "meter": "m",
}


def write_ome_tiff(
    file: BinaryIO,
    levels: Sequence[Volume],
    *,
    name: str,
    scratch: Path,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write a volume of one channel, and coarser levels of it.

    Parameters
    ----------
    file
        Takes the bytes; must be seekable.
    levels
        The volume, then levels of its pyramid as `keeps_every_page` finds them.
    name
        Of the image, in its metadata.
    scratch
        Folder for what does not fit into memory meanwhile.
    advance
        Called after each of `tiff_windows`.

    Raises
    ------
    VolumeError
        OME knows no such type.
    """
    import tifffile

    volume = levels[0]
    refuse_tiff_type(volume.dtype)
    voxels = sum(int(np.prod(level.shape)) for level in levels)
    large = voxels * volume.dtype.itemsize * 1.01 > _CLASSIC
    with tifffile.TiffWriter(file, bigtiff=large, ome=True, byteorder="<") as tiff:
        for number, level in enumerate(levels):
            more: dict[str, Any] = {"subfiletype": 1}
            if number == 0:
                metadata = {"axes": volume.axes.upper(), "Name": name}
                metadata |= _physical_size(volume.axes, volume.voxel_size)
                more = {"subifds": len(levels) - 1, "metadata": metadata}
            tiff.write(
                _tiles(level, scratch, advance),
                shape=level.shape,
                dtype=level.dtype.newbyteorder("<"),
                tile=_tile(level),
                compression="zlib",
                photometric="minisblack",
                **more,
            )


def refuse_tiff_type(dtype: np.dtype[Any]) -> None:
    """Refuse a type that OME-TIFF has no name for.

    Raises
    ------
    VolumeError
        Naming those that it has.
    """
    if dtype.name not in _TYPES:
        raise VolumeError(
            f"OME-TIFF knows no {dtype.name}, which these labels are of; it has "
            f"{', '.join(_TYPES)}, so export them as they are: OME-Zarr"
        )


def keeps_every_page(level: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a coarser level of a volume of `shape` has as many pages."""
    return tuple(level[:-2]) == tuple(shape[:-2])


def tiff_windows(level: Volume) -> Iterator[Roi]:
    """What is read at once: whole tiles, and as many pages and voxels as chunks have."""
    pages = level.chunk_shape[:-2]
    tiles = zip(level.chunk_shape[-2:], _tile(level), strict=True)
    return grid_cells(Roi.whole(level.shape), (*pages, *(ceil_to(c, t) for c, t in tiles)))


def _tile(level: Volume) -> tuple[int, int]:
    height, width = (min(_TILE, ceil_to(size, 16)) for size in level.shape[-2:])
    return height, width


def _physical_size(axes: str, size: VoxelSize | None) -> dict[str, Any]:
    if size is None:
        return {}
    found: dict[str, Any] = {}
    for axis, value in zip(axes.upper(), size.values, strict=True):
        found[f"PhysicalSize{axis}"] = value
        found[f"PhysicalSize{axis}Unit"] = _SYMBOLS[size.unit]
    return found


def _tiles(level: Volume, scratch: Path, advance: Callable[[], None]) -> Iterator[bytes]:
    """All tiles of a level, compressed, page by page."""
    tile = _tile(level)
    rows, columns = (-(-size // side) for size, side in zip(level.shape[-2:], tile, strict=True))
    depth = level.chunk_shape[0] if len(level.shape) == 3 else 1
    pages = level.shape[0] if len(level.shape) == 3 else 1
    nothing = zlib.compress(bytes(tile[0] * tile[1] * level.dtype.itemsize))
    windows = tiff_windows(level)
    window = next(windows, None)
    for first in range(0, pages, depth):
        count = min(depth, pages - first)
        places = np.zeros((count, rows, columns, 2), np.int64)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(scratch)) as aside:
            while window is not None and (len(level.shape) == 2 or window.offset[0] == first):
                data = level.read(window)[0].reshape(count, *window.shape[-2:])
                corner = [o // side for o, side in zip(window.offset[-2:], tile, strict=True)]
                for page, row, column, part in _cut(data, tile):
                    begin = aside.tell()
                    aside.write(zlib.compress(_full(part, tile)) if part.any() else nothing)
                    at = page, corner[0] + row, corner[1] + column
                    places[at] = begin, aside.tell() - begin
                advance()
                window = next(windows, None)
            for begin, size in places.reshape(-1, 2).tolist():
                aside.seek(begin)
                yield aside.read(size)


def _cut(
    data: npt.NDArray[Any], tile: tuple[int, int]
) -> Iterator[tuple[int, int, int, npt.NDArray[Any]]]:
    for page, plane in enumerate(data):
        for cell in grid_cells(Roi.whole(plane.shape), tile):
            row, column = (o // side for o, side in zip(cell.offset, tile, strict=True))
            yield page, row, column, plane[cell.slices]


def _full(part: npt.NDArray[Any], tile: tuple[int, int]) -> bytes:
    """The bytes of a tile, 0 beyond the volume."""
    whole = np.zeros(tile, part.dtype.newbyteorder("<"))
    whole[: part.shape[0], : part.shape[1]] = part
    return whole.tobytes()
