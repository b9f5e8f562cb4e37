"""Writing OME-Zarr groups: 0.5 on Zarr v3, or 0.4 on Zarr v2.

::

    out.zarr/                     group
      0, 1, ...                   the image's levels, where it is copied        create_image
      labels/<name>/0, 1, ...     instance labels with a pyramid                create_labels
      fields/<name>/0             dense outputs, channels first                 create_field

Metadata are validated against the schema before anything is written, arrays are made before the
metadata that name them, and each metadata file appears whole or not at all.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stitchsafe.errors import InterruptedRunError, StoreError
from stitchsafe.volumes._place import Place, PlaceError
from stitchsafe.volumes._pyramid import PyramidLevel
from stitchsafe.volumes._store import ArrayStore
from stitchsafe.volumes._tensorstore import first_line, is_disk_full
from stitchsafe.volumes._voxel_size import VoxelSize

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "Ngff",
    "create_field",
    "create_group",
    "create_image",
    "create_labels",
    "write_attributes",
    "write_note",
]

Ngff = Literal["0.5", "0.4"]

_NOTE = "stitchsafe"


def create_group(where: str | Path | Place, *, ngff: Ngff = "0.5") -> Place:
    """Make a plain Zarr group, and keep what is there if it is one already.

    Raises
    ------
    StoreError
        The place cannot be written, or holds an array.
    """
    path = Place.of(where).absolute
    if (path / ".zarray").is_file():
        raise StoreError(f"{path} is an array, and a group is wanted there; choose another output")
    if not (path / ("zarr.json" if ngff == "0.5" else ".zgroup")).is_file():
        write_attributes(path, {}, ngff)
    return path


def create_image(
    path: str | Path | Place,
    *,
    axes: str,
    levels: Sequence[PyramidLevel],
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    channels: int | None = None,
    voxel_size: VoxelSize | None = None,
    name: str = "image",
    density: Sequence[Fraction] | None = None,
    fill_value: float = 0,
    ngff: Ngff = "0.5",
    overwrite: bool = False,
    keep: bool = False,
) -> tuple[ArrayStore, ...]:
    """Make a multiscale image group with empty arrays, one per level.

    Parameters
    ----------
    path
        The group; made if it is absent.
    axes
        The spatial axes, ``"zyx"`` or ``"yx"``.
    levels
        From :func:`pyramid_levels`.
    chunks, shards
        Spatial, in voxels; clipped to small levels. Of channels, each has its own chunks.
        Shards are for ngff 0.5 only.
    channels
        Adds a channel axis in front; None for none.
    voxel_size
        Of level 0. Without it the axes have no unit and level 0 has scale 1.
    density
        Elements of level 0 per voxel, where the array is finer or coarser than the voxels that
        `voxel_size` speaks of; both begin at the same corner.
    overwrite, keep
        Replace arrays that are there; or take them, with what they hold, if they are just these.

    Returns
    -------
    tuple of ArrayStore
        Arrays over ``(c, *spatial)``, or ``(*spatial)`` where `channels` is None.

    Raises
    ------
    StoreError
        An array is there already, or the place cannot be written.
    """
    metadata = _multiscale(axes, levels, channels, voxel_size, name, ngff, density)
    return _create(
        path, {"multiscales": [metadata]}, axes, levels, channels, ngff,
        dtype=dtype, chunks=chunks, shards=shards, fill_value=fill_value, overwrite=overwrite,
        keep=keep,
    )  # fmt: skip


def create_labels(
    root: str | Path | Place,
    name: str,
    *,
    axes: str,
    levels: Sequence[PyramidLevel],
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    voxel_size: VoxelSize | None = None,
    with_image: bool = True,
    ngff: Ngff = "0.5",
    overwrite: bool = False,
    keep: bool = False,
) -> tuple[ArrayStore, ...]:
    """Make ``labels/<name>`` below a group, with label metadata, and list it there.

    Parameters are those of :func:`create_image`; `dtype` must be of whole numbers, and `with_image`
    says whether the group is the image that the labels are of.
    """
    if np.dtype(dtype).kind not in "ui":
        raise StoreError(
            f"labels cannot be {np.dtype(dtype)}, as ids are whole numbers; use uint32"
        )
    root = create_group(root, ngff=ngff)
    label: dict[str, Any] = {"source": {"image": "../../"}} if with_image else {}
    if ngff == "0.4":
        label["version"] = "0.4"
    metadata = {
        "multiscales": [_multiscale(axes, levels, None, voxel_size, name, ngff)],
        "image-label": label,
    }
    stores = _create(
        root / "labels" / name, metadata, axes, levels, None, ngff,
        dtype=dtype, chunks=chunks, shards=shards, fill_value=0, overwrite=overwrite, keep=keep,
    )  # fmt: skip
    found = _read_attributes(root / "labels", ngff)
    known = (found.get("ome", {}) if ngff == "0.5" else found).get("labels", [])
    names = sorted({*known, name})
    write_attributes(root / "labels", _validated({"labels": names}, ngff), ngff)
    return stores


def create_field(
    root: str | Path | Place,
    name: str,
    *,
    axes: str,
    shape: Sequence[int],
    channels: int,
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    voxel_size: VoxelSize | None = None,
    density: Sequence[Fraction] | None = None,
    ngff: Ngff = "0.5",
    overwrite: bool = False,
    keep: bool = False,
) -> ArrayStore:
    """Make ``fields/<name>`` below a group: one level, channels first.

    Parameters are those of :func:`create_image`; `shape` is spatial, and `density` says how many
    elements of the field a voxel has along each axis, element 0 beginning where voxel 0 does.
    """
    root = create_group(root, ngff=ngff)
    create_group(root / "fields", ngff=ngff)
    level = PyramidLevel(tuple(shape), (1,) * len(shape))
    (store,) = create_image(
        root / "fields" / name, axes=axes, levels=(level,), channels=channels, dtype=dtype,
        chunks=chunks, shards=shards, voxel_size=voxel_size, name=name, density=density, ngff=ngff,
        overwrite=overwrite, keep=keep,
    )  # fmt: skip
    return store


def _multiscale(
    axes: str,
    levels: Sequence[PyramidLevel],
    channels: int | None,
    voxel_size: VoxelSize | None,
    name: str,
    ngff: Ngff,
    density: Sequence[Fraction] | None = None,
) -> dict[str, Any]:
    unit = {} if voxel_size is None else {"unit": voxel_size.unit}
    voxel = (1.0,) * len(axes) if voxel_size is None else voxel_size.values
    per_voxel = density or (Fraction(1),) * len(axes)
    base = [v / float(d) for v, d in zip(voxel, per_voxel, strict=True)]
    # Coordinates are those of centres, and the corners coincide: half an element less half a voxel.
    shift = [float((1 / d - 1) / 2) * v for v, d in zip(voxel, per_voxel, strict=True)]
    listed: list[dict[str, Any]] = [{"name": a, "type": "space", **unit} for a in axes]
    front = []
    if channels is not None:
        listed.insert(0, {"name": "c", "type": "channel"})
        front = [1.0]
    datasets = []
    for index, level in enumerate(levels):
        scale = [*front, *(v * f for v, f in zip(base, level.factors, strict=True))]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(shift):
            front_shift = [0.0 for _ in front]
            transformations.append({"type": "translation", "translation": [*front_shift, *shift]})
        datasets.append({"path": str(index), "coordinateTransformations": transformations})
    multiscale: dict[str, Any] = {"name": name, "axes": listed, "datasets": datasets}
    if ngff == "0.4":
        multiscale["version"] = "0.4"
    return multiscale


def _create(
    where: str | Path | Place,
    metadata: dict[str, Any],
    axes: str,
    levels: Sequence[PyramidLevel],
    channels: int | None,
    ngff: Ngff,
    *,
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    shards: Sequence[int] | None,
    fill_value: float,
    overwrite: bool,
    keep: bool,
) -> tuple[ArrayStore, ...]:
    path = Place.of(where).absolute
    attributes = _validated(metadata, ngff)
    front = () if channels is None else (channels,)
    one = () if channels is None else (1,)
    stores = []
    for index, level in enumerate(levels):
        inner = tuple(min(c, s) for c, s in zip(chunks, level.shape, strict=True))
        outer = None
        if shards is not None:
            # Whole inner chunks, no more of them than the level needs.
            pairs = zip(shards, inner, level.shape, strict=True)
            outer = tuple(min(s // c * c or c, -(-size // c) * c) for s, c, size in pairs)
        stores.append(
            ArrayStore.create(
                path / str(index),
                shape=(*front, *level.shape),
                dtype=dtype,
                chunks=(*one, *inner),
                shards=None if outer is None else (*one, *outer),
                fill_value=fill_value,
                zarr_format=3 if ngff == "0.5" else 2,
                dimension_names=(*("c" for _ in front), *axes),
                overwrite=overwrite,
                keep=keep,
            )
        )
    kept = {k: v for k, v in _read_attributes(path, ngff).items() if k not in attributes}
    write_attributes(path, {**kept, **attributes}, ngff)
    return tuple(stores)


def _validated(metadata: dict[str, Any], ngff: Ngff) -> dict[str, Any]:
    """The attributes that hold some OME metadata, checked against the schema of the version."""
    attributes = {"ome": {"version": "0.5", **metadata}} if ngff == "0.5" else metadata
    _schema(ngff).validate_python(attributes["ome"] if ngff == "0.5" else attributes)
    return attributes


@functools.cache  # to make one takes longer than all that it is then asked for
def _schema(ngff: Ngff) -> TypeAdapter[Any]:
    """Of the metadata of a version."""
    from pydantic import TypeAdapter
    from yaozarrs import v04, v05

    return TypeAdapter(v05.OMEMetadata if ngff == "0.5" else v04.OMEZarrGroupJSON)


def _read_attributes(path: Place, ngff: Ngff) -> dict[str, Any]:
    try:
        text = (path / ("zarr.json" if ngff == "0.5" else ".zattrs")).read_text()
    except FileNotFoundError:
        return {}
    data: dict[str, Any] = json.loads(text)
    attributes: dict[str, Any] = data.get("attributes", {}) if ngff == "0.5" else data
    return attributes


def write_attributes(path: Place, attributes: dict[str, Any], ngff: Ngff) -> None:
    """Make a folder a Zarr group with just these attributes, durably.

    Raises
    ------
    StoreError
        The place cannot be written.
    """
    try:
        if ngff == "0.5":
            group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            _write_json(path / "zarr.json", group)
        else:
            _write_json(path / ".zgroup", {"zarr_format": 2})
            _write_json(path / ".zattrs", attributes)
    except OSError as error:
        if is_disk_full(error):
            raise InterruptedRunError(
                f"no space is left on the disk for {path}; make room, then run the same command "
                "again to go on"
            ) from error
        if isinstance(error, PlaceError):
            raise
        raise StoreError(
            f"{path} cannot be written: {first_line(error)}; choose a place that can be written"
        ) from error


def write_note(path: Place, note: dict[str, Any], ngff: Ngff) -> None:
    """Write something of our own beside the metadata of a group, the same bytes for the same."""
    found = _read_attributes(path, ngff)
    noted = {**{key: value for key, value in found.items() if key != _NOTE}, _NOTE: note}
    if list(found.items()) != list(noted.items()):
        write_attributes(path, noted, ngff)


def _write_json(path: Place, data: dict[str, Any]) -> None:
    """Write a file whole or not at all, and durably."""
    path.write_bytes(json.dumps(data, indent=2).encode())
