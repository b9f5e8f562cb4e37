"""What statistics collect from one piece of a volume after another, in whole numbers.

* :class:`FixedPoint` sums ``q`` and ``q**2`` with ``q = floor((x - minimum) / step)``, where the
  step is the range divided by 2^42 (integers: at least 1). Mean and deviation are good to 2^-42 of
  the range.
* :class:`Selection` finds order statistics by radix: values map to unsigned integers of the same
  order (floats: flip the sign bit, or all bits if negative), and each pass settles 16 more bits of
  every wanted one by a histogram of the values that share its known bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.volumes._volume import Array

__all__ = [
    "DIGIT",
    "Extremes",
    "FixedPoint",
    "Selection",
    "Unusual",
    "finite",
    "interpolate",
    "root",
]

DIGIT = 16
_FIXED_BITS = 42
_LIMB = 21


@dataclass
class Unusual:
    """NaN and infinities: how many, and the first of each in raster order."""

    nans: int = 0
    infinities: int = 0
    first_nan: tuple[int, ...] | None = None
    first_infinite: tuple[int, ...] | None = None

    def add(self, cell: Roi, data: Array) -> None:
        """Record those of a piece, shape ``(channels, *cell.shape)``."""
        usual = np.isfinite(data)
        if not usual.all():
            nan = np.isnan(data)
            infinite = ~usual & ~nan
            self.nans += int(np.count_nonzero(nan))
            self.infinities += int(np.count_nonzero(infinite))
            self.first_nan = _earlier(self.first_nan, cell, nan)
            self.first_infinite = _earlier(self.first_infinite, cell, infinite)

    def fields(self) -> dict[str, Any]:
        return {
            "nan_count": self.nans,
            "infinite_count": self.infinities,
            "first_nan": self.first_nan,
            "first_infinite": self.first_infinite,
        }


def _earlier(
    known: tuple[int, ...] | None, cell: Roi, marked: npt.NDArray[np.bool_]
) -> tuple[int, ...] | None:
    anywhere = marked.any(axis=0)
    if not anywhere.any():
        return known
    at = np.unravel_index(int(np.argmax(anywhere)), cell.shape)
    position = tuple(int(i) + o for i, o in zip(at, cell.offset, strict=True))
    return position if known is None else min(known, position)


def finite(values: Array) -> Array:
    """The finite ones of some values, flat."""
    flat = values.ravel()
    if flat.dtype.kind != "f":
        return flat
    usual = np.isfinite(flat)
    return flat if usual.all() else flat[usual]


@dataclass
class Extremes:
    """How many values there are, the smallest and the largest."""

    count: int = 0
    low: Any = 0
    high: Any = 0

    def add(self, values: Array) -> None:
        if values.size:
            low, high = values.min(), values.max()
            self.low = min(self.low, low) if self.count else low
            self.high = max(self.high, high) if self.count else high
            self.count += values.size


def root(square: Fraction) -> float:
    """Square root of a fraction, safe from overflow of the fraction itself."""
    if square == 0:
        return 0.0
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    scaled = square / Fraction(4) ** shift
    return math.ldexp(math.sqrt(float(scaled)), shift)


def _ranks(q: float, count: int) -> tuple[int, int, float]:
    """The two order statistics around a percentile, and the weight of the upper one."""
    exact = Fraction(q) / 100 * (count - 1)
    low = min(math.floor(exact), count - 1)
    return low, min(low + 1, count - 1), float(exact - low)


def interpolate(q: float, count: int, order_statistic: Callable[[int], float]) -> float:
    """Percentile `q` of `count` values, given the value of each rank."""
    low, high, weight = _ranks(q, count)
    a, b = order_statistic(low), order_statistic(high)
    if weight == 0 or a == b:
        return a
    return a + (b - a) * weight if weight < 0.5 else b - (b - a) * (1 - weight)


class FixedPoint:
    """Mean and deviation from sums in whole numbers; the extremes must be known."""

    def __init__(self, extremes: Extremes) -> None:
        low, high = extremes.low, extremes.high
        self._low = low
        self._real = np.asarray(low).dtype.kind == "f"
        if self._real:
            # Halves, so that a range beyond the largest float does not overflow.
            self._half = float(high) / 2 - float(low) / 2
            self._origin = Fraction(float(low))
            self.step = Fraction(self._half) * 2 / 2**_FIXED_BITS
        else:
            self._shift = max(0, (int(high) - int(low)).bit_length() - _FIXED_BITS)
            self._origin = Fraction(int(low))
            self.step = Fraction(2**self._shift)
        self._first = 0
        self._second = 0

    def add(self, values: Array) -> None:
        if self.step == 0:
            return
        for start in range(0, values.size, 2**18):
            part = self._quantize(values[start : start + 2**18])
            upper, lower = part >> _LIMB, part & (2**_LIMB - 1)
            self._first += int(part.sum())
            self._second += (
                (int(np.dot(upper, upper)) << 2 * _LIMB)
                + (int(np.dot(upper, lower)) << (_LIMB + 1))
                + int(np.dot(lower, lower))
            )

    def _quantize(self, values: Array) -> npt.NDArray[np.int64]:
        if self._real:
            share = (values.astype(np.float64) / 2 - float(self._low) / 2) / self._half
            return np.minimum(share * 2.0**_FIXED_BITS, 2.0**_FIXED_BITS - 1).astype(np.int64)
        unsigned = np.uint64
        above = values.astype(unsigned) - np.asarray(self._low).astype(unsigned)
        return (above >> unsigned(self._shift)).astype(np.int64)

    def moments(self, count: int) -> tuple[float, float]:
        """Mean and population deviation of `count` values."""
        # The middle of a step stands for all values in it, unless the step is exact.
        middle = Fraction(1, 2) if self._real or self._shift else Fraction(0)
        mean = Fraction(self._first, count)
        variance = Fraction(self._second, count) - mean * mean
        centre = self._origin + (mean + middle) * self.step if self.step else self._origin
        return float(centre), root(max(variance, Fraction(0)) * self.step**2)


class Selection:
    """Radix selection of the order statistics that some percentiles need."""

    def __init__(self, dtype: np.dtype[Any], asked: tuple[float, ...]) -> None:
        self._dtype, self._asked = dtype, asked
        self._bits = 8 * dtype.itemsize
        self._known = 0
        # Per wanted rank: its settled upper bits, and its rank among the values that share them.
        self._found: dict[int, tuple[int, int]] = {}
        self._histograms: dict[int, npt.NDArray[np.int64]] = {}
        if asked:
            self._histograms[0] = np.zeros(2**DIGIT, np.int64)

    def add(self, values: Array) -> None:
        if not self._histograms or values.size == 0:
            return
        ordered = _ordered_bits(values)
        shift = self._bits - self._known - DIGIT
        digits = (ordered >> shift) & (2**DIGIT - 1)
        if self._known == 0:
            self._histograms[0] += np.bincount(digits, minlength=2**DIGIT)
            return
        upper = ordered >> (shift + DIGIT)
        for prefix, histogram in self._histograms.items():
            chosen = digits[upper == prefix]
            if chosen.size:
                histogram += np.bincount(chosen, minlength=2**DIGIT)

    def settle(self, count: int) -> None:
        """Take the bits that the last pass over `count` values has settled."""
        if not self._histograms:
            return
        if self._known == 0 and count:
            ranks = {rank for q in self._asked for rank in _ranks(q, count)[:2]}
            self._found = {rank: (0, rank) for rank in sorted(ranks)}
        until = {prefix: np.cumsum(h) for prefix, h in self._histograms.items()}
        for rank, (prefix, within) in self._found.items():
            digit = int(np.searchsorted(until[prefix], within, side="right"))
            before = int(until[prefix][digit - 1]) if digit else 0
            self._found[rank] = (prefix << DIGIT | digit, within - before)
        self._known += DIGIT
        prefixes = sorted({prefix for prefix, _ in self._found.values()})
        done = self._known == self._bits
        self._histograms = {} if done else {p: np.zeros(2**DIGIT, np.int64) for p in prefixes}

    def percentiles(self, count: int) -> tuple[float, ...]:
        """The percentiles that were asked for, once all bits are settled."""

        def order_statistic(rank: int) -> float:
            return _value_of(self._found[rank][0], self._dtype)

        return tuple(interpolate(q, count, order_statistic) for q in self._asked)


def _ordered_bits(values: Array) -> Array:
    """Unsigned integers in the order of the values, 64 bits wide at most."""
    size = values.dtype.itemsize
    bits: Array = values.view(f"u{size}")
    top = bits.dtype.type(1 << (8 * size - 1))
    if values.dtype.kind == "i":
        bits = bits ^ top
    elif values.dtype.kind == "f":
        bits = np.where(bits & top, ~bits, bits | top)
    return bits


def _value_of(ordered: int, dtype: np.dtype[Any]) -> float:
    bits = 8 * dtype.itemsize
    top = 1 << (bits - 1)
    if dtype.kind == "i":
        ordered ^= top
    elif dtype.kind == "f":
        ordered = ordered ^ top if ordered & top else ordered ^ (2**bits - 1)
    pattern = np.array([ordered], f"u{dtype.itemsize}")
    return float(pattern.view(dtype)[0])
