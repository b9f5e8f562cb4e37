"""Files that hold volumes: HDF5, TIFF and NumPy, told apart by their first bytes."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._sources import (
    Hdf5Source,
    MemorySource,
    RawSource,
    TiffSource,
    TransposedSource,
)
from stitchsafe.volumes._tensorstore import first_line
from stitchsafe.volumes._volume import Source
from stitchsafe.volumes._voxel_size import known_unit

__all__ = ["Stored", "open_file"]


@dataclass(frozen=True)
class Stored:
    """A stored array with what its file says about it; None for what it does not say."""

    source: Source
    name: str
    path: str | None = None
    axes: tuple[str, ...] | None = None
    voxel_size: tuple[float, ...] | None = None
    unit: str | None = None
    notes: tuple[str, ...] = ()


def open_file(path: Path, inner: str | None) -> Stored:
    """Open a file of any known format.

    Parameters
    ----------
    path
        An existing file.
    inner
        The dataset or member inside it; None for the only one.

    Raises
    ------
    VolumeError
        The format is unknown, the file is damaged, or `inner` is not in it or is needed.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if magic.startswith(b"\x89HDF"):
        return _open_hdf5(path, inner)
    if inner and not magic.startswith(b"PK"):
        raise VolumeError(
            f"{path} is no container with arrays by name, so there is no {inner!r} in it; leave "
            f"out :{inner}"
        )
    if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(path)
    if magic.startswith(b"\x93NUMPY"):
        return _open_npy(path)
    if magic.startswith(b"PK"):
        return _open_npz(path, inner)
    raise VolumeError(
        f"{path} is not a volume: its first bytes are those of no known format; give OME-Zarr, "
        "Zarr, HDF5, TIFF or NumPy"
    )


def _choose(path: Path, inner: str | None, names: list[str], kind: str) -> str:
    if inner in names:
        return str(inner)
    shown = ", ".join(names) or "none"
    if inner is not None:
        raise VolumeError(f"{path} has no {kind} {inner!r}; it has {shown}")
    if not names:
        raise VolumeError(f"{path} has no {kind} with an array; give a file that has one")
    if len(names) > 1:
        raise VolumeError(
            f"{path} has several {kind}s: {shown}; name one, as in {path.name}:{names[0]}"
        )
    return names[0]


def _open_hdf5(path: Path, inner: str | None) -> Stored:
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            names.append(name)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            name = _choose(path, inner, names, "dataset")
            attributes = dict(file[name].attrs)
        source = Hdf5Source(path, name)
    except (OSError, RuntimeError, KeyError) as error:
        raise VolumeError(
            f"the HDF5 file {path} cannot be read: {first_line(error)}; it is damaged or being "
            "written, copy it again"
        ) from error
    return Stored(
        source,
        f"{path}:{name}",
        f"{path}:{name}",
        _names(attributes.get("axes")),
        _numbers(attributes.get("voxel_size", attributes.get("element_size_um"))),
        "micrometer"
        if "element_size_um" in attributes and "voxel_size" not in attributes
        else known_unit(_text(attributes.get("voxel_unit"))),
    )


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if value is None else str(value)


def _names(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str | bytes):
        return tuple(str(_text(value)))
    return tuple(str(_text(name)) for name in np.atleast_1d(value))


def _numbers(value: Any) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(number) for number in np.atleast_1d(value))
    except (TypeError, ValueError):
        return None
    return numbers if all(number > 0 for number in numbers) else None


def _open_npy(path: Path) -> Stored:
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise VolumeError(
            f"the NumPy file {path} cannot be read: {first_line(error)}; it is truncated or not an "
            "array of numbers, save it again"
        ) from error
    facts: dict[str, Any] = {
        "format": "npy",
        "dtype": mapped.dtype.str,
        "shape": list(mapped.shape),
    }
    if mapped.ndim < 2 or 0 in mapped.shape:
        return Stored(MemorySource(np.array(mapped), facts), str(path), str(path))
    facts["fortran_order"] = fortran = not mapped.flags.c_contiguous
    shape = mapped.shape[::-1] if fortran else mapped.shape
    source: Source = RawSource(path, mapped.offset, shape, mapped.dtype, facts)
    return Stored(TransposedSource(source) if fortran else source, str(path), str(path))


