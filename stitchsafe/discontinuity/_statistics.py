"""Ratios with intervals that honour correlation in space, and how rare a face is among controls.

**Ratio.** Neighbouring voxels are alike, so they are not so many observations. Sums are kept per
*unit*, a cube of the volume with everything in it, and the interval of the logarithm of the ratio
is the jackknife's over units, with Student's quantiles.

**Rarity.** How large a face's measure may become by chance is seen at the controls, each held
against its own neighbours. Up to their 80th percentile chances are counted; beyond it the tail is
taken to fall exponentially, at the mean rate of the controls beyond, never faster than that of
a normal variable, nor than their farthest allows. What is returned is −log10 of the chance of so
much at a control.

**Many faces.** One face has to be rarer than chance makes the rarest of all. Where most faces are
bad, less will do: controls are *decoys*, and so many of those above a threshold tell how many of
the faces above it are right ones (Elias and Gygi 2007 judge matches of spectra like this).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ratio", "count_ratio", "decoy_threshold", "mean_ratio", "rarity"]

Numbers = NDArray[np.float64]

_TAIL = 0.8
_NORMAL_EXCESS = 0.56
"""Of a normal variable beyond its 80th percentile, in standard deviations."""
_FEWEST_UNITS = 8
_FALSE_SHARE = 0.05
_FEWEST_PLANES = 3


@dataclass(frozen=True)
class Ratio:
    """Seam ÷ control, with the bounds of its interval.

    Parameters
    ----------
    value, low, high
        Larger than 1: more at seams. The interval is (0, inf) where there is too little to tell.
    units
        How many separate parts of the volume speak.
    planes
        How many seams these lie at.
    """

    value: float
    low: float
    high: float
    units: int
    planes: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def to_json(self) -> dict[str, float | int | list[float]]:
        return {"ratio": self.value, "interval": [self.low, self.high], "planes": self.planes}


def mean_ratio(
    logs: Numbers, weights: Numbers, unit: NDArray[np.int64], chance: float, planes: int
) -> Ratio | None:
    """The geometric mean of ratios.

    Parameters
    ----------
    logs, weights
        Logarithm of each ratio and what it counts, shape (n,).
    unit
        The unit of each.
    chance
        That the interval misses, on both sides together.
    planes
        How many seams there are.
    """
    sums, weight = _per_unit(unit, logs * weights, weights)
    if weight.sum() <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (sums.sum() - sums) / (weight.sum() - weight)
    return _around(float(sums.sum() / weight.sum()), without, 0.0, chance, planes)


def count_ratio(
    hits: NDArray[np.int64],
    pairs: NDArray[np.int64],
    control_hits: NDArray[np.int64],
    control_pairs: NDArray[np.int64],
    unit: NDArray[np.int64],
    chance: float,
    planes: int,
) -> Ratio | None:
    """Ratio of two rates of rare events, each with half an event more than was seen."""
    sums = _per_unit(unit, hits, pairs, control_hits, control_pairs)
    a, n, b, m = (each.astype(np.float64) for each in sums)
    if not n.sum() or not m.sum():
        return None

    def log_ratio(a: Numbers, n: Numbers, b: Numbers, m: Numbers) -> Numbers:
        found: Numbers = np.log((a + 0.5) / (n + 1)) - np.log((b + 0.5) / (m + 1))
        return found

    whole = log_ratio(a.sum(), n.sum(), b.sum(), m.sum())
    without = log_ratio(a.sum() - a, n.sum() - n, b.sum() - b, m.sum() - m)
    least = 1 / (a.sum() + 0.5) + 1 / (b.sum() + 0.5)  # of counts that come one by one
    return _around(float(whole), without, float(least), chance, planes)


def _per_unit(unit: NDArray[np.int64], *values: NDArray[Any]) -> list[Numbers]:
    _, index = np.unique(unit, return_inverse=True)
    count = int(index.max(initial=-1)) + 1
    return [np.bincount(index, each, minlength=count).astype(np.float64) for each in values]


def _around(log: float, without: Numbers, least: float, chance: float, planes: int) -> Ratio:
    from scipy.stats import t

    count = len(without)
    if count < _FEWEST_UNITS or not np.isfinite(without).all():
        return Ratio(math.exp(log), 0.0, math.inf, count, planes)
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    reach = float(t.ppf(1 - chance / 2, count - 1)) * math.sqrt(max(variance, least))
    # What the logarithm's curvature does to a wide interval is no more than it says itself.
    high = math.exp(log + reach) if log + reach < 700 else math.inf
    return Ratio(math.exp(log), math.exp(log - reach), high, count, planes)


def decoy_threshold(scores: Numbers, controls: Numbers, plane: NDArray[np.int64]) -> float:
    """The least score above which one face in twenty, at most, is as controls are.

    Parameters
    ----------
    scores, controls
        Of faces, and of controls' faces.
    plane
        The seam that each face lies in. One slice of a volume may be odd: fewer than three seams
        are not enough.

    Returns
    -------
    float
        Infinity where there is no such score.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    above = len(controls) - np.searchsorted(np.sort(controls), ranked, side="left")
    decoys = above * max(1.0, len(scores) / max(len(controls), 1))
    first = np.sort(np.unique(plane[order], return_index=True)[1])
    known = int(first[_FEWEST_PLANES - 1]) if len(first) >= _FEWEST_PLANES else len(scores)
    place = np.arange(len(scores))
    good = (place >= known) & (ranked > 0) & ((decoys + 1) / (place + 1) <= _FALSE_SHARE)
    if not len(controls) or not good.any():
        return math.inf
    return float(np.nextafter(ranked[good].min(), 0.0))


def rarity(values: Numbers, controls: Numbers) -> Numbers:
    """−log10 of the chance that a control is as large, 0 where nothing can be said.

    Parameters
    ----------
    values
        Of faces, in standard deviations of the controls; NaN where there is none.
    controls
        The same of controls.
    """
    null = np.sort(controls[np.isfinite(controls)])
    found: Numbers = np.zeros(len(values))
    if not len(null):
        return found
    known = np.isfinite(values)
    threshold = float(np.quantile(null, _TAIL))
    beyond = null[null > threshold]
    excess = float((beyond - threshold).mean()) if len(beyond) else 0.0
    # Few controls know their tail badly; and where the highest lies too far out, it is no
    # exponential one, as where most of a field is empty.
    scale = max(excess, _NORMAL_EXCESS) * (1 + 1 / math.sqrt(max(len(beyond), 1)))
    farthest = (float(null[-1]) - threshold) / (math.log(max(len(beyond), 1)) + 1)
    scale = max(scale, farthest)
    at_least = len(null) - np.searchsorted(null, values[known], side="left")
    counted = -np.log10(np.maximum((at_least + 1) / (len(null) + 1), 1 - _TAIL))
    tail = -math.log10(1 - _TAIL) + (values[known] - threshold) / scale / math.log(10)
    found[known] = np.where(values[known] > threshold, tail, counted)
    return np.maximum(found, 0.0)
