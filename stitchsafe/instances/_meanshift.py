"""Mean shift on a binned sketch: with the flat kernel as scikit-learn defines it, or a Gaussian.

1. *Seeds*: cells from the heaviest to the lightest; each that no earlier seed holds within one
   bandwidth becomes a seed. They climb in rounds (64, 128, ...); seeds within a bandwidth of a mode
   that is found by then need not climb. Every point thus has a climb's start or its end close by.
2. *Climb*: a seed moves to the mean of all points within the bandwidth (whole cells count, by their
   mean), until it moves by no more than a thousandth of the bandwidth, or 300 times.
3. *Modes*: of ends that lie within a bandwidth of each other only that with the most points in its
   kernel remains (equal ones: the lexicographically larger).
4. *Labels*: each point belongs to the nearest mode; of equally near ones to the first.

All positions are whole numbers (see :mod:`._sketch`), so each step is exact: the same points give
the same modes and labels, whatever their order, the threads or the machine.

The Gaussian kernel weighs a cell at distance d by exp(-d²/2h²), h being the bandwidth, up to 6 h;
the support of a position is the sum of weights there. These sums are of floats, but run over the
same cells in the same order however the points came and however many threads there are, and each
step ends on whole units again. So order and partition cannot matter here either; another library
or processor could.

:func:`exact_mean_shift` is the definition without the sketch (Comaniciu & Meer 2002, as in
scikit-learn: every point a seed); quadratic, for small data and for tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import InputError
from stitchsafe.instances._sketch import UNITS, Sketch, cell_bits, occupied_cells, to_units

__all__ = [
    "GAUSSIAN_REACH",
    "Kernel",
    "Modes",
    "Sums",
    "exact_mean_shift",
    "find_modes",
    "mean_shift",
    "nearest_center",
    "nearest_mode",
    "numpy_sums",
]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Shift = Callable[[Float64], tuple[Float64, Float64]]
Kernel = Literal["flat", "gaussian"]

_MAX_STEPS = 300
_STILL = UNITS * 1e-3
_FIRST_SEEDS = 64
_PAIRS = 2_000_000  # pairs of positions that one batch holds at a time

GAUSSIAN_REACH = 6
"""Bandwidths from which on the Gaussian kernel is 0; its weight there is 1.5e-8."""


class Sums(Protocol):
    """Sums over cells that lie sorted along one axis, weighted by a kernel about positions."""

    def __call__(self, near: Float64, begin: int, end: int, /) -> Float64:
        """``(positions, columns)``: kernel times values, summed over cells `begin` to `end`."""


MakeSums = Callable[[Float64, Float64, Kernel], Sums]
"""Of cells ``(cells, dimensions)`` and their values ``(cells, columns)``."""


@dataclass(frozen=True)
class Modes:
    """Cluster centres, from the most to the least supported.

    Parameters
    ----------
    units
        float64 ``(modes, dimensions)`` of whole numbers: positions in units of bandwidth / 4096.
    support
        int64 ``(modes,)``: points within the bandwidth; with the Gaussian kernel the sum of the
        points' weights, rounded.
    bandwidth
        Radius of the kernel.
    """

    units: Float64
    support: Int64
    bandwidth: float

    @property
    def centers(self) -> NDArray[np.float32]:
        """Positions in the units of the points."""
        return (self.units * (self.bandwidth / UNITS)).astype(np.float32)


def find_modes(
    sketch: Sketch,
    bandwidth: float,
    *,
    min_support: int = 1,
    kernel: Kernel = "flat",
    sums: MakeSums | None = None,
) -> Modes:
    """The modes of a sketch made with this bandwidth.

    Parameters
    ----------
    sketch
        Points as cells.
    bandwidth
        Radius of the kernel, in units of the points.
    min_support
        Modes whose kernel holds fewer points are dropped, unless none would remain.
    kernel
        ``flat`` or ``gaussian``.
    sums
        What computes the weighted sums; NumPy by default.
    """
    means = sketch.means
    if len(means) == 0:
        return Modes(means, sketch.counts, bandwidth)
    shift = _shifter(means, sketch, kernel, sums or numpy_sums)
    ends, support = _climb(means[_seeds(means, sketch.counts)], shift)
    kept = _thin(ends, support, float(UNITS))
    strong = kept[support[kept] >= min_support]
    kept = strong if len(strong) else kept[:1]
    return Modes(ends[kept], np.rint(support[kept]).astype(np.int64), bandwidth)


def nearest_mode(units: Int64, modes: Modes) -> NDArray[np.int32]:
    """Index of the nearest mode of each position (the first of equally near ones).

    Parameters
    ----------
    units
        Positions from :func:`._sketch.to_units` with the bandwidth of `modes`.
    modes
        At least one, unless there is no position.
    """
    if len(modes.units) < 2:
        return np.zeros(len(units), np.int32)
    occupied = occupied_cells(units)
    if occupied is None or 8 * len(occupied[1]) > len(units):
        return _nearest_each(units, modes)
    cells, keys, places = occupied
    table = np.zeros(int(keys[-1]) + 1, np.int32)
    table[keys] = _nearest_to_cells(cells, modes)
    labels: NDArray[np.int32] = table[places]
    open_ones = np.flatnonzero(labels < 0)
    labels[open_ones] = _nearest_each(units[open_ones], modes)
    return labels


def _nearest_to_cells(cells: Int64, modes: Modes) -> NDArray[np.int32]:
    """Index of the mode that is nearest to all positions of a cell, -1 where there is none."""
    side = 1 << cell_bits(cells.shape[1])
    centers = cells * side + (side - 1) / 2
    # Half a diagonal on either side, and more than what sums and roots are rounded by.
    margin = (side - 1) * math.sqrt(cells.shape[1]) + 8
    labels = np.full(len(cells), -1, np.int32)
    step = max(1, _PAIRS // len(modes.units))
    for begin in range(0, len(cells), step):
        part = centers[begin : begin + step]
        squares = part @ (-2.0 * modes.units.T)
        squares += (modes.units**2).sum(axis=1)
        squares += (part**2).sum(axis=1)[:, None]
        nearest = squares.argmin(axis=1)
        first, second = np.sqrt(np.maximum(np.partition(squares, 1, axis=1)[:, :2], 0)).T
        labels[begin : begin + step] = np.where(second - first > margin, nearest, -1)
    return labels


def _nearest_each(units: Int64, modes: Modes) -> NDArray[np.int32]:
    labels = np.zeros(len(units), np.int32)
    # |p - m|^2 less |p|^2, which all modes share; exact, since all are whole numbers.
    scaled = np.ascontiguousarray(-2.0 * modes.units.T)
    squares = (modes.units**2).sum(axis=1)
    step = max(1, _PAIRS // len(squares))
    for begin in range(0, len(units), step):
        distances = units[begin : begin + step].astype(np.float64) @ scaled
        distances += squares
        labels[begin : begin + step] = distances.argmin(axis=1)
    return labels


def mean_shift(
    points: NDArray[Any], bandwidth: float, *, min_support: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cluster points.

    Parameters
    ----------
    points
        ``(points, dimensions)``.
    bandwidth
        Radius of the flat kernel, in units of `points`.
    min_support
        See :func:`find_modes`.

    Returns
    -------
    centers
        float32 ``(modes, dimensions)``, from the most to the least supported.
    labels
        int32 ``(points,)``: index of each point's mode.

    Raises
    ------
    InputError
        If values are not finite or further than 2048 bandwidths from 0.
    """
    _check_bandwidth(bandwidth)
    units = to_units(points, bandwidth)
    modes = find_modes(Sketch.of_units(units), bandwidth, min_support=min_support)
    return modes.centers, nearest_mode(units, modes)


