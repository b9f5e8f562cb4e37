"""Zarr in a zip archive: whether a file is one, and where in it the hierarchy begins."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._place import Place

__all__ = ["image_in_archive", "is_zarr_archive"]

_METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_zarr_archive(path: Path) -> bool:
    """Whether a local file is a zip archive that holds Zarr metadata."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name in _METADATA for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def image_in_archive(archive: Place, inner: str | None) -> Place:
    """The place that is meant in an archive: `inner`, or the one hierarchy that it holds.

    Raises
    ------
    VolumeError
        There is none, or there are several.
    """
    whole = Place.inside(archive)
    if inner:
        return whole / inner.strip("/")
    nodes = {
        str(PurePosixPath(key).parent)
        for key in whole.listing()
        if PurePosixPath(key).name in _METADATA
    }
    outermost = sorted(
        node
        for node in nodes
        if not nodes.intersection(map(str, PurePosixPath(node).parents)) or node == "."
    )
    if len(outermost) == 1:
        return whole / outermost[0]
    if not outermost:
        raise VolumeError(
            f"the archive {archive} holds no Zarr metadata, so no volume; give a zip of an "
            "OME-Zarr or Zarr folder"
        )
    shown = ", ".join(outermost[:12]) + (", ..." if len(outermost) > 12 else "")
    raise VolumeError(
        f"the archive {archive} holds several Zarr hierarchies: {shown}; name one, as in "
        f"{archive}:{outermost[0]}"
    )
