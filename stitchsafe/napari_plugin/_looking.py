"""Bringing a face into view: its slice, the camera, and how near."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["look_at"]

_PIXELS = 300
"""About how much of the canvas a face should take."""


def look_at(viewer: Any, layer: Any, axis: int, corner: Any, shape: Any) -> None:
    """Show a face of a layer's volume: as a line across the slice, or amid the scene in 3-D.

    Parameters
    ----------
    axis
        The one, of the volume's, that the seam lies across.
    corner, shape
        First voxel behind the seam, and the face's size, in voxels.
    """
    ndim, dims = len(corner), viewer.dims
    before = dims.ndim - ndim
    centre = np.asarray(corner) + (np.asarray(shape) - 1) / 2
    centre[axis] = corner[axis] - 0.5
    scale, translate = (np.asarray(each)[-ndim:] for each in (layer.scale, layer.translate))
    world = centre * scale + translate
    if dims.ndisplay == 2 and axis + before not in dims.displayed:
        # Along the view, nothing of a seam is seen: turn the axes so that it crosses the slice.
        *others, upper, right = dims.order
        gone = axis + before
        dims.order = (*(each for each in others if each != gone), upper, gone, right)
    points = {before + n: float(value) for n, value in enumerate(world)}
    points[before + axis] = float(corner[axis] * scale[axis] + translate[axis])
    # Only along what is not displayed: for each axis that is set, napari reads all slices again.
    turned = [each for each in points if each not in dims.displayed]
    dims.set_point(turned, [points[each] for each in turned])
    displayed = list(dims.displayed)
    camera = [points.get(each, 0.0) for each in displayed]
    view = getattr(viewer, "scene", viewer).camera  # where napari has it since 0.9
    view.center = tuple([0.0] * (3 - len(camera)) + camera)
    size = [shape[each - before] * scale[each - before] for each in displayed if each >= before]
    view.zoom = _PIXELS / max(*size, 1e-9)
