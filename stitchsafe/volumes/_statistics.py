"""Exact statistics of a volume's intensities, streamed, whatever the order of its parts.

Each quantity is a function of the multiset of values, found in whole-number sums and counts:

* Values of up to 16 bits (integers, half floats) are counted in one histogram of bit patterns per
  channel, from which everything follows. One pass.
* Wider ones take two passes (four for percentiles of 64-bit values), with the accumulators of
  ``_accumulators.py``: extremes, fixed-point sums, and radix selection for percentiles.

Integer sums commute, so neither chunk order nor chunk shape can change a bit of the result. Memory
is a few megabytes per channel beside one piece of the volume. Percentiles interpolate linearly
between order statistics, as `numpy.percentile` does.

NaN and infinities are counted apart and take no part in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.volumes._accumulators import (
    DIGIT,
    Extremes,
    FixedPoint,
    Selection,
    Unusual,
    finite,
    interpolate,
    root,
)
from stitchsafe.volumes._volume import Array, Volume

__all__ = ["IntensityStatistics", "StatisticsProgress", "statistics"]

_PIECE_VOXELS = 2**20


@dataclass(frozen=True, slots=True)
class StatisticsProgress:
    """How far a streamed computation is: voxels done of the total, over all passes."""

    voxels_done: int
    voxels_total: int


@dataclass(frozen=True)
class IntensityStatistics:
    """Statistics per channel over the finite voxels of a region.

    Parameters
    ----------
    count
        Finite voxels, per channel.
    minimum, maximum, mean, std
        Per channel; NaN where `count` is 0. `std` is that of the population.
    percentiles
        For each percentile that was asked for, one value per channel.
    nan_count, infinite_count
        Voxels that are NaN or infinite, over all channels.
    first_nan, first_infinite
        Position of the first one in raster order, in voxels of the volume; None if there is none.
    """

    count: tuple[int, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    percentiles: dict[float, tuple[float, ...]] = field(default_factory=dict)
    nan_count: int = 0
    infinite_count: int = 0
    first_nan: tuple[int, ...] | None = None
    first_infinite: tuple[int, ...] | None = None

    def percentile(self, q: float) -> tuple[float, ...]:
        """Value per channel of a percentile that was asked for.

        Raises
        ------
        KeyError
            It was not asked for.
        """
        return self.percentiles[float(q)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers survive the round trip to the bit, NaN as null."""

        def plain(values: Sequence[float]) -> list[float | None]:
            return [None if math.isnan(v) else v for v in values]

        data = asdict(self)
        for name in ("minimum", "maximum", "mean", "std"):
            data[name] = plain(data[name])
        data["count"] = list(self.count)
        data["percentiles"] = {repr(q): plain(v) for q, v in self.percentiles.items()}
        for name in ("first_nan", "first_infinite"):
            data[name] = None if data[name] is None else list(data[name])
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IntensityStatistics:
        def floats(values: Sequence[float | None]) -> tuple[float, ...]:
            return tuple(math.nan if v is None else float(v) for v in values)

        loaded = dict(data, count=tuple(data["count"]))
        for name in ("minimum", "maximum", "mean", "std"):
            loaded[name] = floats(data[name])
        loaded["percentiles"] = {float(q): floats(v) for q, v in data["percentiles"].items()}
        for name in ("first_nan", "first_infinite"):
            loaded[name] = None if data[name] is None else tuple(data[name])
        return cls(**loaded)


def statistics(
    volume: Volume,
    roi: Roi | None = None,
    *,
    percentiles: Sequence[float] = (),
    events: Callable[[StatisticsProgress], None] | None = None,
) -> IntensityStatistics:
    """Statistics of a volume or a region of it; see the module's text for how.

    Parameters
    ----------
    volume
        Any volume of numbers.
    roi
        The whole volume by default; must not be empty.
    percentiles
        Which percentiles to find, 0 to 100.
    events
        Called after each piece that was read.

    Raises
    ------
    ValueError
        The region is empty, or a percentile is outside 0 to 100.
    VolumeError
        The volume cannot be read.
    """
    roi = Roi.whole(volume.shape) if roi is None else roi
    if roi.size == 0:
        raise ValueError(f"the region {roi} has no voxel to take statistics of")
    asked = tuple(dict.fromkeys(float(q) for q in percentiles))
    if not all(0 <= q <= 100 for q in asked):
        raise ValueError(f"percentiles {asked} are not all between 0 and 100")
    narrow = volume.dtype.itemsize <= 2
    digits = volume.dtype.itemsize * 8 // DIGIT if asked else 0
    passes = 1 if narrow else max(2, digits)
    stream = _Stream(volume, roi, passes, events)
    unusual = Unusual()
    if narrow:
        return _from_histograms(stream, unusual, asked)
    return _from_passes(stream, unusual, asked)


@dataclass
class _Stream:
    volume: Volume
    roi: Roi
    passes: int
    events: Callable[[StatisticsProgress], None] | None
    done: int = 0

    def __iter__(self) -> Iterator[tuple[Roi, Array]]:
        for cell in grid_cells(self.roi, _piece_shape(self.volume)):
            yield cell, self.volume.read(cell)
            self.done += cell.size
            if self.events is not None:
                self.events(StatisticsProgress(self.done, self.passes * self.roi.size))


