"""Finds the grid of a tiling in a field or labels alone.

For every axis, a *profile*: what the measures of :mod:`._across` and :mod:`._innovation` say of
every plane, as means over columns spread over the volume (of the logarithms, where they are jumps).
Its running median is taken away, and what is left is counted in running deviations. A grid is a
*comb* in it: a period T and a phase φ whose planes all stand out. ::

    log J  ▁▂▁█▁▂▂▁▁▂█▁▂▁▁▁▂█▁▂        the strength of (T, φ) is the mean height of its teeth,
            φ      φ+T    φ+2T       times the root of their number

How unlikely a plane's height is, −log p, is taken from an exponential tail that is fitted to the
planes between the teeth; no plane counts for less than one in a hundred thousand, as volumes have
bad slices. The sum over n teeth has a Gamma distribution where there is no grid, and its chance is
multiplied by the number of combs, axes and measures that were tried. Below one in a thousand, and
with three teeth at least, a grid is said to be found; an axis with fewer is given one if another
axis' period fits.

Textures of a network's strides are combs too. So what planes have in common that are equal modulo
a power of two, at most a third of the period, is taken away first; and where a comb with a period
below 20 is the least likely one, that is a texture, and no grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._across import label_counts, log_jump
from stitchsafe.discontinuity._innovation import Innovation, samples, widest
from stitchsafe.discontinuity._pieces import Dense, quiet_jump

__all__ = ["Comb", "Guess", "guess_grid"]

Profile = NDArray[np.float64]

_SCALES = (1, 4)
_SHORTEST, _SHORTEST_TEXTURE = 20, 4
_FEWEST_TEETH = 3
_BESIDE = 2
_TAIL = 0.8
_NORMAL_EXCESS = 0.56
_MOST = math.log(1e5)
_COLUMN = {2: 128, 3: 48}
_COLUMNS = 64
_PART = 2**20  # elements of a column that are held at a time
_TEXTURE = 16
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
        Of the profile: ``jump@1``, ``jump@4``, ``innovation``, ``splits`` or ``ends``.
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
    watch: Callable[[int], None] | None = None,
) -> Guess | None:
    """Find the grid that a field or labels, or both, were tiled by.

    Parameters
    ----------
    region
        What is looked at.
    field, labels
        Of one shape; either may be left out.
    watch
        Told the number of an axis that has been looked at.

    Returns
    -------
    Guess or None
        None where along no axis anything repeats that may be a seam.
    """
    combs: list[Comb | None] = []
    profiles: list[list[tuple[str, int, Profile]]] = []
    for axis in range(region.ndim):
        profiles.append(list(_profiles(region, axis, field, labels)))
        found = [_strongest(profile, first, name) for name, first, profile in profiles[-1]]
        chances = [each for each in found if each is not None]
        best = min(chances, key=lambda comb: comb.chance, default=None)
        tried = max(1, len(found)) * region.ndim
        combs.append(best if best is not None and best.chance * tried < _CHANCE else None)
        if watch is not None:
            watch(axis)
    periods = {comb.period for comb in combs if comb is not None}
    if not periods:
        return None
    combs = [
        each or min(_fitting(periods, looked_at), key=lambda comb: comb.chance, default=None)
        for each, looked_at in zip(combs, profiles, strict=True)
    ]
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
                logs = [
                    np.concatenate(
                        [
                            _jump_profile(field.read(part), axis, scale, quiet)
                            for part in _parts(each, axis, 4 * scale, field.channels)
                        ]
                    )
                    for each in columns
                ]
                yield f"jump@{scale}", begin + 2 * scale, np.mean(logs, axis=0)
        reach = widest(field.channels)
        if reach and length > 2 * reach + 2 * _SHORTEST:
            places = range(begin + reach, begin + length - reach + 1)
            slabs = samples(field, region, axis, places, reach)
            innovation = Innovation.learned(slabs, reach, quiet)
            if innovation is not None:
                contrasts = [
                    np.concatenate(
                        [
                            innovation.profile(np.moveaxis(field.read(part), axis + 1, 1))
                            for part in _parts(each, axis, 2 * reach, field.channels)
                        ]
                    )
                    for each in columns
                ]
                yield "innovation", begin + reach, np.mean(contrasts, axis=0)
    if labels is not None and length > 4 + 2 * _SHORTEST:
        counts = np.sum(
            [
                np.concatenate(
                    [_label_profile(labels.read(part)[0], axis) for part in _parts(each, axis, 4)]
                )
                for each in columns
            ],
            axis=0,
        )
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


def _parts(column: Roi, axis: int, thick: int, channels: int = 1) -> Iterator[Roi]:
    """A column in parts that are held one at a time; slabs of a thickness are whole in one each."""
    lateral = column.size // column.shape[axis] * channels
    planes = max(1, _PART // lateral)
    for at in range(column.offset[axis], column.end[axis] - thick + 1, planes):
        begin, end = list(column.offset), list(column.end)
        begin[axis], end[axis] = at, min(at + planes + thick - 1, end[axis])
        yield Roi.from_bounds(begin, end)


def _jump_profile(
    data: NDArray[np.floating], axis: int, scale: int, quiet: NDArray[np.float64]
) -> Profile:
    """Mean logarithm of the jumps at every plane that has `2·scale` voxels on both sides."""
    moved = np.moveaxis(data, axis + 1, 1).astype(np.float64)
    if scale > 1:
        for lateral in range(2, moved.ndim):
            moved = _pooled(moved, lateral, scale)
        sums = np.cumsum(np.insert(moved, 0, 0.0, axis=1), axis=1)
        moved = (sums[:, scale:] - sums[:, :-scale]) / scale
    count = data.shape[axis + 1] - 4 * scale + 1
    a, b, c, d = (moved[:, k * scale : k * scale + count] for k in range(4))
    logs = log_jump(a, b, c, d, quiet).reshape(count, -1)
    good = np.isfinite(logs)
    found: Profile = np.where(good, logs, 0.0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)
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


def _strongest(profile: Profile, first: int, measure: str) -> Comb | None:
    """The least likely comb of a profile."""
    heights = _heights(profile, 8 * (4 if measure.endswith("4") else 1))
    if heights is None:
        return None
    best = (0.0, 0, 0, 0)
    for period in range(_SHORTEST_TEXTURE, len(profile) // 2 + 1):
        plain = _without_texture(heights, period)
        surprise = _surprise(plain, plain)
        unlikely, number = _folded(surprise, period)
        # One tooth alone, however high, makes no comb.
        standing = _folded((surprise > -math.log(1 - _TAIL)).astype(float), period)[0]
        combs = (number >= _FEWEST_TEETH) & (standing >= 0.75 * number)
        strength = np.where(combs, -_log_chance(unlikely, number), 0.0)
        # A tooth's neighbours may stand out no less surely: then the highest is meant.
        certain = strength >= strength.max()
        at = int(np.where(certain, _folded(plain, period)[0], -np.inf).argmax())
        best = max(best, (float(strength[at]), period, at, int(number[at])))
    _, period, phase, _ = best
    if period < _SHORTEST:
        return None
    chance = _chance_at(heights, period, phase) * (len(profile) ** 2 / 8)
    if not measure.endswith("4"):
        phase = _between_twins(heights, period, phase)
    return Comb(period, (first + phase) % period, chance, measure)


def _between_twins(heights: Profile, period: int, phase: int) -> int:
    """The plane in the middle, where two stand out that have one between them.

    Voxels at the border of a tile that was predicted by itself differ from those within it, on both
    sides of a seam. A step stands out at one plane alone, and at half its height beside it.
    """
    folded = _folded(heights, period)[0]
    twin = max((2, -2), key=lambda step: float(folded[(phase + step) % period]))
    alike = folded[(phase + twin) % period] > 0.5 * folded[phase]
    return (phase + twin // 2) % period if alike else phase


def _fitting(periods: set[int], profiles: list[tuple[str, int, Profile]]) -> Iterator[Comb]:
    """Combs of periods that other axes have, if they are no chance."""
    for period, (measure, first, profile) in itertools.product(sorted(periods), profiles):
        heights = _heights(profile, 8 * (4 if measure.endswith("4") else 1))
        if heights is None or len(profile) <= period:
            continue
        unlikely, number = _folded(_surprise(heights, heights), period)
        phase = int(_log_chance(unlikely, number).argmin())
        chance = _chance_at(heights, period, phase) * period * len(periods) * len(profiles)
        if chance < _CHANCE:
            yield Comb(period, (first + phase) % period, chance, measure)


def _chance_at(heights: Profile, period: int, phase: int) -> float:
    """The chance of one comb, from the tail of the planes between its teeth."""
    plain = _without_texture(heights, period)
    apart = np.abs((np.arange(len(plain)) - phase + period // 2) % period - period // 2)
    unlikely, number = _folded(_surprise(plain, plain[apart > _BESIDE]), period)
    return float(np.exp(_log_chance(unlikely[phase : phase + 1], number[phase : phase + 1])[0]))


def _heights(profile: Profile, window: int) -> Profile | None:
    """How far planes stand out of their surroundings, in deviations."""
    from scipy.ndimage import median_filter

    size = 2 * min(window, max(3, len(profile) // 8)) + 1
    rest = profile - median_filter(profile, size, mode="nearest")
    spread = 1.4826 * median_filter(np.abs(rest), 4 * size + 1, mode="nearest")
    least = 1.4826 * float(np.median(np.abs(rest)))
    if least <= 0:  # a profile of whole numbers, most of them the same
        least = float(rest.std())
    if least <= 0:
        return None
    heights: Profile = rest / np.maximum(spread, least)
    return heights


def _without_texture(heights: Profile, period: int) -> Profile:
    """Heights above what planes of one phase have in common."""
    step = min(period & -period, _TEXTURE)
    while step > 1 and 3 * step > period:
        step //= 2
    plain = heights.copy()
    if step > 1:
        for phase in range(step):
            plain[phase::step] -= np.median(plain[phase::step])
    return plain


def _surprise(heights: Profile, others: Profile) -> Profile:
    """−log of the chance that one of the others is as high."""
    threshold = np.quantile(others, _TAIL)
    beyond = others[others > threshold] - threshold
    scale = max(float(beyond.mean()) if len(beyond) else 0.0, _NORMAL_EXCESS)
    share = np.searchsorted(np.sort(others), heights, side="right") / len(others)
    counted = -np.log(np.maximum(1 - share, 1 - _TAIL))
    tail = -math.log(1 - _TAIL) + (heights - threshold) / scale
    found: Profile = np.minimum(np.where(heights > threshold, tail, counted), _MOST)
    return found


def _folded(values: Profile, period: int) -> tuple[Profile, NDArray[np.int64]]:
    """Sums over the teeth of each phase's comb, and the numbers of teeth."""
    teeth = -(-len(values) // period)
    padded = np.zeros(teeth * period)
    padded[: len(values)] = values
    number = np.full(period, teeth)
    number[period - (len(padded) - len(values)) :] -= 1
    return padded.reshape(teeth, period).sum(axis=0), number


def _log_chance(unlikely: Profile, number: NDArray[np.int64]) -> Profile:
    """Logarithm of the chance that n planes are together so unlikely."""
    from scipy.special import gammaincc

    found: Profile = np.log(np.maximum(gammaincc(np.maximum(number, 1), unlikely), 1e-300))
    return found
