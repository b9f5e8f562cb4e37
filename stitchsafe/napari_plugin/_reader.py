"""The reader: a result as layers of its image, its labels, and its fields as colours.

Nothing is read but metadata until napari asks for what is in view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.napari_plugin._colours import Colours, recorded_values
from stitchsafe.napari_plugin._lazy import LazyArray, channel_of, levels_of, scale_of
from stitchsafe.napari_plugin._result import Result, is_result
from stitchsafe.volumes import Volume, open_volume

__all__ = ["SOURCE", "get_reader", "image_layers", "result_layers"]

LayerData = tuple[Any, dict[str, Any], str]

SOURCE = "stitchsafe"
"""Key of a layer's metadata under which stands what the program calls it: its path and options."""

_TEXTURE, _VOXELS = 1024, 2**22
"""Of the coarsest level of a field: its longest side, and its size, so that it fits a texture."""
_MOST_BYTES = 2**30
"""Of a field, what is read at once for a picture: in 3-D all of a field, however coarse."""


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """What napari asks of a reader: a function for a result of stitchsafe, None for all else."""
    if not is_result(path):
        return None
    return lambda opened: result_layers(opened)


def result_layers(path: str | Path) -> list[LayerData]:
    """The layers of a result: its image if it holds one, its fields if they are kept, its labels.

    Raises
    ------
    StitchsafeError
        If it cannot be read.
    """
    result = Result.at(path)
    layers: list[LayerData] = []
    labelled = (result.path / "labels" / "instances").is_dir()
    for name in result.fields:
        layers.append(_field_layer(result, name, alone=not labelled))
    if labelled:
        layers.append(_labels_layer(result))
    return [*_result_image(result), *layers]


def image_layers(
    source: str, *, name: str | None = None, time: int | None = None, **metadata: Any
) -> list[LayerData]:
    """A volume as one layer for each of its channels, whatever file it lies in.

    Raises
    ------
    VolumeError
        If it cannot be opened, or has several time points of which none is chosen.
    """
    first = open_volume(source, **_at(time))
    layers: list[LayerData] = []
    for channel in range(first.channels):
        chosen = {"channel": channel} if first.channels > 1 else {}
        volumes = levels_of(source, **_at(time), **chosen)
        title = name or Path(source.rpartition(":")[2] if ":" in source else source).name
        options = {
            "name": f"{title}, channel {channel}" if chosen else title,
            "metadata": {SOURCE: {"path": source, **_at(time), **chosen, **metadata}},
            "multiscale": len(volumes) > 1,
            "contrast_limits": _limits(volumes[-1]),
            **({"blending": "additive"} if channel else {}),
            **scale_of(first.voxel_size, first.axes),
        }
        data = channel_of(volumes)
        layers.append((data if len(data) > 1 else data[0], options, "image"))
    return layers


def _at(time: int | None) -> dict[str, Any]:
    return {} if time is None else {"time": time}


def _result_image(result: Result) -> list[LayerData]:
    try:
        return image_layers(
            str(result.path),
            name=f"{_stem(result)} image",
            time=result.time,
            result=str(result.path),
        )
    except VolumeError:
        return []  # the result was made without


def _labels_layer(result: Result) -> LayerData:
    path = str(result.path / "labels" / "instances")
    volumes = levels_of(path)
    data = channel_of(volumes)
    options = {
        "name": f"{_stem(result)} labels",
        "metadata": {SOURCE: {"path": path, "result": str(result.path)}},
        "multiscale": len(data) > 1,
        **scale_of(volumes[0].voxel_size, volumes[0].axes),
    }
    return data if len(data) > 1 else data[0], options, "labels"