def _open_npz(path: Path, inner: str | None) -> Stored:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        name = _choose(path, inner, names, "member")
        with np.load(path, allow_pickle=False) as archive_arrays:
            array = archive_arrays[name]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise VolumeError(
            f"the NumPy archive {path} cannot be read: {first_line(error)}; it is damaged or holds "
            "no arrays of numbers, save it again"
        ) from error
    facts = {"format": "npz", "dtype": array.dtype.str, "shape": list(array.shape)}
    return Stored(MemorySource(array, facts), f"{path}:{name}", f"{path}:{name}")


def _open_tiff(path: Path) -> Stored:
    import tifffile

    try:
        with _errors_raised("tifffile"), tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = series.axes
            shape = tuple(int(size) for size in series.shape)
            facts = {"format": "tiff", "shape": list(shape), "dtype": str(series.dtype)}
            offset = series.dataoffset if len(shape) >= 2 else None
            stored_type = np.dtype(file.byteorder + series.dtype.char)
            size, unit = _tiff_voxel_size(file)
            extra = len(file.series) - 1
        source: Source
        if offset is not None:
            source = RawSource(path, int(offset), shape, stored_type, facts)
        else:
            source = TiffSource(path, facts)
            last = tuple(slice(size - 1, size) for size in source.shape)
            source.read(last)  # a codec that is missing, or a truncated file, shows here
    except VolumeError:
        raise
    except Exception as error:
        raise VolumeError(
            f"the TIFF file {path} cannot be read: {first_line(error)}; it is damaged, "
            "copy it again"
        ) from error
    notes = (f"{path.name} holds {extra + 1} series; the first is taken",) if extra else ()
    letters = _tiff_axes(axes)
    if size is not None and letters is not None:
        size = tuple(size[a] for a in "zyx" if a in letters and a in size)
    return Stored(source, str(path), str(path), letters, size, unit, notes)


@contextmanager
def _errors_raised(name: str) -> Iterator[None]:
    """Raise what a library only logs as an error, such as pages that lie beyond the file's end."""
    logger = logging.getLogger(name)
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            records.append(record)
        return False

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
    if records:
        raise ValueError(records[0].getMessage())


def _tiff_axes(axes: str) -> tuple[str, ...] | None:
    """The letters of tifffile as ours: samples are channels, a sequence of pages is z."""
    letters = axes.lower().replace("s", "c")
    pages = [letter for letter in letters if letter in "iq"]
    if "z" not in letters and len(pages) == 1:
        letters = letters.replace(pages[0], "z")
    known = set(letters) <= set("tczyx") and len(set(letters)) == len(letters)
    return tuple(letters) if known else None


def _tiff_voxel_size(file: Any) -> tuple[Any, str | None]:
    """Lengths by axis letter and their unit, from ImageJ or OME metadata; None where unsaid."""
    if file.ome_metadata:
        return _ome_xml_voxel_size(file.ome_metadata)
    metadata: Mapping[str, Any] = file.imagej_metadata or {}
    unit = known_unit(metadata.get("unit"))
    tags = file.pages[0].tags
    sizes: dict[str, float] = {}
    for letter, tag in (("x", "XResolution"), ("y", "YResolution")):
        value = tags[tag].value if tag in tags else (0, 1)
        numerator, denominator = value if isinstance(value, tuple) else (value, 1)
        if numerator:
            sizes[letter] = denominator / numerator
    if unit is None or len(sizes) < 2:
        return None, unit
    if "spacing" in metadata:
        sizes["z"] = abs(float(metadata["spacing"]))
    return sizes, unit


def _ome_xml_voxel_size(xml: str) -> tuple[dict[str, float] | None, str | None]:
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("Pixels")), None)
    if pixels is None:
        return None, None
    sizes = {}
    units = set()
    for letter in "xyz":
        value = pixels.get(f"PhysicalSize{letter.upper()}")
        if value is not None and float(value) > 0:
            sizes[letter] = float(value)
            units.add(known_unit(pixels.get(f"PhysicalSize{letter.upper()}Unit", "µm")))
    if len(units) != 1 or None in units:
        return None, None
    return sizes, units.pop()
