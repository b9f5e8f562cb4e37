"""What statistics collect from one piece of a volume after another, in whole numbers.

Each collector takes values with `add`, and with `take` what a collector of its like has gathered
elsewhere (`to_arrays`): sums and counts are whole numbers, so that no order can matter.

* :class:`Histogram` counts the bit patterns of values of up to 16 bits.
* :class:`FixedPoint` sums ``q`` and ``q**2`` with ``q = floor((x - minimum) / step)``, where the
  step is the range divided by 2^42 (integers: at least 1). Mean and deviation are good to 2^-42 of
  the range.
* :class:`Selection` finds order statistics by radix: values map to unsigned integers of the same
  order (floats: flip the sign bit, or all bits if negative), and each pass settles 16 more bits of
  every wanted one by a histogram of the values that share its known bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.volumes._volume import Array

__all__ = [
    "DIGIT",
    "Arrays",
    "Collector",
    "Extremes",
    "FixedPoint",
    "Histogram",
    "Selection",
    "Tally",
    "Unusual",
    "finite",
    "interpolate",
    "root",
]

DIGIT = 16
_FIXED_BITS = 42
_LIMB = 21

Arrays = dict[str, Array]
"""What a collector has gathered, as it is stored."""


class Collector(Protocol):
    """Gathers something of the finite values of one channel, or of voxels with all channels."""

    def add(self, values: Array) -> None: ...
    def to_arrays(self) -> Arrays: ...
    def take(self, arrays: Arrays) -> None:
        """Add what another collector, which began as this one did, has gathered."""


@dataclass
class Tally:
    """What one pass collects: of NaN and infinities, of the values of each channel, and of pieces.

    Collectors `together` take pieces with all their channels, what is not finite included.
    """

    unusual: Unusual | None
    channels: Sequence[Sequence[Collector]]
    together: Sequence[Collector] = ()

    def add(self, cell: Roi, data: Array) -> None:
        """Collect from a piece, shape ``(channels, *cell.shape)``."""
        if self.unusual is not None:
            self.unusual.add(cell, data)
        if self.channels:
            for values, collectors in zip(map(finite, data), self.channels, strict=True):
                for collector in collectors:
                    collector.add(values)
        for collector in self.together:
            collector.add(data)

    def to_arrays(self) -> Arrays:
        found = {} if self.unusual is None else _named("unusual", self.unusual.to_arrays())
        for name, collector in self._collectors():
            found.update(_named(name, collector.to_arrays()))
        return found

    def take(self, arrays: Arrays) -> None:
        if self.unusual is not None:
            self.unusual.take(_of("unusual", arrays))
        for name, collector in self._collectors():
            collector.take(_of(name, arrays))

    def _collectors(self) -> list[tuple[str, Collector]]:
        return [
            (f"{channel}.{number}", collector)
            for channel, collectors in enumerate(self.channels)
            for number, collector in enumerate(collectors)
        ] + [(f"together.{number}", each) for number, each in enumerate(self.together)]


def _named(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}.{key}": value for key, value in arrays.items()}


def _of(name: str, arrays: Arrays) -> Arrays:
    front = f"{name}."
    return {key.removeprefix(front): a for key, a in arrays.items() if key.startswith(front)}


def _sparse(counts: npt.NDArray[np.int64]) -> Arrays:
    at = np.flatnonzero(counts)
    return {"at": at.astype(np.uint32), "counts": counts.reshape(-1)[at]}


def _add_sparse(counts: npt.NDArray[np.int64], arrays: Arrays) -> None:
    np.add.at(counts.reshape(-1), arrays["at"].astype(np.intp), arrays["counts"])


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

    def to_arrays(self) -> Arrays:
        nothing = np.zeros(0, np.int64)
        return {
            "counts": np.asarray([self.nans, self.infinities], np.int64),
            "nan": nothing if self.first_nan is None else np.asarray(self.first_nan),
            "infinite": nothing if self.first_infinite is None else np.asarray(self.first_infinite),
        }

    def take(self, arrays: Arrays) -> None:
        self.nans += int(arrays["counts"][0])
        self.infinities += int(arrays["counts"][1])
        self.first_nan = _first_of(self.first_nan, arrays["nan"])
        self.first_infinite = _first_of(self.first_infinite, arrays["infinite"])

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


def _first_of(known: tuple[int, ...] | None, other: Array) -> tuple[int, ...] | None:
    if not other.size:
        return known
    position = tuple(map(int, other))
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
            self._add(values.size, values.min(), values.max())

    def to_arrays(self) -> Arrays:
        return {
            "count": np.asarray(self.count),
            "low": np.asarray(self.low),
            "high": np.asarray(self.high),
        }

    def take(self, arrays: Arrays) -> None:
        count = int(arrays["count"])
        if count:
            self._add(count, arrays["low"][()], arrays["high"][()])

    def _add(self, count: int, low: Any, high: Any) -> None:
        self.low = min(self.low, low) if self.count else low
        self.high = max(self.high, high) if self.count else high
        self.count += count


class Histogram:
    """How often each bit pattern of a narrow type occurs."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self.counts = np.zeros(2 ** (8 * dtype.itemsize), np.int64)

    def add(self, values: Array) -> None:
        self.counts += np.bincount(values.view(self._unsigned), minlength=len(self.counts))

    def to_arrays(self) -> Arrays:
        return _sparse(self.counts)

    def take(self, arrays: Arrays) -> None:
        _add_sparse(self.counts, arrays)


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

    def to_arrays(self) -> Arrays:
        # As decimals, since they may be larger than 64 bits.
        return {
            "first": np.asarray(str(self._first).encode()),
            "second": np.asarray(str(self._second).encode()),
        }

    def take(self, arrays: Arrays) -> None:
        self._first += int(arrays["first"][()])
        self._second += int(arrays["second"][()])

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

    def fresh(self) -> Selection:
        """One that knows what this one has settled, and has collected nothing of its own."""
        other = Selection(self._dtype, self._asked)
        other._known, other._found = self._known, dict(self._found)
        other._histograms = {prefix: np.zeros_like(h) for prefix, h in self._histograms.items()}
        return other

    def to_arrays(self) -> Arrays:
        return {
            f"{prefix}.{key}": values
            for prefix, histogram in self._histograms.items()
            for key, values in _sparse(histogram).items()
        }

    def take(self, arrays: Arrays) -> None:
        for prefix, histogram in self._histograms.items():
            _add_sparse(histogram, _of(str(prefix), arrays))

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
