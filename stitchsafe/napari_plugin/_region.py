"""A rectangle that the user draws, as a region of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchsafe.errors import InputError
from stitchsafe.napari_plugin._source import shape_of

__all__ = ["region_of"]


def region_of(shapes: Any, layer: Any, axes: str) -> str:
    """What one types for the last shape of a Shapes layer: its box, whole along other axes.

    Raises
    ------
    InputError
        If there is no shape, or it lies outside the layer.
    """
    if not len(shapes.data):
        raise InputError(f"the layer {shapes.name} has no shapes; draw a rectangle in it")
    world = np.array([shapes.data_to_world(corner) for corner in shapes.data[-1]])
    size = shape_of(layer)
    bounds = []
    inside = np.array([layer.world_to_data(_fitted(corner, layer.ndim)) for corner in world])
    for axis in [n for n, letter in enumerate(axes) if letter in "zyx"]:
        low, high = inside[:, axis].min(), inside[:, axis].max()
        begin, end = max(0, round(low)), min(size[axis], round(high) + 1)
        if high - low < 0.5 or axis >= inside.shape[1]:
            bounds.append(":")
            continue
        if begin >= end:
            raise InputError(
                f"the shape in {shapes.name} lies outside {layer.name} along {axes[axis]}; draw it "
                "over the layer"
            )
        bounds.append(f"{begin}:{end}")
    return ",".join(bounds)


def _fitted(point: Any, ndim: int) -> Any:
    """A point of the world in as many axes: the last ones are the same."""
    if len(point) >= ndim:
        return point[-ndim:]
    return np.concatenate([np.zeros(ndim - len(point)), point])
