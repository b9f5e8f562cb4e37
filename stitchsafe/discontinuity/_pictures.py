"""Crops of faces as pictures: the image, the field as colours, the labels; at seam and control."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._pieces import Dense

__all__ = ["Picture", "Views", "colours_of_field", "crop_of", "pictures_of"]

_SIDE, _NARROWEST = 96, 16

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Views:
    """What can be shown of a volume; of one shape.

    Parameters
    ----------
    image, field, labels
        Any of them may be missing.
    """

    image: Dense | None = None
    field: Dense | None = None
    labels: Dense | None = None


@dataclass(frozen=True)
class Picture:
    """One crop.

    Parameters
    ----------
    what
        ``image``, ``field`` or ``labels``.
    at
        ``seam`` or ``control``.
    data
        A PNG as a URL that holds it.
    plane
        Where the plane lies in the picture, as a share of its width.
    box, along
        What is shown, and the axis that runs downwards.
    """

    what: str
    at: str
    data: str
    plane: float
    box: Roi
    along: int


def crop_of(faces: FaceTable, row: int, position: int, region: Roi) -> tuple[Roi, int]:
    """A slice that a plane cuts from side to side, and the axis that runs along the cut.

    It lies at the middle of the face; of the axes along the cut, the last is taken. Across the
    plane it is so wide that a control's picture ends at the seam, and along it twice that at most.
    """
    axis = int(faces.axis[row])
    seam, control = int(faces.corner[row, axis]), int(faces.control[row])
    reach = (
        min(_SIDE // 2, max(_NARROWEST // 2, abs(control - seam))) if control >= 0 else _SIDE // 2
    )
    along = max(k for k in range(region.ndim) if k != axis)
    begin, end = list(region.offset), list(region.end)
    for k in range(region.ndim):
        middle = int(faces.corner[row, k] + faces.shape[row, k] // 2)
        if k == axis:
            middle = position
        elif k != along:
            begin[k], end[k] = middle, middle + 1
            continue
        side = 2 * reach if k == axis else min(_SIDE, 4 * reach)
        low = max(region.offset[k], min(middle - side // 2, region.end[k] - side))
        begin[k], end[k] = low, min(region.end[k], low + side)
    return Roi.from_bounds(begin, end), along


def pictures_of(
    faces: FaceTable, rows: Sequence[int], region: Roi, views: Views
) -> dict[int, list[Picture]]:
    """Pictures of some faces and of their controls, by row; the plane runs from top to bottom."""
    crops: dict[tuple[int, str], tuple[Roi, int, int]] = {}
    for row in rows:
        axis = int(faces.axis[row])
        places = {"seam": int(faces.corner[row, axis]), "control": int(faces.control[row])}
        for at, position in places.items():
            if position >= 0:
                box, along = crop_of(faces, row, position, region)
                crops[row, at] = box, along, position
    data = {
        name: {key: _plane(volume, *crops[key][:2], int(faces.axis[key[0]])) for key in crops}
        for name, volume in (
            ("image", views.image),
            ("field", views.field),
            ("labels", views.labels),
        )
        if volume is not None
    }
    found: dict[int, list[Picture]] = {row: [] for row in rows}
    for name, planes in data.items():
        painted = _PAINTERS[name](list(planes.values()))
        for key, pixels in zip(planes, painted, strict=True):
            row, at = key
            box, along, position = crops[key]
            axis = int(faces.axis[row])
            share = (position - box.offset[axis]) / box.shape[axis]
            found[row].append(Picture(name, at, _png(pixels), share, box, along))
    return found


def _plane(volume: Dense, box: Roi, along: int, axis: int) -> NDArray[Any]:
    """A slice with the plane's axis from left to right, shape (channels, along, across)."""
    data = volume.read(box)
    data = np.moveaxis(data, (along + 1, axis + 1), (-2, -1))
    return data.reshape(data.shape[0], *data.shape[-2:])


def _painted_image(planes: list[NDArray[Any]]) -> list[Pixels]:
    """Grey, from black at the 1st percentile of all to white at the 99th."""
    values = [plane[0].astype(np.float64) for plane in planes]
    every = np.concatenate([each[np.isfinite(each)] for each in values])
    low, high = np.percentile(every, [1, 99]) if len(every) else (0.0, 1.0)
    return [
        _bytes(np.repeat(((v - low) / max(high - low, 1e-12))[..., None], 3, -1)) for v in values
    ]


def _painted_field(planes: list[NDArray[Any]]) -> list[Pixels]:
    flat = np.concatenate([plane.reshape(plane.shape[0], -1) for plane in planes], axis=1)
    colours = colours_of_field(flat.T)
    cuts = np.cumsum([plane[0].size for plane in planes])[:-1]
    parts = np.split(colours, cuts)
    return [part.reshape(*plane.shape[1:], 3) for part, plane in zip(parts, planes, strict=True)]


def colours_of_field(values: NDArray[Any]) -> Pixels:
    """Colours of some elements of a field, by their first three principal components.

    Parameters
    ----------
    values
        Shape (elements, channels).

    Returns
    -------
    ndarray of uint8
        Shape (elements, 3). Components span the colours from their 2nd to their 98th percentile,
        and point to where they have the longer tail, so that colours do not turn round by chance.
    """
    data = np.nan_to_num(np.asarray(values, np.float64))
    data = data - data.mean(axis=0)
    if data.shape[1] > 1:
        _, axes = np.linalg.eigh(data.T @ data)
        data = data @ axes[:, ::-1][:, :3]
        data = data * np.where((data**3).sum(axis=0) < 0, -1, 1)
    low, high = np.percentile(data, [2, 98], axis=0)
    scaled = (data - low) / np.maximum(high - low, 1e-12)
    shown = np.full((len(data), 3), 0.5)
    shown[:, : scaled.shape[1]] = scaled
    return _bytes(np.repeat(scaled, 3, axis=1) if scaled.shape[1] == 1 else shown)


def _painted_labels(planes: list[NDArray[Any]]) -> list[Pixels]:
    """A colour for each label, by its number alone, on a ground of grey."""
    from matplotlib.colors import hsv_to_rgb

    found = []
    for plane in planes:
        labels = plane[0].astype(np.uint64)
        turned = (labels * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        hue = turned.astype(np.float64) / 2**24
        colour = np.stack([hue, np.full(hue.shape, 0.65), 0.7 + 0.3 * (labels % 2)], -1)
        found.append(_bytes(np.where((labels != 0)[..., None], hsv_to_rgb(colour), 0.18)))
    return found


_PAINTERS = {"image": _painted_image, "field": _painted_field, "labels": _painted_labels}


def _bytes(values: NDArray[Any]) -> Pixels:
    pixels: Pixels = (255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return pixels


def _png(pixels: Pixels) -> str:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
