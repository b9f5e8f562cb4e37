"""Flat-kernel mean shift, as scikit-learn defines it, on a binned sketch.

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

:func:`exact_mean_shift` is the definition without the sketch (Comaniciu & Meer 2002, as in
scikit-learn: every point a seed); quadratic, for small data and for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import InputError
from stitchsafe.instances._sketch import UNITS, Sketch, to_units

__all__ = ["Modes", "exact_mean_shift", "find_modes", "mean_shift", "nearest_mode"]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Shift = Callable[[Float64], tuple[Float64, Int64]]

_MAX_STEPS = 300
_STILL = UNITS * 1e-3
_FIRST_SEEDS = 64
_PAIRS = 2_000_000  # pairs of positions that one batch holds at a time


@dataclass(frozen=True)
class Modes:
    """Cluster centres, from the most to the least supported.

    Parameters
    ----------
    units
        float64 ``(modes, dimensions)`` of whole numbers: positions in units of bandwidth / 4096.
    support
        int64 ``(modes,)``: points within the bandwidth.
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


def find_modes(sketch: Sketch, bandwidth: float, *, min_support: int = 1) -> Modes:
    """The modes of a sketch made with this bandwidth.

    Parameters
    ----------
    sketch
        Points as cells.
    bandwidth
        Radius of the kernel, in units of the points.
    min_support
        Modes whose kernel holds fewer points are dropped, unless none would remain.
    """
    means = sketch.means
    if len(means) == 0:
        return Modes(means, sketch.counts, bandwidth)
    ends, support = _climb(means[_seeds(means, sketch.counts)], means, sketch)
    kept = _thin(ends, support, float(UNITS))
    strong = kept[support[kept] >= min_support]
    kept = strong if len(strong) else kept[:1]
    return Modes(ends[kept], support[kept], bandwidth)


def nearest_mode(units: Int64, modes: Modes) -> NDArray[np.int32]:
    """Index of the nearest mode of each position (the first of equally near ones).

    Parameters
    ----------
    units
        Positions from :func:`._sketch.to_units` with the bandwidth of `modes`.
    modes
        At least one, unless there is no position.
    """
    labels = np.zeros(len(units), np.int32)
    if len(modes.units) < 2:
        return labels
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
    for seed in data:
        center, support = seed, 0
        for _ in range(_MAX_STEPS + 1):
            inside = data[((data - center) ** 2).sum(axis=1) <= bandwidth**2]
            before, center, support = center, inside.mean(axis=0), len(inside)
            if np.linalg.norm(center - before) <= 1e-3 * bandwidth:
                break
        found[tuple(center)] = support
    ends = np.asarray(list(found), np.float64).reshape(-1, data.shape[1])
    kept = _thin(ends, np.asarray(list(found.values()), np.int64), bandwidth)
    distances = ((data[:, None] - ends[kept][None]) ** 2).sum(axis=2)
    labels = distances.argmin(axis=1) if len(data) else np.zeros(0)
    return ends[kept], labels.astype(np.int32)


def _check_bandwidth(bandwidth: float) -> None:
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"the bandwidth {bandwidth} is not a length; give a positive number")


def _seeds(means: Float64, counts: Int64) -> Int64:
    """A net over the cells, heaviest first: none within a bandwidth of an earlier one."""
    order = np.argsort(-counts, kind="stable")  # equal counts: lexicographic, as cells are
    return order[_net(means[order], float(UNITS))]


def _thin(ends: Float64, support: Int64, radius: float) -> Int64:
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


def _climb(seeds: Float64, means: Float64, sketch: Sketch) -> tuple[Float64, Int64]:
    """Ends of the climbs from `seeds`, and how many points their kernels hold."""
    shift = _shifter(means, sketch)
    ends, support = np.empty_like(seeds[:0]), np.zeros(0, np.int64)
    batch = _FIRST_SEEDS
    while len(seeds):
        reached, held = _converge(seeds[:batch], shift)
        ends, support = np.concatenate([ends, reached]), np.concatenate([support, held])
        seeds, batch = seeds[batch:], 2 * batch
        if len(seeds):
            seeds = seeds[_beyond(seeds, np.unique(reached, axis=0), float(UNITS))]
    return ends, support


def _converge(seeds: Float64, shift: Shift) -> tuple[Float64, Int64]:
    ends = seeds.copy()
    support = np.zeros(len(seeds), np.int64)
    active = np.arange(len(seeds))
    for _ in range(_MAX_STEPS + 1):
        if not len(active):
            break
        moved, held = shift(ends[active])
        far = ((moved - ends[active]) ** 2).sum(axis=1) > _STILL**2
        ends[active], support[active] = moved, held
        active = active[far]
    return ends, support


def _shifter(means: Float64, sketch: Sketch) -> Shift:
    """The function that moves positions to the mean of the points within a bandwidth.

    Cells lie sorted along the axis on which they spread most, and so do the positions asked for:
    a batch of them looks only at the stretch of cells that it can reach.
    """
    axis = int(np.argmax(means.max(axis=0) - means.min(axis=0)))
    order = np.argsort(means[:, axis], kind="stable")
    cells = means[order]
    along = np.ascontiguousarray(cells[:, axis])
    squares = (cells**2).sum(axis=1)
    weights = np.column_stack([sketch.counts, sketch.sums])[order].astype(np.float64)

    def shift(positions: Float64) -> tuple[Float64, Int64]:
        moved = np.empty_like(positions)
        held = np.empty(len(positions), np.int64)
        ranked = np.argsort(positions[:, axis], kind="stable")
        for part in np.array_split(ranked, max(1, len(ranked) // 32)):
            near = positions[part]
            begin = np.searchsorted(along, near[0, axis] - UNITS, "left")
            end = np.searchsorted(along, near[-1, axis] + UNITS, "right")
            total = np.zeros((len(part), weights.shape[1]))
            step = max(1, _PAIRS // len(part))
            bounds = UNITS**2 - (near**2).sum(axis=1)
            for low in range(int(begin), int(end), step):
                stretch = slice(low, min(low + step, int(end)))
                distances = (-2.0 * near) @ cells[stretch].T
                distances += squares[stretch]
                inside = (distances <= bounds[:, None]).astype(np.float64)
                total += inside @ weights[stretch]
            held[part] = total[:, 0].astype(np.int64)
            empty = total[:, 0] == 0  # cannot be on a climb from a cell; stay where it is
            count = np.where(empty, 1.0, total[:, 0])
            moved[part] = np.where(empty[:, None], near, np.rint(total[:, 1:] / count[:, None]))
        return moved, held

    return shift
