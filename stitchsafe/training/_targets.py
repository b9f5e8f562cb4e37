"""What a network is to learn at each voxel, made of instance labels once before training.

::

    labels   1 1 1 1 1 2 2 2 2 2 0 0      reach 1
    inner    . x x x . . x x x . . .      no other label within reach: the foreground target
    weight   1 1 1 1 w w 1 1 1 w 1 1      w where two instances are within reach of each other

The embedding is trained on the inner voxels (and on those of the background, where it is a cluster
of its own). A gap of a voxel or two between touching instances is what splits them, so a miss there
may cost more (`boundary_weight`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Targets", "inner_voxels", "make_targets", "split_parts"]


@dataclass(frozen=True)
class Targets:
    """Per voxel: instance ids (int32), inner or not (bool), weight of the foreground (float32)."""

    labels: npt.NDArray[np.int32]
    inner: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


def inner_voxels(labels: npt.NDArray[np.integer], reach: int) -> npt.NDArray[np.bool_]:
    """Voxels of an instance with no other label within `reach` voxels (a cube, not a ball)."""
    inside = labels != 0
    if reach > 0:
        size = 2 * reach + 1
        low = ndimage.minimum_filter(labels, size, mode="nearest")
        high = ndimage.maximum_filter(labels, size, mode="nearest")
        inside &= low == high
    return np.asarray(inside, dtype=np.bool_)


def split_parts(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Each 6-connected (4-connected in 2-D) part of an instance as an instance of its own.

    A network with a finite receptive field cannot know that two parts meet outside the window.
    """
    parts = cc3d.connected_components(
        np.ascontiguousarray(labels, dtype=np.uint32),
        connectivity=6 if labels.ndim == 3 else 4,
        return_N=False,
    )
    return np.asarray(parts, dtype=np.int32).reshape(labels.shape)


def make_targets(
    labels: npt.NDArray[np.integer], *, reach: int = 0, boundary_weight: float = 1.0
) -> Targets:
    """Targets of a labelled volume or image; 0 is background.

    Parameters
    ----------
    labels
        ``(*spatial)`` instance ids.
    reach
        Voxels by which instances are thinned where they meet anything else.
    boundary_weight
        Weight of the foreground loss where different instances lie within reach of each other,
        relative to 1 elsewhere.
    """
    inner = inner_voxels(labels, reach)
    weight = np.ones(labels.shape, dtype=np.float32)
    if boundary_weight != 1.0:
        span = 2 * max(reach, 1) + 1
        large = np.iinfo(np.int32).max  # exact in the doubles that the filters compute in
        wide = labels.astype(np.int32)
        low = ndimage.minimum_filter(np.where(wide == 0, large, wide), span, mode="nearest")
        high = ndimage.maximum_filter(wide, span, mode="nearest")
        weight[(high != low) & (low != large) & ~inner] = boundary_weight
    return Targets(labels.astype(np.int32), inner, weight)
