"""What the planes before do not foretell of the next one.

A network's field goes on as it has begun: edges are some voxels wide, strides write a texture that
repeats. So a plane can be foretold from those before it, and what is left over, the *innovation* of
signal processing, is small but where something begins anew, as it does at a seam. Jumps, which
extend the field by straight lines, are far larger where there is texture.

A linear predictor is learned from the field itself, at planes of the seams' phase that no seam is
near to: every channel from all channels of the planes before, along the axis and against it. Held
against innovations of the two planes before, which lie in the same object but see nothing of what
is behind the seam, one says how much more is new across the plane::

    contrast = log |e(p)| − ½ log |e(p − 1)| − ½ log |e(p − 2)|

Each of the three has a predictor of its own, as each has another phase of the texture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._across import Starts, summed
from stitchsafe.discontinuity._planes import AxisPlanes

__all__ = ["Innovation", "reach_of", "samples", "widest"]

_BEFORE, _LEAST = 8, 2
_BESIDE = 2
_FEATURES = 128
_RIDGE = 1e-5
_QUIET = 1e-2
_ROWS_PER_FEATURE = 10
_SAMPLES, _VOXELS = 32, 4096

Slab = NDArray[Any]


class _Readable(Protocol):
    def read(self, roi: Roi) -> NDArray[Any]: ...


def widest(channels: int) -> int:
    """Voxels on both sides that innovations are measured from; 0 where channels are too many."""
    before = min(_BEFORE, _FEATURES // channels)
    return before + _BESIDE if before >= _LEAST else 0


def reach_of(planes: AxisPlanes, channels: int) -> int:
    """The widest reach that there is room for between two seams; 0 where there is none."""
    reaches = range(widest(channels), _LEAST + _BESIDE - 1, -1)
    return next((reach for reach in reaches if planes.undisturbed(reach)), 0)


def samples(
    field: _Readable, region: Roi, axis: int, positions: Sequence[int], reach: int
) -> Iterator[Slab]:
    """Slabs to learn from, spread over the region: shape (channels, 2·reach, *lateral)."""
    side = round(_VOXELS ** (1 / (region.ndim - 1)))
    lateral = [1 if k == axis else min(side, size) for k, size in enumerate(region.shape)]
    patches = max(1, region.size // region.shape[axis] // int(np.prod(lateral)))
    count = min(_SAMPLES, len(positions) * patches)
    for index in range(count):
        corner = []
        for k, (begin, size) in enumerate(zip(region.offset, region.shape, strict=True)):
            # Multiples of an irrational number fill an interval evenly.
            share = (index * (0.618034 + 0.1369 * k) + 0.5) % 1
            corner.append(begin + round(share * (size - lateral[k])))
        corner[axis] = positions[index * len(positions) // count] - reach
        thick = [2 * reach if k == axis else each for k, each in enumerate(lateral)]
        yield np.moveaxis(field.read(Roi(tuple(corner), tuple(thick))), axis + 1, 1)


@dataclass(frozen=True)
class Innovation:
    """Predictors across one axis.

    Parameters
    ----------
    reach
        Voxels of a slab on each side of its plane.
    weights
        Of the planes before, with a constant last, by direction and by how many planes back,
        shape (2, 3, before · channels + 1, channels).
    spread
        Root mean square of what they leave, shape (2, 3, channels).
    """

    reach: int
    weights: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def learned(
        cls, slabs: Iterable[Slab], reach: int, quiet: NDArray[np.float64]
    ) -> Innovation | None:
        """Learn from slabs without a seam; None where they are too few.

        Parameters
        ----------
        slabs
            Each of shape (channels, 2·reach, *lateral).
        quiet
            Per channel, the least that is taken for an innovation's spread.
        """
        channels = len(quiet)
        size = (reach - _BESIDE) * channels + 1
        rows = 0
        squares = np.zeros((2, 1 + _BESIDE, size, size))
        products = np.zeros((2, 1 + _BESIDE, size, channels))
        targets = np.zeros((2, 1 + _BESIDE, channels))
        origin: NDArray[np.float64] | None = None
        for slab in slabs:
            columns = _columns(slab)
            columns = columns[:, :, np.isfinite(columns).all(axis=(0, 1))]
            if origin is None and columns.size:
                origin = columns.mean(axis=(1, 2), keepdims=True)
            if origin is None:
                continue
            rows += columns.shape[2]
            with np.errstate(over="ignore", invalid="ignore"):
                for at, before, plane in _pairs(columns - origin, reach):
                    squares[at] += before @ before.T
                    products[at] += before @ plane.T
                    targets[at] += (plane**2).sum(axis=1)
        if origin is None or rows < _ROWS_PER_FEATURE * size:
            return None
        if not (np.isfinite(squares).all() and np.isfinite(targets).all()):
            return None  # values near the largest there are
        ridge = np.zeros((size, size))
        weights, spread = np.zeros_like(products), np.zeros_like(targets)
        for at in np.ndindex(2, 1 + _BESIDE):
            power = float(np.trace(squares[at]) - squares[at][-1, -1]) / max(size - 1, 1)
            np.fill_diagonal(ridge, _RIDGE * power + 1e-12 * rows)
            weights[at] = np.linalg.solve(squares[at] + ridge, products[at])
            left = targets[at] - (weights[at] * products[at]).sum(axis=0)
            spread[at] = np.maximum(np.sqrt(np.maximum(left, 0.0) / rows), quiet)
            # So that no origin need be kept: the constant takes it.
            shift = np.repeat(origin.reshape(-1), reach - _BESIDE)
            weights[at][-1] += origin.reshape(-1) - shift @ weights[at][:-1]
        return cls(reach, weights, spread)

    def contrasts(self, slab: Slab, starts: Starts) -> NDArray[np.float64]:
        """Contrasts and logarithms of the innovations at a plane, summed over pieces of it.

        Parameters
        ----------
        slab
            The field from `reach` voxels before the plane to as many behind it, shape
            (channels, 2·reach, *lateral).
        starts
            Of the pieces.

        Returns
        -------
        ndarray
            Shape (3, *grid of pieces), as `jumps` has them. Columns in which anything is not finite
            count in none of them.
        """
        lateral = slab.shape[2:]
        columns = _columns(slab)
        logs = np.zeros((2, 1 + _BESIDE, columns.shape[2]))
        with np.errstate(invalid="ignore", over="ignore"):
            for at, before, plane in _pairs(columns, self.reach):
                # Not by BLAS, whose last bits depend on how many columns there are.
                foretold = np.einsum("fc,fn->cn", self.weights[at], before)
                rest = np.abs(plane - foretold) / self.spread[at][:, None]
                logs[at] = np.log(rest + _QUIET).mean(axis=0)
            here = logs[:, 0].mean(axis=0)
            contrast = here - logs[:, 1:].mean(axis=(0, 1))
        good = np.isfinite(contrast)
        maps = [np.where(good, each, 0.0) for each in (contrast, here)]
        return np.stack([summed(each.reshape(lateral), starts) for each in (*maps, good * 1.0)])

    def profile(self, data: Slab) -> NDArray[np.float64]:
        """Mean contrast of every plane with `reach` voxels on both sides, by one predictor.

        Parameters
        ----------
        data
            Shape (channels, n, *lateral).

        Returns
        -------
        ndarray
            Shape (n − 2·reach + 1,).
        """
        columns = _columns(data)
        before, count = self.reach - _BESIDE, columns.shape[1]
        found = np.zeros(count - 2 * self.reach + 1)
        for direction, ordered in enumerate((columns, columns[:, ::-1])):
            *weights, constant = self.weights[direction, 0]
            sizes = np.zeros(count)
            for at in range(before, count):
                planes = ordered[:, at - before : at].reshape(len(weights), -1)
                rest = np.abs(ordered[:, at].T - planes.T @ weights - constant)
                logs = np.log(rest / self.spread[direction, 0] + _QUIET).mean(axis=1)
                good = np.isfinite(logs)
                sizes[at] = logs[good].mean() if good.any() else 0.0
            contrast = sizes - np.mean([np.roll(sizes, k + 1) for k in range(_BESIDE)], axis=0)
            inside = contrast[self.reach : count - self.reach + 1]
            found += (inside if direction == 0 else inside[::-1]) / 2
        return found


def _columns(slab: Slab) -> NDArray[np.float64]:
    return slab.reshape(*slab.shape[:2], -1).astype(np.float64)


def _pairs(
    columns: NDArray[np.float64], reach: int
) -> Iterator[tuple[tuple[int, int], NDArray[np.float64], NDArray[np.float64]]]:
    """Planes before, a row of ones below them, and the plane they foretell, from both sides."""
    before = reach - _BESIDE
    for direction, ordered in enumerate((columns, columns[:, ::-1])):
        for back in range(1 + _BESIDE):
            at = reach - back
            planes = ordered[:, at - before : at].reshape(-1, columns.shape[2])
            yield (
                (direction, back),
                np.vstack([planes, np.ones(columns.shape[2])]),
                ordered[:, at],
            )
