"""Segments grow into the foreground around them, as water rises from them.

The foreground is read in 256 levels. From the highest level down, segments take the unlabelled
voxels of at least that level which they touch by a face, step by step until nothing of the level is
in reach; then comes the next one. Thus borders between segments run where the foreground is lowest
(a seeded watershed). A voxel belongs to the segment that reaches it first, even if it has to wait
for its level; of several in one step, to the lowest label. All is integer, and each voxel is
claimed once.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["grow_segments"]

_LEVELS = 256
_NOBODY = np.iinfo(np.uint32).max
_SOURCES = 1 << 16  # whose neighbours are looked at together


def grow_segments(
    labels: NDArray[np.uint32],
    foreground: NDArray[np.floating],
    allowed: NDArray[np.bool_],
    *,
    steps: int | None = None,
) -> NDArray[np.uint32]:
    """Grow segments into the unlabelled voxels that are allowed, high foreground first.

    Parameters
    ----------
    labels
        Segments; 0 is free.
    foreground
        Probability, 0 to 1, of the same shape.
    allowed
        Where segments may grow.
    steps
        How many voxels far, over faces; without limit where None.

    Returns
    -------
    labels
        A new array; what no segment reaches stays 0.
    """
    if steps is not None:
        from scipy.ndimage import binary_dilation  # here, as it takes a while to import

        allowed = binary_dilation(labels > 0, iterations=steps, mask=allowed | (labels > 0))
    # A rim of forbidden voxels, so that neighbours are plain offsets in the flat array.
    grown = np.pad(labels, 1)
    scaled = foreground * np.float32(_LEVELS)
    levels = np.clip(scaled, 0, _LEVELS - 1, out=scaled).astype(np.int16)
    del scaled
    levels[~allowed | (labels > 0)] = -1
    flat, level = grown.reshape(-1), np.pad(levels, 1, constant_values=-1).reshape(-1)
    del levels
    offsets = np.asarray(
        [stride // grown.itemsize * sign for stride in grown.strides for sign in (-1, 1)]
    )
    waiting: list[list[NDArray[np.int64]]] = [[] for _ in range(_LEVELS)]

    claims = np.zeros_like(flat)

    def reach(sources: NDArray[np.int64], at: int) -> NDArray[np.int64]:
        """Claim what lies free beside `sources`: now, or when its level comes."""
        now = [np.zeros(0, np.int64)]
        for begin in range(0, len(sources), _SOURCES):
            beside = (sources[begin : begin + _SOURCES, None] + offsets).reshape(-1)
            beside = np.asarray(np.unique(beside[level[beside] >= 0]), np.int64)
            around = flat[beside[:, None] + offsets]
            around[around == 0] = _NOBODY
            claims[beside] = around.min(axis=1)
            own = level[beside]
            level[beside] = -1
            _file(beside[own < at], own[own < at], waiting)
            now.append(beside[own >= at])
        return np.concatenate(now)

    for begin in range(0, flat.size, _SOURCES):
        reach(begin + np.flatnonzero(flat[begin : begin + _SOURCES]), _LEVELS)
    for at in range(_LEVELS - 1, -1, -1):
        front = np.concatenate([np.zeros(0, np.int64), *waiting[at]])
        waiting[at] = []
        while len(front):
            flat[front] = claims[front]
            front = reach(front, at)
    return grown[(slice(1, -1),) * labels.ndim].copy()


def _file(
    voxels: NDArray[np.int64], own: NDArray[np.int16], waiting: list[list[NDArray[np.int64]]]
) -> None:
    """Put voxels where they wait for their level."""
    order = np.argsort(own, kind="stable")
    voxels, own = voxels[order], own[order]
    bounds = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), len(own)]
    for begin, end in pairwise(bounds):
        if end > begin:
            waiting[int(own[begin])].append(voxels[begin:end])
