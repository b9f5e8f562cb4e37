"""An image in a result without its bytes: links to the arrays of the OME-Zarr that it came from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from stitchsafe.volumes._ome import container_of, read_multiscale
from stitchsafe.volumes._ome_write import Ngff, write_attributes
from stitchsafe.volumes._place import Place
from stitchsafe.volumes._volume import Volume
from stitchsafe.volumes._zarr import ZarrNode, read_node

__all__ = ["link_image"]


def link_image(volume: Volume, where: Path | Place, *, ngff: Ngff, most: int | None = None) -> bool:
    """Make a group show the image that `volume` belongs to, by symbolic links to its levels.

    Parameters
    ----------
    volume
        The volume.
    where
        The group, without an image of its own.
    ngff
        Version of the group; links serve only images of the same version.
    most
        Show no more than so many levels, the finest: an image may not have more than its labels.

    Returns
    -------
    bool
        Whether it could be linked: it is a local OME-Zarr of that version whose levels lie directly
        in its group, and so is the result, on a file system that has links.
    """
    group = Place.of(where).local
    node = None if volume.path is None else _image_group(volume.path)
    source = None if node is None else node.path.local
    if (
        group is None
        or node is None
        or source is None
        or node.zarr_format != (3 if ngff == "0.5" else 2)
    ):
        return False
    key = "ome" if ngff == "0.5" else "multiscales"
    if key not in node.attributes:
        return False
    image = read_multiscale(node)
    if image is None or any("/" in name or name in ("labels", "fields") for name in image.datasets):
        return False
    shown: dict[str, Any] = {}
    if ngff == "0.5":
        shown = {k: v for k, v in node.attributes["ome"].items() if k != "labels"}
    first = (node.attributes["ome"] if ngff == "0.5" else node.attributes)["multiscales"][0]
    shown["multiscales"] = [{**first, "datasets": first["datasets"][:most]}]
    if ngff == "0.5":
        shown = {"ome": shown}
    try:
        for name in image.datasets[:most]:
            if (source / name).is_dir() and not (group / name).is_symlink():
                (group / name).symlink_to(os.path.relpath(source / name, group))
    except OSError:
        return False
    write_attributes(Place.of(group), json.loads(json.dumps(shown)), ngff)
    return True


def _image_group(path: str) -> ZarrNode | None:
    """The group of the local image at a path: the path, or the group that it is a level of."""
    local = Place.of(path).local
    if local is None or not local.is_dir():
        return None
    node = read_node(local)
    if node is None or node.kind == "group":
        return node
    found = container_of(Place.of(local))
    return None if found is None else found[0].node
