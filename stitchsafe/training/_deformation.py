"""Smooth random displacements, and arrays seen through them.

Control points lie on a grid with a random origin; each is displaced by a normal draw, and in
between the displacement is interpolated by cubics through the points (Catmull-Rom), so that it is
smooth and its size at a point is what was asked for. A voxel at p shows what lies at p + u(p)::

    control   o.......o.......o.......o        spacing
              ↑ u     ↓ u     ↑ u              sigma

Nothing is assumed of what lies outside: whoever warps an array brings as much more of it as
`margins` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Displacement", "Elastic", "margins", "warp"]

Displacement = npt.NDArray[np.float64]

# Weights of four neighbouring control points: rows are the powers 0..3 of the way between them.
_CUBIC = 0.5 * np.array(
    [[0.0, 2.0, 0.0, 0.0], [-1.0, 0.0, 1.0, 0.0], [2.0, -5.0, 4.0, -1.0], [-1.0, 3.0, -3.0, 1.0]]
)


@dataclass(frozen=True)
class Elastic:
    """A smooth random displacement.

    Parameters
    ----------
    spacing
        Distance of the control points in voxels, for all axes or for each.
    sigma
        Standard deviation of their displacement along each axis, in voxels.
    """

    spacing: float | tuple[float, ...]
    sigma: float | tuple[float, ...]

    def draw(self, shape: Sequence[int], generator: np.random.Generator) -> Displacement:
        """Displacements ``(ndim, *shape)`` in voxels."""
        ndim = len(shape)
        lines = [
            _line(size, float(spacing), generator)
            for size, spacing in zip(shape, np.broadcast_to(self.spacing, ndim), strict=True)
        ]
        points = generator.normal(size=(ndim, *(line.shape[1] for line in lines)))
        field = points * np.reshape(np.broadcast_to(self.sigma, ndim), (ndim,) + (1,) * ndim)
        for axis, line in enumerate(lines, start=1):
            field = np.moveaxis(np.tensordot(line, field, (1, axis)), 0, axis)
        return field


def _line(size: int, spacing: float, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Weights ``(size, points)`` of the control points along one axis, with a random origin."""
    position = np.arange(size) / spacing + generator.uniform()
    cell = np.floor(position).astype(int)
    way = position - cell
    weights = way[:, None] ** np.arange(4) @ _CUBIC
    line = np.zeros((size, int(cell[-1]) + 4))
    line[np.arange(size)[:, None], cell[:, None] + np.arange(4)] = weights
    return line


def _column(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(-1 if other == axis else 1 for other in range(ndim))


def margins(displacement: Displacement) -> tuple[tuple[int, int], ...]:
    """Voxels (before, after) per axis by which a warp reaches out of the displaced box."""
    reaches = []
    for axis, along in enumerate(displacement):
        seen = along + np.arange(along.shape[axis]).reshape(_column(axis, along.ndim))
        before, after = -np.floor(seen.min()), np.ceil(seen.max()) - (along.shape[axis] - 1)
        reaches.append((max(0, int(before)), max(0, int(after))))
    return tuple(reaches)


def warp(
    array: npt.NDArray[np.generic],
    displacement: Displacement,
    before: Sequence[int],
    *,
    order: int,
) -> npt.NDArray[np.generic]:
    """What each voxel of the displaced box shows.

    Parameters
    ----------
    array
        ``(*spatial)``, larger than the box by at least its `margins`.
    displacement
        ``(ndim, *box)``, in voxels.
    before
        Where the box begins in `array`.
    order
        1 for intensities, 0 for labels.
    """
    places = np.stack(
        [
            along + np.arange(along.shape[axis]).reshape(_column(axis, along.ndim)) + before[axis]
            for axis, along in enumerate(displacement)
        ]
    )
    if order == 0:  # exact for any whole numbers, which a spline in doubles is not
        nearest = np.floor(places + 0.5).astype(np.intp)
        return np.asarray(array[tuple(nearest)])
    seen: npt.NDArray[np.generic] = ndimage.map_coordinates(
        array, places, order=order, mode="nearest", output=array.dtype
    )
    return seen
