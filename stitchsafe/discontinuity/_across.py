"""What happens across one plane: jumps of a field, and ends of labels.

**Jump.** A field has edges of its own, so a difference across a plane says little. What is special
at a seam is that both sides do not continue each other. The field is averaged over cubes of side s
that abut the plane; the two before it and the two behind it are each extended by a straight line to
the plane, and the size of their mismatch is the jump at scale s::

    a   b ┊ c   d          J = | (c − ½(d − c)) − (b + ½(b − a)) | = ½ | d − 3c + 3b − a |
          ┊

It is half the third difference, so it is 0 wherever the field runs as a parabola. A hard cut shows
most at scale 1, a blended one at the scale of its blend.

**Contrast.** Jumps at edges of objects are a hundred times those in the ground between them, and a
mean of jumps would tell of edges alone. So each is held, as a logarithm, against those of the two
nearest planes parallel to it that share no voxel across the plane::

    contrast = log J(p) − ½ log J(p − 2s) − ½ log J(p + 2s)

A seam that shows in the ground counts as much as one that shows at an edge. It is taken in each
channel, and the mean over the channels, so that a smooth channel tells what a noisy one would hide.
A *quiet* jump is added to all of them, as what is far below what a channel does is no seam but
rounding.

**Labels.** A pair is two neighbouring voxels with the plane between them, of which one at least has
a label other than 0. A straight cut differs from an object's own surface in that the labels go on
behind it: a pair is *split* if it is of two labels, and *ended* if one of them is 0, where on both
sides the next voxel has the same label as the pair's. A *boundary* is two neighbouring pairs, all
four voxels of which are labelled, that differ from each other on one side of the plane at least; it
is *merged* if on the other side they do not: two objects become one there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LABEL_COUNTS", "Starts", "jumps", "label_counts", "log_jump", "summed"]

LABEL_COUNTS = ("pairs", "splits", "ends", "boundaries", "merges")

Starts = Sequence[NDArray[np.int64]]
"""Where the pieces of a plane begin along each lateral axis; the first at 0."""


def log_jump(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any], quiet: NDArray[np.float64]
) -> NDArray[Any]:
    """Mean over the channels of log J, shapes (channels, …) to (…)."""
    jump = np.abs((c - b) * 1.5 - (d - a) * 0.5)
    found: NDArray[Any] = np.log(jump + quiet.reshape(-1, *[1] * (jump.ndim - 1))).mean(axis=0)
    return found


def jumps(
    slab: NDArray[Any], scale: int, starts: Starts, quiet: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Contrasts and logarithms of jumps across a plane, summed over pieces of it.

    Parameters
    ----------
    slab
        The field from ``4·scale`` voxels before the plane to as many behind it, shape
        (channels, 8·scale, *lateral).
    scale
        Side of the cubes; what is left over at a piece's end goes to its last cubes.
    starts
        Of the pieces.
    quiet
        Added to the jumps of each channel; positive.

    Returns
    -------
    ndarray
        Shape (3, *grid of pieces): the contrasts and the logarithms, each weighted by the voxels of
        its cube's face, and these voxels. What is not finite counts in none of them.
    """
    channels, thick, *lateral = slab.shape
    data = np.ascontiguousarray(slab, np.float64).reshape(channels, 8, thick // 8, *lateral)
    cubes = [_cubes(pieces, size, scale) for pieces, size in zip(starts, lateral, strict=True)]
    areas: NDArray[np.float64] = np.ones((1,) * len(lateral))
    with np.errstate(invalid="ignore", over="ignore"):
        planes = data.mean(axis=2)
        for axis, (first, size) in enumerate(zip(cubes, lateral, strict=True)):
            shape = [-1 if k == axis else 1 for k in range(len(lateral))]
            areas = areas * np.diff([*first, size]).reshape(shape)
            if scale > 1:
                planes = np.add.reduceat(planes, first, axis=axis + 2)
        planes = planes / areas
        along = np.moveaxis(planes, 1, 0)
        before, at, behind = (
            log_jump(along[k], along[k + 1], along[k + 2], along[k + 3], quiet) for k in (0, 2, 4)
        )
        contrast = at - (before + behind) / 2
    good = np.isfinite(contrast)
    weights = np.where(good, areas, 0.0)
    inside = [np.searchsorted(*each) for each in zip(cubes, starts, strict=True)]
    maps = (np.where(good, each, 0.0) * weights for each in (contrast, at))
    return np.stack([summed(each, inside) for each in (*maps, weights)])


def _cubes(pieces: NDArray[np.int64], size: int, scale: int) -> NDArray[np.int64]:
    """Where cubes begin: every `scale` voxels of a piece, while a whole one is left."""
    ends = [*pieces[1:].tolist(), size]
    return np.concatenate(
        [
            np.arange(a, max(a + 1, b - scale + 1), scale)
            for a, b in zip(pieces.tolist(), ends, strict=True)
        ]
    )


def label_counts(slab: NDArray[Any], starts: Starts) -> NDArray[np.int64]:
    """The counts of `LABEL_COUNTS` over pieces of a plane.

    Parameters
    ----------
    slab
        Labels from two voxels before the plane to two behind it, shape (4, *lateral).
    starts
        Of the pieces.

    Returns
    -------
    ndarray
        Shape (5, *grid of pieces).
    """
    a, b, c, d = slab
    both = (b != 0) & (c != 0)
    apart = (b != c) & (a == b) & (c == d)
    boundaries, merges = (np.zeros(b.shape, np.int64) for _ in range(2))
    for axis, pieces in enumerate(starts):
        here, there = ((slice(None),) * axis + (each,) for each in (slice(-1), slice(1, None)))
        labelled = both[here] & both[there]
        labelled[(slice(None),) * axis + (pieces[1:] - 1,)] = False  # neighbours in two pieces
        before, behind = (each[here] != each[there] for each in (b, c))
        boundaries[here] += labelled & (before | behind)
        merges[here] += labelled & (before ^ behind)
    maps = ((b != 0) | (c != 0), apart & both, apart & ~both, boundaries, merges)
    return np.stack([summed(each.astype(np.int64), starts) for each in maps])


def summed(values: NDArray[Any], starts: Starts) -> NDArray[Any]:
    """Sums over the pieces of a plane."""
    for axis, first in enumerate(starts):
        values = np.add.reduceat(values, first, axis=axis)
    return values
