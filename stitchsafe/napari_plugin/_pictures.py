"""Pictures of a face and of its control plane: a cut across the seam, image and labels together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi

__all__ = ["Cut", "cut_across", "render"]

Array = npt.NDArray[Any]
_REACH = 32
_SHARE = 0.35


@dataclass(frozen=True)
class Cut:
    """Where a picture is taken: a plane of the volume across a seam.

    Parameters
    ----------
    region
        In voxels, one voxel thick along all axes but two.
    seam
        Position of the seam within the picture, in voxels from its first row or column.
    upright
        Whether the seam runs from top to bottom.
    """

    region: Roi
    seam: int
    upright: bool


def cut_across(axis: int, position: int, centre: tuple[int, ...], extent: tuple[int, ...]) -> Cut:
    """A picture across a seam at a position along an axis, around a voxel of it."""
    ndim = len(extent)
    other = ndim - 1 if axis != ndim - 1 else ndim - 2
    begin, end = [], []
    for each in range(ndim):
        middle = position if each == axis else centre[each]
        if each in (axis, other):
            low = max(0, min(middle - _REACH, extent[each] - 2 * _REACH))
            begin.append(low)
            end.append(min(extent[each], low + 2 * _REACH))
        else:
            begin.append(min(max(middle, 0), extent[each] - 1))
            end.append(begin[-1] + 1)
    return Cut(Roi.from_bounds(begin, end), position - begin[axis], axis > other)


def render(cut: Cut, image: Array | None, labels: Array | None) -> Array:
    """The picture, 8 bits, shape (rows, columns, 3); the seam is marked at its two ends."""
    shown = next(each for each in (image, labels) if each is not None)
    plane = np.zeros((*shown.shape[:2], 3), np.float32)
    if image is not None:
        grey = image.astype(np.float32)
        low, high = (float(np.percentile(grey, q)) for q in (1, 99))
        grey = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)
        plane[:] = grey if image.ndim == 3 else grey[..., None]
    if labels is not None:
        share = _SHARE if image is not None else 1.0
        tinted = labels != 0
        plane[tinted] = (1 - share) * plane[tinted] + share * _hues(labels[tinted])
    picture = (plane * 255).astype(np.uint8)
    return _marked(picture, cut)


def _hues(labels: Array) -> Array:
    """A colour for each label, the same wherever it is."""
    mixed = labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = [(mixed >> np.uint64(shift)) & np.uint64(0xFF) for shift in (40, 48, 56)]
    return np.stack(parts, axis=-1).astype(np.float32) / 255 * 0.8 + 0.2


def _marked(picture: Array, cut: Cut) -> Array:
    """Enlarged four times, with the seam marked in orange at both ends."""
    large = picture.repeat(4, axis=0).repeat(4, axis=1)
    at = slice(max(0, cut.seam * 4 - 1), cut.seam * 4 + 1)
    for end in (slice(0, 24), slice(-24, None)):
        large[(end, at) if cut.upright else (at, end)] = (230, 159, 0)
    return large
