"""Reading OME-Zarr: which array of a hierarchy is meant, its axes and its voxel size.

The versions differ in where things stand::

    0.4  .zattrs              multiscales[0].axes = [{name, type, unit}, ...]     Zarr v2
    0.5  zarr.json attributes.ome.multiscales[0]  the same                        Zarr v3
    0.3  axes = ["t", "c", ...];   0.1, 0.2  no axes: tczyx;  no voxel size in any of them

A voxel's size is the product of the scales of the level and of the whole multiscale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._place import Place, PlaceError
from stitchsafe.volumes._voxel_size import VoxelSize, known_unit
from stitchsafe.volumes._zarr import ZarrNode, read_node

__all__ = ["Found", "Multiscale", "container_of", "find_image", "read_multiscale"]


@dataclass(frozen=True)
class Multiscale:
    """Axes and levels of an OME-Zarr image."""

    node: ZarrNode
    axes: tuple[str, ...]
    unit: str | None
    datasets: tuple[str, ...]
    scales: tuple[tuple[float, ...] | None, ...]

    def voxel_size(self, level: int, letters: str) -> VoxelSize | None:
        """Size of the voxels of a level along its spatial axes, (z, y, x)."""
        scale = self.scales[level]
        if scale is None or self.unit is None or len(scale) != len(letters):
            return None
        values = tuple(scale[letters.index(a)] for a in "zyx" if a in letters)
        return VoxelSize(values, self.unit) if all(v > 0 for v in values) else None

    def level_nodes(self) -> tuple[ZarrNode | None, ...]:
        nodes = (read_node(self.node.path / path) for path in self.datasets)
        return tuple(node if node and node.kind == "array" else None for node in nodes)


@dataclass(frozen=True)
class Found:
    """What a path leads to: a multiscale image, or a single array."""

    image: Multiscale | None
    array: ZarrNode | None
    notes: tuple[str, ...] = ()


def find_image(path: Place, inner: str | None) -> Found:
    """The image or array at a path of a Zarr hierarchy.

    Parameters
    ----------
    path
        A group or an array.
    inner
        A path below it, such as ``"labels/nuclei"``; None where `path` says all.

    Raises
    ------
    VolumeError
        There is no Zarr, or several images or arrays could be meant; they are listed.
    """
    node = read_node(path)
    if node is None:
        if path.kind == "s3":
            path.listing("zarr.")  # of no use, but that it tells of a bucket that does not exist
        what = "is a folder without" if path.kind == "file" else "has no"
        other = "; of URLs only these are read, so download other formats"
        raise VolumeError(
            f"{path} {what} Zarr metadata, so not a volume; give an OME-Zarr or Zarr "
            f"folder{', or a .h5, .tif or .npy file' if path.kind == 'file' else other}"
        )
    if inner:
        below = read_node(path / inner)
        if below is None:
            children = ", ".join(_known_children(node)) or "nothing that is known"
            raise VolumeError(f"{path} has no {inner!r} inside; it has {children}")
        node = below
    if node.kind == "array":
        return Found(None, node)
    image = read_multiscale(node)
    return Found(image, None) if image else _only_child(node)


def _known_children(node: ZarrNode) -> dict[str, str]:
    try:
        return node.children
    except PlaceError:
        return {}


def _only_child(node: ZarrNode) -> Found:
    try:
        children = node.children
    except PlaceError as error:
        if error.passing:
            raise
        raise VolumeError(
            f"the Zarr group {node.path} is not an image, and what it holds is not known here "
            f"({error}); give the path of an image or an array"
        ) from error
    images = [n for n in children if n.isdecimal() and children[n] == "group"]
    arrays = [name for name, kind in children.items() if kind == "array"]
    labels = _labels_of(node)
    choices = arrays or images or labels or list(children)
    if len(choices) == 1 and choices != ["labels"]:
        child = read_node(node.path / choices[0])
        image = read_multiscale(child) if child and child.kind == "group" else None
        note = (f"{node.path.name} holds one image, {choices[0]}; that one is taken",)
        if image is not None:
            return Found(image, None, note)
        if child is not None and child.kind == "array":
            return Found(None, child, note)
    if not choices:
        raise VolumeError(
            f"the Zarr group {node.path} has neither image metadata nor arrays; give a group that "
            "has, or an array"
        )
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    raise VolumeError(
        f"the Zarr group {node.path} is not an image but holds {shown}; name the one that is "
        f"meant, as in {node.path}/{choices[0]}"
    )


def _labels_of(node: ZarrNode) -> list[str]:
    below = read_node(node.path / "labels")
    return [f"labels/{name}" for name in below.children] if below else []


def read_multiscale(node: ZarrNode) -> Multiscale | None:
    """The image metadata of a group; None if it has none.

    Raises
    ------
    VolumeError
        They are there and cannot be understood.
    """
    ome = node.attributes.get("ome")
    ome = ome if isinstance(ome, Mapping) else {}
    blocks = ome.get("multiscales", node.attributes.get("multiscales"))
    if not blocks:
        return None
    try:
        block = blocks[0]
        version = str(ome.get("version", block.get("version", "")))
        datasets = tuple(str(entry["path"]) for entry in block["datasets"])
        names, unit = _axes(block, version)
        outer = _scale(block.get("coordinateTransformations"))
        scales = tuple(
            _product(_scale(entry.get("coordinateTransformations")), outer)
            for entry in block["datasets"]
        )
        if not datasets:
            raise ValueError("it lists no dataset")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise VolumeError(
            f"the OME metadata of {node.path} are not of version 0.1 to 0.5 or are damaged "
            f"({type(error).__name__}: {error}); open one of its arrays instead and say what its "
            "axes are with --axes"
        ) from error
    return Multiscale(node, names, unit, datasets, scales)


def _axes(block: Mapping[str, Any], version: str) -> tuple[tuple[str, ...], str | None]:
    axes = block.get("axes")
    if axes is None:
        if version.startswith(("0.1", "0.2")) or not version:
            return tuple("tczyx"), None
        raise ValueError(f"version {version!r} without axes")
    if all(isinstance(axis, str) for axis in axes):
        return tuple(axes), None
    names = tuple("c" if axis.get("type") == "channel" else str(axis["name"]) for axis in axes)
    space = {axis["name"]: axis.get("unit") for axis in axes if axis.get("type") == "space"}
    units = {known_unit(unit) for unit in space.values()}
    return names, units.pop() if len(units) == 1 else None


def _scale(transformations: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...] | None:
    scale = None
    for transformation in transformations or ():
        if transformation.get("type") == "scale" and "scale" in transformation:
            scale = _product(scale, tuple(float(s) for s in transformation["scale"]))
    return scale


def _product(
    first: tuple[float, ...] | None, second: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    if first is None or second is None:
        return first or second
    return tuple(a * b for a, b in zip(first, second, strict=True))


def container_of(path: Place) -> tuple[Multiscale, int] | None:
    """The image that an array is a level of, with the number of the level; None if of none."""
    try:
        parent = read_node(path.parent) if path.key else None
        image = read_multiscale(parent) if parent is not None else None
    except (VolumeError, PlaceError) as error:
        if isinstance(error, PlaceError) and error.passing:
            raise
        return None  # what cannot be understood above does not keep the array from being read
    if image is None or path.name not in image.datasets:
        return None
    return image, image.datasets.index(path.name)
