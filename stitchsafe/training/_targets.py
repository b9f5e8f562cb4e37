"""What a network is to learn at each voxel, made of instance labels.

::

    labels   1 1 1 1 1 2 2 2 2 2 0 0 0 ? ? ? 3 3 3 3      reach 1;  ? nothing is known (negative)
    inner    x x x x . . x x x . . . . . . . . x x x      no other label within reach
    known    x x x x x x x x x x x x x . . . . x x x      whether that is certain
    weight   1 1 1 1 w w 1 1 1 1 1 1 1 0 0 0 0 1 1 1      w where two instances lie within reach

`inner` is the foreground target. The embedding is trained on the inner voxels (and on those of the
background, where it is a cluster of its own). A gap of a voxel or two between touching instances is
what splits them, so a miss there may cost more (`boundary_weight`). What is not known costs
nothing, nor does a voxel that only something unknown within reach could keep from being inner.

A voxel's targets depend on labels within `margin` of it: those of a window, made of labels that
reach so much further, are those of the whole volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Targets", "inner_voxels", "make_targets", "margin", "split_parts"]

_LARGE = np.iinfo(np.int32).max  # exact in the doubles that the filters compute in


@dataclass(frozen=True)
class Targets:
    """Per voxel: instance ids (int32), inner or not (bool), weight of the foreground (float32).

    The weight is 0 where nothing is known.
    """

    labels: npt.NDArray[np.int32]
    inner: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


def margin(reach: int) -> int:
    """Voxels by which labels must reach out of a window for its targets."""
    return max(reach, 1)


def inner_voxels(labels: npt.NDArray[np.integer], reach: int) -> npt.NDArray[np.bool_]:
    """Voxels of an instance with no other label within `reach` voxels (a cube, not a ball).

    What is not known (negative) counts as another label.
    """
    inside = labels > 0
    if reach > 0:
        size = 2 * reach + 1
        low = ndimage.minimum_filter(labels, size, mode="nearest")
        high = ndimage.maximum_filter(labels, size, mode="nearest")
        inside &= low == high
    return np.asarray(inside, dtype=np.bool_)


def split_parts(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Each 6-connected (4-connected in 2-D) part of an instance as an instance of its own.

    A network with a finite receptive field cannot know that two parts meet outside the window.
    Voxels of which nothing is known (negative) become -1; parts of one instance with nothing but
    such voxels between them remain one, as those are taken to be what is known nearest to them.
    """
    unknown = labels < 0
    if unknown.all():
        return np.full(labels.shape, -1, dtype=np.int32)
    if unknown.any():
        nearest = ndimage.distance_transform_edt(
            unknown, return_distances=False, return_indices=True
        )
        labels = labels[tuple(nearest)]
    parts = cc3d.connected_components(
        np.ascontiguousarray(labels, dtype=np.uint32),
        connectivity=6 if labels.ndim == 3 else 4,
        return_N=False,
    )
    found = np.asarray(parts, dtype=np.int32).reshape(labels.shape)
    return np.where(unknown, np.int32(-1), found)


def make_targets(
    labels: npt.NDArray[np.integer], *, reach: int = 0, boundary_weight: float = 1.0
) -> Targets:
    """Targets of a labelled volume or image.

    Parameters
    ----------
    labels
        ``(*spatial)`` instance ids; 0 is background, and of negative ones nothing is known.
    reach
        Voxels by which instances are thinned where they meet anything else.
    boundary_weight
        Weight of the foreground loss where different instances lie within reach of each other,
        relative to 1 elsewhere.
    """
    wide = labels.astype(np.int32)
    inner = inner_voxels(wide, reach)
    weight = np.ones(labels.shape, dtype=np.float32)
    if boundary_weight != 1.0:
        low, high = _range(wide, wide > 0, max(reach, 1))
        weight[(high != low) & (low != _LARGE) & ~inner] = boundary_weight
    unknown = wide < 0
    if unknown.any():
        low, high = _range(wide, ~unknown, reach)
        open_question = ndimage.maximum_filter(unknown, 2 * reach + 1, mode="nearest")
        weight[unknown | (open_question & (wide > 0) & (low == high))] = 0
    return Targets(wide, inner, weight)


def _range(
    labels: npt.NDArray[np.int32], counted: npt.NDArray[np.bool_], reach: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The least and the largest of the labels that count, within reach of each voxel."""
    low = ndimage.minimum_filter(np.where(counted, labels, _LARGE), 2 * reach + 1, mode="nearest")
    high = ndimage.maximum_filter(np.where(counted, labels, 0), 2 * reach + 1, mode="nearest")
    return low, high
