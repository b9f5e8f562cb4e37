"""Exact statistics of a volume's intensities, streamed, whatever the order of its parts.

Each quantity is a function of the multiset of values, found in whole-number sums and counts:

* Values of up to 16 bits (integers, half floats) are counted in one histogram of bit patterns per
  channel, from which everything follows. One pass.
* Wider ones take two passes (four for percentiles of 64-bit values), with the accumulators of
  ``_accumulators.py``: extremes, fixed-point sums, and radix selection for percentiles.

Integer sums commute, so neither chunk order nor chunk shape can change a bit of the result, and a
pass may be done in portions, whose tallies are stored and added up later: :func:`passes` says what
each pass collects, given what the earlier ones have found. What is read at once are whole chunks,
so that each is decoded once, up to 64 MiB; memory is that and a few megabytes per channel.
Percentiles interpolate linearly
between order statistics, as `numpy.percentile` does.

NaN and infinities are counted apart and take no part in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.volumes._accumulators import (
    DIGIT,
    Extremes,
    FixedPoint,
    Histogram,
    Selection,
    Tally,
    Unusual,
    interpolate,
    root,
)
from stitchsafe.volumes._volume import Array, Volume

__all__ = [
    "MOST_READ_BYTES",
    "IntensityStatistics",
    "Pass",
    "Passes",
    "StatisticsProgress",
    "answered",
    "passes",
    "pieces",
    "portion_shape",
    "statistics",
]

Found = TypeVar("Found")

MOST_READ_BYTES = 2**26
"""What is read at once, so long as a chunk is no smaller."""

_PIECE_VOXELS = 2**20
_PORTION_VOXELS = 2**24
_MOST_PORTIONS = 1024


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


@dataclass(frozen=True)
class Pass:
    """One pass over a region: what is to be collected there.

    Parameters
    ----------
    volume, roi
        What is read.
    begin
        Makes an empty tally.
    number, total
        Which pass it is, from 0, of how many.
    """

    volume: Volume
    roi: Roi
    begin: Callable[[], Tally]
    number: int
    total: int


Passes = Generator[Pass, Tally, IntensityStatistics]
"""Yields each pass, is sent the tally of its whole region, and returns the statistics."""


def passes(volume: Volume, roi: Roi | None = None, *, percentiles: Sequence[float] = ()) -> Passes:
    """The passes that the statistics of a volume, or of a region of it, take.

    Raises
    ------
    ValueError
        The region is empty, or a percentile is outside 0 to 100.
    """
    roi = Roi.whole(volume.shape) if roi is None else roi
    if roi.size == 0:
        raise ValueError(f"the region {roi} has no voxel to take statistics of")
    asked = tuple(dict.fromkeys(float(q) for q in percentiles))
    if not all(0 <= q <= 100 for q in asked):
        raise ValueError(f"percentiles {asked} are not all between 0 and 100")
    if volume.dtype.itemsize <= 2:
        return (yield from _by_histograms(volume, roi, asked))
    return (yield from _by_passes(volume, roi, asked))


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
    return answered(passes(volume, roi, percentiles=percentiles), events)


def answered(
    asking: Generator[Pass, Tally, Found],
    events: Callable[[StatisticsProgress], None] | None = None,
) -> Found:
    """Do the passes that are asked for, one after the other, and return what was found by them."""
    try:
        now = next(asking)
        while True:
            tally, done = now.begin(), now.number * now.roi.size
            for piece, data in pieces(now.volume, now.roi):
                tally.add(piece, data)
                done += piece.size
                if events is not None:
                    events(StatisticsProgress(done, now.total * now.roi.size))
            now = asking.send(tally)
    except StopIteration as end:
        found: Found = end.value
        return found


def pieces(volume: Volume, roi: Roi) -> Iterator[tuple[Roi, Array]]:
    """A region of a volume in pieces of bounded size, each with its voxels.

    A chunk that is larger than a piece is read whole, as far as that is bounded, and then handed
    out in pieces: read piece by piece, it would be decoded as often as it has pieces.
    """
    most = MOST_READ_BYTES // volume.dtype.itemsize
    at_once = max(_PIECE_VOXELS, min(_decoded_together(volume), most))
    piece_shape = _shape_within(volume, _PIECE_VOXELS)
    for box in grid_cells(roi, _shape_within(volume, at_once)):
        data = volume.read(box)
        for piece in grid_cells(box, piece_shape):
            inside = piece.relative_to(box)
            yield piece, data[(slice(None), *inside.slices)]


def portion_shape(volume: Volume) -> tuple[int, ...]:
    """Portions in which a pass may be done: some seconds of work, and not too many of them.

    They hold whole chunks, however large.
    """
    voxels = math.prod(volume.shape) * volume.channels
    least = max(_PORTION_VOXELS, _decoded_together(volume))
    return _shape_within(volume, max(least, voxels // _MOST_PORTIONS))


def _decoded_together(volume: Volume) -> int:
    """Voxels of a chunk, over all channels; 0 where there is nothing to decode."""
    return math.prod(volume.chunk_shape) * volume.channels if volume.decoded_bytes else 0


def _shape_within(volume: Volume, most: int) -> tuple[int, ...]:
    """Whole chunks up to a bounded number of voxels; parts of chunks where these are larger."""
    room = max(1, most // volume.channels)
    piece = list(volume.chunk_shape)
    for axis in range(len(piece)):  # too large: cut along the first axes
        excess = math.prod(piece) / room
        piece[axis] = max(1, math.floor(piece[axis] / excess)) if excess > 1 else piece[axis]
    for axis in reversed(range(len(piece))):  # too small: several chunks along the last axes
        spare = min(room // math.prod(piece), -(-volume.shape[axis] // piece[axis]))
        piece[axis] *= max(1, spare)
    return tuple(piece)


def _by_histograms(volume: Volume, roi: Roi, asked: tuple[float, ...]) -> Passes:
    dtype = volume.dtype

    def begin() -> Tally:
        unusual = Unusual() if dtype.kind == "f" else None
        return Tally(unusual, [[Histogram(dtype)] for _ in range(volume.channels)])

    tally = yield Pass(volume, roi, begin, 0, 1)
    counts = np.stack([each.counts for (each,) in tally.channels])  # type: ignore[attr-defined]
    patterns = np.arange(counts.shape[1], dtype=f"u{dtype.itemsize}")
    values = (patterns.astype(bool) if dtype.kind == "b" else patterns.view(dtype)).astype(float)
    if dtype.kind == "b":  # any byte but 0 is True
        counts[:, 1] += counts[:, 2:].sum(axis=1)
        counts[:, 2:] = 0
    found = [_from_histogram(values, each, asked) for each in counts]
    return _collect(found, asked, tally.unusual or Unusual())


def _by_passes(volume: Volume, roi: Roi, asked: tuple[float, ...]) -> Passes:
    dtype = volume.dtype
    total = max(2, dtype.itemsize * 8 // DIGIT if asked else 0)

    def begin() -> Tally:
        unusual = Unusual() if dtype.kind == "f" else None
        channels = [(Extremes(), Selection(dtype, asked)) for _ in range(volume.channels)]
        return Tally(unusual, channels)

    tally = yield Pass(volume, roi, begin, 0, total)
    unusual = tally.unusual or Unusual()
    extremes: list[Extremes] = [each[0] for each in tally.channels]  # type: ignore[misc]
    searches: list[Selection] = [each[1] for each in tally.channels]  # type: ignore[misc]
    sums: list[FixedPoint] = []
    for number in range(1, total):
        for search, extreme in zip(searches, extremes, strict=True):
            search.settle(extreme.count)

        def again(searches: list[Selection] = searches, number: int = number) -> Tally:
            fresh = [search.fresh() for search in searches]
            if number > 1:
                return Tally(None, [(search,) for search in fresh])
            fixed = map(FixedPoint, extremes)
            return Tally(None, list(zip(fresh, fixed, strict=True)))

        tally = yield Pass(volume, roi, again, number, total)
        searches = [each[0] for each in tally.channels]  # type: ignore[misc]
        if number == 1:
            sums = [each[1] for each in tally.channels]  # type: ignore[misc]
    channels = []
    for extreme, fixed, search in zip(extremes, sums, searches, strict=True):
        search.settle(extreme.count)
        if not extreme.count:
            channels.append(_Channel(0, percentiles=(math.nan,) * len(asked)))
            continue
        mean, std = fixed.moments(extreme.count)
        found = search.percentiles(extreme.count)
        # Which zero is the smallest depends on the order; without its sign it does not.
        low, high = float(extreme.low) + 0.0, float(extreme.high) + 0.0
        channels.append(_Channel(extreme.count, low, high, mean, std, found))
    return _collect(channels, asked, unusual)


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
