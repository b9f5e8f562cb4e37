"""Opening a volume: from what the user names to a :class:`Volume`, or one clear refusal.

::

    source ── array ───────────────────────────────┐
       └───── text: URL, zip ┬ Zarr ── OME image ──┤
                    folder ──┘                     │
                    file ──── HDF5, TIFF, NumPy ───┴─> Stored ── axes, time, channel ──> Volume

Formats are told apart by their first bytes, not by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._axes import pick, resolve_axes
from stitchsafe.volumes._files import Stored, open_file
from stitchsafe.volumes._ome import Multiscale, container_of, find_image
from stitchsafe.volumes._place import Place, PlaceError, PlaceSyntaxError, is_url
from stitchsafe.volumes._sources import MemorySource
from stitchsafe.volumes._volume import Source, SourceVolume, Volume
from stitchsafe.volumes._voxel_size import Level, VoxelSize
from stitchsafe.volumes._zarr import ZarrNode, ZarrSource
from stitchsafe.volumes._zip import image_in_archive, is_zarr_archive

__all__ = ["open_volume"]


@dataclass(frozen=True)
class _Wanted:
    axes: str | None
    level: int
    channel: int | None
    time: int | None
    voxel_size: VoxelSize | Sequence[float] | str | None


def open_volume(
    source: Any,
    *,
    axes: str | None = None,
    level: int = 0,
    channel: int | None = None,
    time: int | None = None,
    voxel_size: VoxelSize | Sequence[float] | str | None = None,
    image: str | None = None,
) -> Volume:
    """Open an image volume for reading region by region.

    Parameters
    ----------
    source
        A path to OME-Zarr, Zarr (a zip of it, too), HDF5, TIFF or NumPy, with what is inside a
        container after a colon (``file.h5:raw``); the URL of OME-Zarr or Zarr, ``s3://bucket/key``
        or ``https://host/path``; or an array in memory.
    axes
        One letter of "tczyx" per axis of the stored array, in its order. By default what the file
        says; where it says nothing yx, zyx, czyx or tczyx, and the volume's `notes` say so.
    level
        Which resolution of a pyramid.
    channel
        The only channel to hand out; all by default.
    time
        The time point; needed where there are several.
    voxel_size
        Overrules what the file says. Text such as ``"10,10,10nm"``, or numbers: in the file's own
        unit, or in micrometers where it has none.
    image
        The image inside a container, as after the colon.

    Returns
    -------
    Volume

    Raises
    ------
    VolumeError
        There is no such file, it is not a volume, or what is asked for is not in it.
    """
    wanted = _Wanted(axes, level, channel, time, voxel_size)
    if isinstance(source, Place):
        source = str(source)
    if not isinstance(source, str | Path):
        return _open_array(source, wanted)
    try:
        return _open_place(str(source), image, wanted)
    except PlaceError as error:
        raise error.refusal(VolumeError) from error
    except PlaceSyntaxError as error:
        raise VolumeError(str(error)) from error
    except OSError as error:
        raise VolumeError(f"{source} cannot be read: {error.strerror}; check the path") from error


def _open_place(text: str, image: str | None, wanted: _Wanted) -> Volume:
    if is_url(text):
        place = Place.of(text)
        if place.local is None:
            return _open_url(place, image, wanted)
        text = str(place.local)
    path, inner = _locate(text, image)
    if path.is_dir():
        return _open_zarr(Place.of(path), inner, wanted)
    if is_zarr_archive(path):
        archive = image_in_archive(Place.of(path), inner)
        return _open_zarr(archive, None, wanted)
    stored = open_file(path, inner)
    _refuse_level(wanted, stored.name)
    return _finish(stored, wanted)


def _open_url(place: Place, inner: str | None, wanted: _Wanted) -> Volume:
    front, mark, back = place.key.partition(".zip")
    if not mark or back[:1] not in ("", ":"):
        return _open_zarr(place, inner.strip("/") if inner else None, wanted)
    archive = replace(place, key=f"{front}.zip")
    return _open_zarr(image_in_archive(archive, inner or back[1:] or None), None, wanted)


def _open_array(array: Any, wanted: _Wanted) -> Volume:
    if not hasattr(array, "shape") or not hasattr(array, "__getitem__"):
        array = np.asarray(array)
    try:
        stored = Stored(MemorySource(array), "the array")
    except (TypeError, ValueError, IndexError) as error:
        raise VolumeError(
            f"a {type(array).__name__} is not an array of numbers ({error}); give a path or an "
            "array"
        ) from error
    _refuse_level(wanted, "the array")
    return _finish(stored, wanted)


def _locate(text: str, image: str | None) -> tuple[Path, str | None]:
    """The existing file or folder, and what is meant inside it."""
    path, inner = Path(text).expanduser(), image
    if not path.exists() and ":" in text:
        front, _, back = text.rpartition(":")
        if Path(front).expanduser().exists():
            path, inner = Path(front).expanduser(), image or back
    if not path.exists():
        parent = path.absolute().parent
        while not parent.exists():
            parent = parent.parent
        raise VolumeError(f"there is no file or folder {text} ({parent} exists); check the path")
    return path.resolve(), inner.strip("/") if inner else None


def _refuse_level(wanted: _Wanted, name: str) -> None:
    if wanted.level != 0:
        raise VolumeError(
            f"level {wanted.level} is not in {name}, which is no pyramid; leave out --level"
        )


def _open_zarr(path: Place, inner: str | None, wanted: _Wanted) -> Volume:
    found = find_image(path, inner)
    if found.image is not None:
        return _open_level(found.image, wanted, found.notes)
    node = found.array
    assert node is not None  # find_image returns one of the two
    above = container_of(node.path)
    if above is not None:
        if wanted.level not in (0, above[1]):
            raise VolumeError(
                f"{node.path} is level {above[1]} of its pyramid, and level {wanted.level} is "
                f"asked for; give {above[0].node.path} with --level {wanted.level}"
            )
        return _open_level(above[0], replace(wanted, level=above[1]), found.notes)
    _refuse_level(wanted, str(node.path))
    stated = _stated_axes(node)
    return _finish(
        Stored(ZarrSource(node), str(node.path), str(node.path), stated, notes=found.notes), wanted
    )


def _stated_axes(node: ZarrNode) -> tuple[str, ...] | None:
    names = node.metadata.get("dimension_names")
    if not names or any(name is None for name in names):
        names = node.attributes.get("_ARRAY_DIMENSIONS", node.attributes.get("axes"))
    if isinstance(names, str):
        return tuple(names)
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _open_level(image: Multiscale, wanted: _Wanted, notes: tuple[str, ...]) -> Volume:
    name = str(image.node.path)
    nodes = image.level_nodes()
    letters = None
    levels = []
    for index, node in enumerate(nodes):
        shape = tuple(node.metadata["shape"]) if node is not None else ()
        if not shape:
            continue
        letters, _ = resolve_axes(shape, given=wanted.axes, stated=image.axes, name=name)
        spatial = tuple(shape[letters.index(a)] for a in "zyx" if a in letters)
        levels.append(Level(index, spatial, image.voxel_size(index, letters)))
    if not any(level.index == wanted.level for level in levels):
        there = "; ".join(map(str, levels)) or "none that can be read"
        raise VolumeError(
            f"level {wanted.level} is not in {name}; its levels are {there}: choose with --level"
        )
    node = nodes[wanted.level]
    assert node is not None  # it is among the levels
    level = next(level for level in levels if level.index == wanted.level)
    stored = Stored(
        ZarrSource(node),
        name,
        str(node.path),
        image.axes,
        level.voxel_size.values if level.voxel_size else None,
        image.unit,
        notes,
    )
    return _finish(stored, wanted, tuple(levels))


def _finish(stored: Stored, wanted: _Wanted, levels: tuple[Level, ...] = ()) -> Volume:
    """Resolve axes, time, channel and voxel size against what the source has."""
    source, name = stored.source, stored.name
    if source.dtype.kind not in "biuf" or source.dtype.itemsize > 8:
        raise VolumeError(
            f"{name} holds {source.dtype}, and an image is of whole or real numbers; convert it"
        )
    letters, notes = resolve_axes(source.shape, given=wanted.axes, stated=stored.axes, name=name)
    if 0 in source.shape:
        raise VolumeError(f"{name} is empty, its shape is {source.shape}; give one with voxels")
    times = _size(source, letters, "t")
    if wanted.time is None and times > 1:
        raise VolumeError(
            f"{name} has {times} time points, and one is processed at a time; choose one with "
            f"--time 0 to {times - 1}"
        )
    pick(wanted.time, times, kind="time point", option="--time", name=name)
    channels = _size(source, letters, "c")
    pick(wanted.channel, channels, kind="channel", option="--channel", name=name)
    channel = wanted.channel if "c" in letters else None
    ndim = 3 if "z" in letters else 2
    size = _voxel_size(stored, wanted, ndim, name)
    if wanted.voxel_size is not None and levels and size is not None:
        levels = _rescaled(levels, wanted.level, size)
    return SourceVolume(
        source=source,
        stored_axes=letters,
        path=stored.path,
        time=wanted.time or 0,
        channel=channel,
        level=wanted.level,
        voxel_size=size,
        levels=levels,
        notes=(*stored.notes, *notes),
    )


def _size(source: Source, letters: str, letter: str) -> int:
    return source.shape[letters.index(letter)] if letter in letters else 1


def _voxel_size(stored: Stored, wanted: _Wanted, ndim: int, name: str) -> VoxelSize | None:
    given = wanted.voxel_size
    if given is None:
        if stored.voxel_size is None or stored.unit is None or len(stored.voxel_size) != ndim:
            return None
        return VoxelSize(stored.voxel_size, stored.unit)
    unit = stored.unit or "micrometer"
    if isinstance(given, str):
        given = VoxelSize.parse(given, unit=unit)
    elif not isinstance(given, VoxelSize):
        given = VoxelSize(tuple(given), unit)
    if len(given.values) != ndim:
        raise VolumeError(
            f"the voxel size {given} has {len(given.values)} lengths, and {name} has {ndim} "
            f"spatial axes; give {ndim} numbers with --voxel-size"
        )
    return given


def _rescaled(levels: tuple[Level, ...], chosen: int, size: VoxelSize) -> tuple[Level, ...]:
    """The levels' sizes if those of the chosen one are `size`, by the ratio of their shapes."""
    base = next(level for level in levels if level.index == chosen).shape
    return tuple(
        Level(
            x.index,
            x.shape,
            size
            if x.index == chosen
            else size.scale([_factor(b, s) for b, s in zip(base, x.shape, strict=True)]),
        )
        for x in levels
    )


def _factor(base: int, size: int) -> float:
    """Ratio of two lengths of one axis; a whole number where rounding hides one."""
    ratio = base / size
    near = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    return near if abs(ratio / near - 1) <= 1 / min(base, size) else ratio