def _field_layer(result: Result, name: str, *, alone: bool) -> LayerData:
    """A field in colours; one that no labels go with is inspected in their place."""
    path = str(result.path / "fields" / name)
    volume = open_volume(path)
    shared = {
        "name": f"{_stem(result)} {name}",
        "metadata": {SOURCE: {"path": path, "result": str(result.path), "inspected": alone}},
        "visible": False,
        **scale_of(volume.voxel_size, volume.axes),
    }
    if volume.channels == 1:
        return channel_of([volume])[0], {**shared, "contrast_limits": _limits(volume)}, "image"
    values = recorded_values(result.path, name)
    colours = Colours.of(np.zeros((volume.channels, 0)) if values is None else values)
    steps = _steps(volume.shape)
    data = [_coloured(volume, colours, step) for step in steps]
    options = {**shared, "rgb": True, "multiscale": len(data) > 1}
    return data if len(data) > 1 else data[0], options, "image"


def _coloured(volume: Volume, colours: Colours, step: int) -> LazyArray:
    """A field in colours, each `step`-th of its elements along every axis."""
    shape = [math.ceil(size / step) for size in volume.shape]
    element = volume.channels * volume.dtype.itemsize
    said = False

    def read(roi: Roi) -> Any:
        nonlocal said
        picture = np.zeros((*roi.shape, 3), np.uint8)
        needed = math.prod(size * step if size > 1 else 1 for size in roi.shape) * element
        if needed > _MOST_BYTES:
            if not said:
                _say_too_large(needed)
            said = True
            return picture
        # In slabs as thick as a chunk: memory is for what is kept, not for all that is read.
        axis = max(range(roi.ndim), key=lambda n: roi.shape[n] > 1)
        thick = max(1, volume.chunk_shape[axis] // step)
        for first in range(0, roi.shape[axis], thick):
            slab: tuple[slice, ...] = (slice(None),) * axis + (slice(first, first + thick),)
            part = Roi.from_bounds(
                [o + (first if n == axis else 0) for n, o in enumerate(roi.offset)],
                [min(e, o + first + thick) if n == axis else e
                 for n, (o, e) in enumerate(zip(roi.offset, roi.end, strict=True))],
            )  # fmt: skip
            values = volume.read(
                Roi.from_bounds(
                    [o * step for o in part.offset], [(e - 1) * step + 1 for e in part.end]
                )
            )
            picture[slab] = colours(values[(slice(None), *[slice(None, None, step)] * roi.ndim)])
        return picture

    return LazyArray((*shape, 3), np.uint8, read, whole=1)


def _say_too_large(needed: int) -> None:
    from napari.utils.notifications import show_warning

    show_warning(
        f"this picture takes {needed / 1e9:.1f} GB of the field to be read (3-D takes all of it), "
        f"and {_MOST_BYTES / 1e9:.1f} GB is the most; look at slices or predict less (--roi)"
    )


def _steps(shape: Sequence[int]) -> list[int]:
    """Strides of a pyramid whose coarsest level is a picture that any graphics card takes."""
    steps = [1]
    while max(shape) / steps[-1] > _TEXTURE or math.prod(shape) / steps[-1] ** len(shape) > _VOXELS:
        steps.append(2 * steps[-1])
    return steps


def _limits(volume: Volume) -> tuple[float, float]:
    """Contrast limits from a few voxels in the middle."""
    centre = [size // 2 for size in volume.shape]
    reach = [
        min(size, chunk, 64) for size, chunk in zip(volume.shape, volume.chunk_shape, strict=True)
    ]
    begin = [
        max(0, min(c - r // 2, s - r)) for c, r, s in zip(centre, reach, volume.shape, strict=True)
    ]
    values = volume.read(Roi(tuple(begin), tuple(reach))).astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    if low < high:
        return float(low), float(high)
    if volume.dtype.kind in "bui":
        return 0.0, float(np.iinfo(volume.dtype).max) if volume.dtype.kind != "b" else 1.0
    return float(low), float(low) + 1.0


def _stem(result: Result) -> str:
    return result.path.name.removesuffix(".zarr").removesuffix(".ome") or "result"