def exact_mean_shift(points: NDArray[Any], bandwidth: float) -> tuple[Float64, NDArray[np.int32]]:
    """Cluster points with every point a seed and no sketch: scikit-learn's result, slowly.

    Parameters and return values are those of :func:`mean_shift`; centres are float64.
    """
    _check_bandwidth(bandwidth)
    data = np.asarray(points, np.float64)
    found: dict[tuple[float, ...], int] = {}
    for seed in np.unique(data, axis=0):
        center, support = seed, 0
        for _ in range(_MAX_STEPS + 1):
            inside = data[((data - center) ** 2).sum(axis=1) <= bandwidth**2]
            before, center, support = center, inside.mean(axis=0), len(inside)
            if np.linalg.norm(center - before) <= 1e-3 * bandwidth:
                break
        found[tuple(center)] = support
    ends = np.asarray(list(found), np.float64).reshape(-1, data.shape[1])
    kept = _thin(ends, np.asarray(list(found.values()), np.int64), bandwidth)
    return ends[kept], nearest_center(data, ends[kept])


def nearest_center(points: NDArray[Any], centers: Float64) -> NDArray[np.int32]:
    """Index of the nearest of any centres to each point, by its distance itself.

    :func:`nearest_mode` is for positions in whole units, where a faster way is exact.
    """
    labels = np.zeros(len(points), np.int32)
    step = max(1, _PAIRS // max(1, centers.size))
    for begin in range(0, len(points), step):
        part = np.asarray(points[begin : begin + step], np.float64)
        labels[begin : begin + step] = ((part[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    return labels


def _check_bandwidth(bandwidth: float) -> None:
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"the bandwidth {bandwidth} is not a length; give a positive number")


def _seeds(means: Float64, counts: Int64) -> Int64:
    """A net over the cells, heaviest first: none within a bandwidth of an earlier one."""
    order = np.argsort(-counts, kind="stable")  # equal counts: lexicographic, as cells are
    return order[_net(means[order], float(UNITS))]


def _thin(ends: Float64, support: Float64 | Int64, radius: float) -> Int64:
    """Ends that remain, from the most supported; equal ones: the lexicographically larger first."""
    order = np.lexsort((*ends.T[::-1], support))[::-1]
    return np.asarray(order[_net(ends[order], radius)], np.int64)


def _net(points: Float64, radius: float) -> Int64:
    """Greedy, in the order given: points that are further than `radius` from each one before."""
    rest = np.arange(len(points))
    net = []
    # Blocks keep it from touching all points for each member: far ones are only seen when due.
    while len(rest):
        head, rest = rest[:4096], rest[4096:]
        members: list[int] = []
        near = points[head]
        alive = np.ones(len(head), bool)
        at = 0
        while at < len(head):
            members.append(int(head[at]))
            alive &= ((near - near[at]) ** 2).sum(axis=1) > radius**2
            following = np.flatnonzero(alive[at + 1 :])
            at = at + 1 + int(following[0]) if len(following) else len(head)
        net.extend(members)
        chosen = points[members]
        if len(rest):
            rest = rest[_beyond(points[rest], chosen, radius)]
    return np.asarray(net, np.int64)


def _beyond(points: Float64, centers: Float64, radius: float) -> NDArray[np.bool_]:
    """Which points are further than `radius` from all of `centers`."""
    beyond = np.ones(len(points), bool)
    squares = (centers**2).sum(axis=1)
    step = max(1, _PAIRS // len(centers))
    for begin in range(0, len(points), step):
        part = points[begin : begin + step]
        distances = part @ (-2.0 * centers.T)
        distances += squares
        beyond[begin : begin + step] = distances.min(axis=1) + (part**2).sum(axis=1) > radius**2
    return beyond


def _climb(seeds: Float64, shift: Shift) -> tuple[Float64, Float64]:
    """Ends of the climbs from `seeds`, and how many points their kernels hold."""
    ends, support = np.empty_like(seeds[:0]), np.zeros(0)
    batch = _FIRST_SEEDS
    while len(seeds):
        reached, held = _converge(seeds[:batch], shift)
        ends, support = np.concatenate([ends, reached]), np.concatenate([support, held])
        seeds, batch = seeds[batch:], 2 * batch
        if len(seeds):
            seeds = seeds[_beyond(seeds, np.unique(reached, axis=0), float(UNITS))]
    return ends, support


def _converge(seeds: Float64, shift: Shift) -> tuple[Float64, Float64]:
    ends = seeds.copy()
    support = np.zeros(len(seeds))
    active = np.arange(len(seeds))
    for _ in range(_MAX_STEPS + 1):
        if not len(active):
            break
        moved, held = shift(ends[active])
        far = ((moved - ends[active]) ** 2).sum(axis=1) > _STILL**2
        ends[active], support[active] = moved, held
        active = active[far]
    return ends, support


def _shifter(means: Float64, sketch: Sketch, kernel: Kernel, make_sums: MakeSums) -> Shift:
    """The function that moves positions to the weighted mean of the points about them.

    Cells lie sorted along the axis on which they spread most, and so do the positions asked for:
    a batch of them looks only at the stretch of cells that it can reach.
    """
    axis = int(np.argmax(means.max(axis=0) - means.min(axis=0)))
    order = np.argsort(means[:, axis], kind="stable")
    cells = means[order]
    along = np.ascontiguousarray(cells[:, axis])
    values = np.column_stack([sketch.counts, sketch.sums])[order].astype(np.float64)
    sums = make_sums(cells, values, kernel)
    reach = UNITS if kernel == "flat" else GAUSSIAN_REACH * UNITS

    def shift(positions: Float64) -> tuple[Float64, Float64]:
        moved = np.empty_like(positions)
        held = np.empty(len(positions))
        ranked = np.argsort(positions[:, axis], kind="stable")
        for part in np.array_split(ranked, max(1, len(ranked) // 32)):
            near = positions[part]
            begin = np.searchsorted(along, near[0, axis] - reach, "left")
            end = np.searchsorted(along, near[-1, axis] + reach, "right")
            total = np.zeros((len(part), values.shape[1]))
            step = max(1, _PAIRS // len(part))
            for low in range(int(begin), int(end), step):
                total += sums(near, low, min(low + step, int(end)))
            held[part] = total[:, 0]
            empty = total[:, 0] == 0  # cannot be on a climb from a cell; stay where it is
            count = np.where(empty, 1.0, total[:, 0])
            moved[part] = np.where(empty[:, None], near, np.rint(total[:, 1:] / count[:, None]))
        return moved, held

    return shift


def numpy_sums(cells: Float64, values: Float64, kernel: Kernel) -> Sums:
    """See :class:`Sums`."""
    squares = (cells**2).sum(axis=1)
    columns = np.ascontiguousarray(values.T)

    def sums(near: Float64, begin: int, end: int) -> Float64:
        # |n - c|^2 less |n|^2; exact, since all are whole numbers.
        distances = (-2.0 * near) @ cells[begin:end].T
        distances += squares[begin:end]
        lengths = (near**2).sum(axis=1)[:, None]
        if kernel == "flat":
            weights = (distances <= UNITS**2 - lengths).astype(np.float64)
            return np.asarray(weights @ values[begin:end])
        distances += lengths
        far = distances > (GAUSSIAN_REACH * UNITS) ** 2
        weights = np.exp(distances * (-0.5 / UNITS**2))
        weights[far] = 0
        # Not by BLAS, whose order of summation follows its threads.
        return np.asarray(np.einsum("nc,kc->nk", weights, columns[:, begin:end]))

    return sums
