"""What the program is told of a layer: the file that it lies in, or one that it is copied to.

A layer of a result, a Zarr array and an HDF5 dataset lie in a file that the program reads itself.
Anything else (an array in memory, one that other plugins compute lazily) is copied first, a plane
at a time, beside the result that is asked for: resuming and `verify` read it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.errors import InputError
from stitchsafe.napari_plugin._reader import SOURCE

__all__ = [
    "Source",
    "axes_choices",
    "copied_axes",
    "copy_layer",
    "finest",
    "shape_of",
    "source_of",
    "voxel_size_of",
]

_LENGTHS = {
    "picometer", "angstrom", "nanometer", "micrometer", "millimeter", "centimeter", "meter",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A volume as the program is told of it.

    Parameters
    ----------
    path
        A path or URL.
    words
        Options that belong to it.
    """

    path: str
    words: tuple[str, ...] = field(default=())


def finest(layer: Any) -> Any:
    """A layer's array; of a pyramid the finest level."""
    return layer.data[0] if layer.multiscale else layer.data


def shape_of(layer: Any) -> tuple[int, ...]:
    """Shape of a layer's array, colours left out."""
    shape = tuple(finest(layer).shape)
    return shape[:-1] if getattr(layer, "rgb", False) else shape


def axes_choices(layer: Any) -> list[str]:
    """What the axes of a layer may be, the likeliest first."""
    ndim = len(finest(layer).shape)
    if getattr(layer, "rgb", False):
        return [{3: "yxc", 4: "zyxc", 5: "tzyxc"}.get(ndim, "yxc")]
    said = "".join(str(label) for label in getattr(layer, "axis_labels", ()))
    known = {2: ["yx"], 3: ["zyx", "tyx", "cyx"], 4: ["tzyx", "czyx", "tcyx"], 5: ["tczyx"]}
    choices = known.get(ndim, [])
    if len(said) == ndim == len(set(said) & set("tczyx")) and set("yx") <= set(said):
        return [said, *(each for each in choices if each != said)]
    return choices


def source_of(layer: Any, axes: str, time: int, channel: int | None) -> Source | None:
    """The file that a layer lies in, as far as one can be sure; None if it is to be copied."""
    known = layer.metadata.get(SOURCE) if isinstance(layer.metadata, dict) else None
    if known:
        chosen = channel if known.get("channel") is None else known["channel"]
        moment = known.get("time")
        return Source(str(known["path"]), (*_option("time", moment), *_option("channel", chosen)))
    path = _stored_at(finest(layer))
    if path is None:
        return None
    return Source(
        path,
        (
            *("--axes", axes),
            *(_option("time", time) if "t" in axes else ()),
            *(_option("channel", channel) if "c" in axes else ()),
        ),
    )


def _option(name: str, value: int | None) -> tuple[str, ...]:
    return () if value is None else (f"--{name}", str(value))


def _stored_at(array: Any) -> str | None:
    """Where a Zarr array or an HDF5 dataset lies on a disk."""
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    if kind.startswith("zarr.") and hasattr(array, "store"):
        root = getattr(array.store, "root", None)
        path = None if root is None else Path(root) / str(getattr(array, "path", ""))
        return str(path) if path is not None and path.is_dir() else None
    if kind.startswith("h5py.") and hasattr(array, "file"):
        return f"{array.file.filename}:{str(array.name).strip('/')}"
    return None


def copy_layer(
    layer: Any, axes: str, time: int, channel: int | None, path: Path
) -> Iterator[tuple[int, int]]:
    """Copy what is chosen of a layer to a NumPy file, telling how much of it is done.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    array = finest(layer)
    picked: list[Any] = [slice(None)] * len(array.shape)
    left = axes
    for letter, place in (("t", time), ("c", channel)):
        if letter in axes and place is not None:
            picked[axes.index(letter)] = place
            left = left.replace(letter, "")
    shape = tuple(s for s, p in zip(array.shape, picked, strict=True) if isinstance(p, slice))
    total = shape[0]
    try:
        copied = np.lib.format.open_memmap(path, "w+", np.dtype(array.dtype), shape)
    except OSError as error:
        raise InputError(
            f"the layer cannot be copied to {path}: {error.strerror}; choose another place for the "
            "result"
        ) from error
    outer = picked.index(slice(None))
    for done in range(total):
        picked[outer] = done
        copied[done] = np.asarray(array[tuple(picked)])
        yield done + 1, total
    copied.flush()


def copied_axes(axes: str, channel: int | None) -> str:
    """Axes of the copy."""
    gone = "t" if channel is None else "tc"
    return "".join(letter for letter in axes if letter not in gone)


def voxel_size_of(layer: Any, axes: str) -> str:
    """A layer's voxel size as one types it; "" where its units are no lengths."""
    spatial = [n for n, letter in enumerate(axes) if letter in "zyx"]
    units = [str(unit) for unit in getattr(layer, "units", ())]
    spatial_units = {units[n] for n in spatial if n < len(units)}
    if len(spatial_units) != 1 or not spatial_units <= _LENGTHS:
        return ""
    sizes: Sequence[float] = [layer.scale[n] for n in spatial]
    return ",".join(f"{size:g}" for size in sizes) + spatial_units.pop()
