"""Finds the grid of a tiling in a field or labels alone.

For every axis, a *profile*: what the measures of :mod:`._across` say of every plane, as means over
columns spread over the volume (of the logarithms, where they are jumps). Its running median is
taken away, and what is left is counted in running deviations. A grid is a *comb* in it: a period T
and a phase φ whose planes all stand out. ::

    log J  ▁▂▁█▁▂▂▁▁▂█▁▂▁▁▁▂█▁▂        the strength of (T, φ) is the mean height of its teeth,
            φ      φ+T    φ+2T       times the root of their number

Textures of a network's strides are combs too, with periods of 2 to 16. So a tooth's height is taken
above the other planes that have its phase modulo the largest power of two, up to 16, that divides T
(half of it, if T is that power). Chance: the strongest of all combs of the same profile in random
orders, whose extremes follow Gumbel's distribution. No grid is said to be found unless chance makes
as strong a one with less than one in a thousand, over all axes and measures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._across import label_counts, mismatch
from stitchsafe.discontinuity._pieces import Dense, quiet_jump

__all__ = ["Comb", "Guess", "guess_grid"]

Profile = NDArray[np.float64]

_SCALES = (1, 4)
_SHORTEST = 12
_COLUMN = {2: 128, 3: 48}
_COLUMNS = 64
_TEXTURE = 16
_ORDERS = 64
_CAP = 5.0
_CHANCE = 1e-3


@dataclass(frozen=True)
class Comb:
    """A grid's planes along one axis.

    Parameters
    ----------
    period, phase
        Voxels from one to the next, and the first plane's position modulo the period.
    chance
        That as strong a comb comes about in a profile without one.
    measure
        Of the profile: ``jump@1``, ``jump@4`` or ``labels``.
    """

    period: int
    phase: int
    chance: float
    measure: str


@dataclass(frozen=True)
class Guess:
    """A grid that was found.

    Parameters
    ----------
    cell, origin
        As `SeamGrid` takes them; along an axis without a comb a cell is as long as the region.
    combs
        Per axis; None where there is none.
    """

    cell: tuple[int, ...]
    origin: tuple[int, ...]
    combs: tuple[Comb | None, ...]


def guess_grid(
    region: Roi,
    *,
    field: Dense | None = None,
    labels: Dense | None = None,
    seed: int = 0,
    watch: Callable[[int], None] | None = None,
) -> Guess | None:
    """Find the grid that a field or labels, or both, were tiled by.

    Parameters
    ----------
    region
        What is looked at.
    field, labels
        Of one shape; either may be left out.
    seed
        Of the random orders that chance is learnt from.
    watch
        Told the number of an axis that has been looked at.

    Returns
    -------
    Guess or None
        None where along no axis anything repeats that may be a seam.
    """
    combs: list[Comb | None] = []
    for axis in range(region.ndim):
        found = [
            _strongest(profile, first, name, np.random.default_rng(seed))
            for name, first, profile in _profiles(region, axis, field, labels)
        ]
        chances = [each for each in found if each is not None]
        best = min(chances, key=lambda comb: comb.chance, default=None)
        tried = max(1, len(found)) * region.ndim
        combs.append(best if best is not None and best.chance * tried < _CHANCE else None)
        if watch is not None:
            watch(axis)
    if not any(combs):
        return None
    cell = [e if c is None else c.period for c, e in zip(combs, region.end, strict=True)]
    origin = [0 if c is None else c.phase for c in combs]
    return Guess(tuple(cell), tuple(origin), tuple(combs))


def _profiles(
    region: Roi, axis: int, field: Dense | None, labels: Dense | None
) -> Iterator[tuple[str, int, Profile]]:
    """Each profile with its name and the position of its first plane."""
    length, begin = region.shape[axis], region.offset[axis]
    columns = list(_columns(region, axis))
    if field is not None:
        quiet = quiet_jump(field, region)
        for scale in _SCALES:
            if length > 4 * scale + 2 * _SHORTEST:
                logs = [_jump_profile(field.read(each), axis, scale, quiet) for each in columns]
                yield f"jump@{scale}", begin + 2 * scale, np.mean(logs, axis=0)
    if labels is not None and length > 4 + 2 * _SHORTEST:
        counts = np.sum([_label_profile(labels.read(each)[0], axis) for each in columns], axis=0)
        pairs, splits, ends = counts[:, 0], counts[:, 1], counts[:, 2]
        yield "splits", begin + 2, np.log((splits + 1) / (pairs + 1))
        yield "ends", begin + 2, np.log((ends + 1) / (pairs + 1))


def _columns(region: Roi, axis: int) -> Iterator[Roi]:
    """Columns along an axis that are spread over the region, all of it where that is small."""
    side = _COLUMN[region.ndim]
    others = [k for k in range(region.ndim) if k != axis]
    per_axis = max(1, round(_COLUMNS ** (1 / len(others))))
    spans = []
    for k in range(region.ndim):
        begin, end = region.offset[k], region.end[k]
        if k == axis:
            spans.append([(begin, end)])
            continue
        count = min(per_axis, -(-(end - begin) // side))
        width = min(side, end - begin)
        starts = np.unique(np.linspace(begin, end - width, count).astype(int))
        spans.append([(int(at), int(at) + width) for at in starts])
    for bounds in itertools.product(*spans):
        yield Roi.from_bounds([b for b, _ in bounds], [e for _, e in bounds])


def _jump_profile(data: NDArray[np.floating], axis: int, scale: int, quiet: float) -> Profile:
    """Mean logarithm of the jumps at every plane that has `2·scale` voxels on both sides."""
    moved = np.moveaxis(data, axis + 1, 1).astype(np.float64)
    if scale > 1:
        for lateral in range(2, moved.ndim):
            moved = _pooled(moved, lateral, scale)
        sums = np.cumsum(np.insert(moved, 0, 0.0, axis=1), axis=1)
        moved = (sums[:, scale:] - sums[:, :-scale]) / scale
    count = data.shape[axis + 1] - 4 * scale + 1
    a, b, c, d = (moved[:, k * scale : k * scale + count] for k in range(4))
    logs = np.log(np.nan_to_num(mismatch(a, b, c, d)) + quiet)
    found: Profile = logs.reshape(count, -1).mean(axis=1)
    return found


def _pooled(data: NDArray[np.float64], axis: int, scale: int) -> NDArray[np.float64]:
    size = data.shape[axis]
    starts = np.arange(0, max(1, size - scale + 1), scale)
    widths = np.diff([*starts, size]).reshape([-1 if k == axis else 1 for k in range(data.ndim)])
    pooled: NDArray[np.float64] = np.add.reduceat(data, starts, axis=axis) / widths
    return pooled


def _label_profile(data: NDArray[np.integer], axis: int) -> NDArray[np.int64]:
    """Counts of labels at every plane with two voxels on both sides, shape (planes, 5)."""
    moved = np.moveaxis(data, axis, 0)
    whole = [np.zeros(1, np.int64)] * (moved.ndim - 1)
    counts = [label_counts(moved[at : at + 4], whole) for at in range(len(moved) - 3)]
    return np.stack(counts).reshape(len(counts), -1)


def _strongest(
    profile: Profile, first: int, measure: str, generator: np.random.Generator
) -> Comb | None:
    """The strongest comb of a profile, and its chance."""
    heights = _heights(profile, 8 * (4 if measure.endswith("4") else 1))
    if heights is None:
        return None
    strengths, phases = _combs(heights[None])
    orders = np.stack([generator.permutation(heights) for _ in range(_ORDERS)])
    null = _combs(orders)[0].max(axis=0)
    at = int(strengths[:, 0].argmax())
    spread = float(null.std()) * math.sqrt(6) / math.pi
    centre = float(null.mean()) - np.euler_gamma * spread
    above = (float(strengths[at, 0]) - centre) / max(spread, 1e-9)
    chance = -math.expm1(-math.exp(-above)) if above < 700 else 0.0
    period = _SHORTEST + at
    return Comb(period, (first + int(phases[at, 0])) % period, chance, measure)


def _heights(profile: Profile, window: int) -> Profile | None:
    """How far planes stand out of their surroundings, in deviations, within bounds."""
    from scipy.ndimage import median_filter

    size = 2 * min(window, max(3, len(profile) // 8)) + 1
    rest = profile - median_filter(profile, size, mode="nearest")
    spread = 1.4826 * median_filter(np.abs(rest), 2 * size + 1, mode="nearest")
    least = 1.4826 * float(np.median(np.abs(rest)))
    if least <= 0:  # a profile of whole numbers, most of them the same
        least = float(rest.std())
    if least <= 0:
        return None
    heights: Profile = np.clip(rest / np.maximum(spread, least), -_CAP, _CAP)
    return heights


def _combs(heights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Strength and phase of the strongest comb of each period, shapes (periods, profiles)."""
    count, length = heights.shape
    strengths, phases = [], []
    for period in range(_SHORTEST, max(_SHORTEST + 1, length // 2 + 1)):
        teeth = -(-length // period)
        padded = np.zeros((count, teeth * period))
        padded[:, :length] = heights
        number = np.full(period, teeth)
        number[period - (teeth * period - length) :] -= 1
        mean = padded.reshape(count, teeth, period).sum(axis=1) / number
        strength = (mean - _texture(mean, period)) * np.sqrt(number)
        best = strength.argmax(axis=1)
        strengths.append(strength[np.arange(count), best])
        phases.append(best)
    return np.stack(strengths), np.stack(phases)


def _texture(mean: NDArray[np.float64], period: int) -> NDArray[np.float64]:
    """Per phase, the median of the other phases that a stride's texture has in common with it."""
    power = min(period & -period, _TEXTURE)
    step = power if power < period else period // 2
    alike = mean.reshape(len(mean), period // step, step)
    if alike.shape[1] == 2:
        return np.maximum(alike[:, ::-1].reshape(mean.shape), 0.0)
    common = np.maximum(np.median(alike, axis=1, keepdims=True), 0.0)
    return np.broadcast_to(common, alike.shape).reshape(mean.shape)