def _piece_shape(volume: Volume) -> tuple[int, ...]:
    """Whole chunks up to a bounded number of voxels; parts of chunks where these are larger."""
    room = max(1, _PIECE_VOXELS // volume.channels)
    piece = list(volume.chunk_shape)
    for axis in range(len(piece)):  # too large: cut along the first axes
        excess = math.prod(piece) / room
        piece[axis] = max(1, math.floor(piece[axis] / excess)) if excess > 1 else piece[axis]
    for axis in reversed(range(len(piece))):  # too small: several chunks along the last axes
        spare = min(room // math.prod(piece), -(-volume.shape[axis] // piece[axis]))
        piece[axis] *= max(1, spare)
    return tuple(piece)


def _from_histograms(
    stream: _Stream, unusual: Unusual, asked: tuple[float, ...]
) -> IntensityStatistics:
    dtype = stream.volume.dtype
    bits = 8 * dtype.itemsize
    counts = np.zeros((stream.volume.channels, 2**bits), np.int64)
    for cell, data in stream:
        if dtype.kind == "f":
            unusual.add(cell, data)
        for channel, values in enumerate(data):
            patterns = values.ravel().view(f"u{dtype.itemsize}")
            counts[channel] += np.bincount(patterns, minlength=2**bits)
    patterns = np.arange(2**bits, dtype=f"u{dtype.itemsize}")
    values = (patterns.astype(bool) if dtype.kind == "b" else patterns.view(dtype)).astype(float)
    if dtype.kind == "b":  # any byte but 0 is True
        counts[:, 1] += counts[:, 2:].sum(axis=1)
        counts[:, 2:] = 0
    return _collect([_from_histogram(values, each, asked) for each in counts], asked, unusual)


@dataclass(frozen=True)
class _Channel:
    count: int
    minimum: float = math.nan
    maximum: float = math.nan
    mean: float = math.nan
    std: float = math.nan
    percentiles: tuple[float, ...] = ()


def _collect(
    channels: Sequence[_Channel], asked: tuple[float, ...], unusual: Unusual
) -> IntensityStatistics:
    return IntensityStatistics(
        count=tuple(c.count for c in channels),
        minimum=tuple(c.minimum for c in channels),
        maximum=tuple(c.maximum for c in channels),
        mean=tuple(c.mean for c in channels),
        std=tuple(c.std for c in channels),
        percentiles={q: tuple(c.percentiles[i] for c in channels) for i, q in enumerate(asked)},
        **unusual.fields(),
    )


def _from_histogram(
    values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], asked: tuple[float, ...]
) -> _Channel:
    used = np.flatnonzero((counts > 0) & np.isfinite(values))
    used = used[np.argsort(values[used], kind="stable")]
    if used.size == 0:
        return _Channel(0, percentiles=(math.nan,) * len(asked))
    ordered, counted = values[used], counts[used]
    count = int(counted.sum())
    first = second = Fraction(0)
    for value, number in zip(ordered.tolist(), counted.tolist(), strict=True):
        exact = Fraction(value)
        first += exact * number
        second += exact * exact * number
    mean, std = _moments(first, second, count)
    until = np.cumsum(counted)

    def order_statistic(rank: int) -> float:
        return float(ordered[np.searchsorted(until, rank, side="right")])

    found = tuple(interpolate(q, count, order_statistic) for q in asked)
    return _Channel(count, float(ordered[0]), float(ordered[-1]), mean, std, found)


def _moments(first: Fraction, second: Fraction, count: int) -> tuple[float, float]:
    """Mean and deviation from the exact sums of values and of their squares."""
    mean = first / count
    variance = second / count - mean * mean
    return float(mean), root(max(variance, Fraction(0)))


def _from_passes(
    stream: _Stream, unusual: Unusual, asked: tuple[float, ...]
) -> IntensityStatistics:
    dtype = stream.volume.dtype
    extremes = [Extremes() for _ in range(stream.volume.channels)]
    searches = [Selection(dtype, asked) for _ in extremes]
    for cell, data in stream:
        if dtype.kind == "f":
            unusual.add(cell, data)
        for values, extreme, search in zip(map(finite, data), extremes, searches, strict=True):
            extreme.add(values)
            search.add(values)
    sums = [FixedPoint(extreme) for extreme in extremes]
    for number in range(1, stream.passes):
        for search, extreme in zip(searches, extremes, strict=True):
            search.settle(extreme.count)
        for _, data in stream:
            for values, fixed, search in zip(map(finite, data), sums, searches, strict=True):
                if number == 1:
                    fixed.add(values)
                search.add(values)
    channels = []
    for extreme, fixed, search in zip(extremes, sums, searches, strict=True):
        search.settle(extreme.count)
        if not extreme.count:
            channels.append(_Channel(0, percentiles=(math.nan,) * len(asked)))
            continue
        mean, std = fixed.moments(extreme.count)
        found = search.percentiles(extreme.count)
        low, high = float(extreme.low), float(extreme.high)
        channels.append(_Channel(extreme.count, low, high, mean, std, found))
    return _collect(channels, asked, unusual)
