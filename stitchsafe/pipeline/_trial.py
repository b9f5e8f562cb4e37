"""Networks of which nothing could be derived: sizes, offsets and scales found by running them.

Nothing found here is a proof, and nothing stitched by it is called exact. Every guess is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.engine import Events
from stitchsafe.errors import ModelError, PlanError
from stitchsafe.geometry import (
    AxisGeometry,
    Graph,
    NetworkGeometry,
    Node,
    OutputAxis,
    OutputGeometry,
    Placement,
)
from stitchsafe.networks import Network, Output, Runtime
from stitchsafe.pipeline._pass_memory import PassMemory, bytes_of_pass
from stitchsafe.precision import PRECISIONS, precision_named
from stitchsafe.tiling import format_bytes

__all__ = ["by_trial"]

_SIZES = {
    2: (64, 128, 256, 512, 96, 192, 384, 48, 32, 16, 160, 224, 320, 448, 572, 640, 1024),
    3: (32, 64, 128, 96, 48, 16, 80, 112, 160, 192),
}
_LONGEST_PERIOD = 64
_LARGE = 2**18
"""Voxels from which on a pass tells enough of the memory that larger ones take."""

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Tried:
    """A network with the geometry that running it suggests, and perhaps a measured memory."""

    network: Network
    geometry: NetworkGeometry
    outputs: tuple[Output, ...]
    trial: _Trial
    base: _Shape
    events: Events

    @cached_property
    def memory(self) -> PassMemory | None:
        """Of passes, where no graph tells it; measured when a plan first asks."""
        if _is_traced(self.network, self.base):
            return None
        return _measured(self.trial, self.base, self.events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def trace(self, shape: Sequence[int]) -> Graph:
        """The graph, or where there is none a stand-in that costs what one pass was measured to."""
        if self.memory is None:
            return self.network.trace(shape)
        space, voxels = tuple(shape), math.prod(shape)
        # Without a graph the arithmetic is unknown; it is at least proportional to the voxels.
        work = Node(
            "opaque", "measured", "", (), (1, 1, *space), flops=voxels,
            extra_bytes=self.memory.of(voxels),
        )  # fmt: skip
        known = self.network.parameter_bytes
        return Graph((work,), space, (), (), known, self.geometry.breaks)


class _Trial:
    """Runs a network on zeros, each shape once."""

    def __init__(self, network: Network, precision: str) -> None:
        self.network = network
        # Half types are tried in float32, which takes no less memory.
        self.precision = (precision_named(precision) or PRECISIONS[network.precision]).kept
        self.reason = ""
        network.prepare(Runtime(precision=self.precision))
        self._known: dict[_Shape, tuple[_Shape, ...] | None] = {}

    def at(self, shape: _Shape) -> tuple[_Shape, ...] | None:
        """Shapes of the outputs, channels first; None if the network does not take the input."""
        if shape not in self._known:
            self._known[shape] = None
            try:
                found = tuple(result.shape[1:] for result in self.network.run(self.zeros(shape)))
            except Exception as error:  # whatever a stranger's module raises
                self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                return None
            if found and all(len(each) == len(shape) + 1 for each in found):
                self._known[shape] = found
            else:
                self.reason = f"its outputs have the shapes {found}"
        return self._known[shape]

    def zeros(self, shape: _Shape) -> NDArray[np.floating]:
        return np.zeros((1, self.network.channels, *shape), self.precision)


def by_trial(network: Network, events: Events, precision: str = "auto") -> Network:
    """The same network with a geometry that is guessed from running it.

    Parameters
    ----------
    network
        One of which no geometry could be derived.
    events
        Told of every guess.
    precision
        In which it is going to run; ``auto`` is that of its weights.

    Raises
    ------
    ModelError
        If no size runs.
    """
    trial = _Trial(network, precision)
    base = next(
        (shape for size in _SIZES[network.ndim] if trial.at(shape := (size,) * network.ndim)), None
    )
    if base is None:
        sizes = ", ".join(map(str, _SIZES[network.ndim]))
        raise ModelError(
            f"{network.name} ran on no input of {sizes} voxels per axis ({trial.reason}); give a "
            "network that takes one of these sizes"
        )
    held = trial.at(base)
    assert held is not None
    axes, owns = zip(*(_guess(trial, base, axis) for axis in range(network.ndim)), strict=True)
    names = [output.name for output in network.outputs]
    if len(names) != len(held):
        names = ["output"] if len(held) == 1 else [f"output{i}" for i in range(len(held))]
    outputs = tuple(
        OutputGeometry(name, shape[0], axes=tuple(own[place] for own in owns))
        for place, (name, shape) in enumerate(zip(names, held, strict=True))
    )
    geometry = replace(network.geometry, axes=axes, outputs=outputs)
    for letter, axis in zip("zyx"[-network.ndim :], axes, strict=True):
        sizes = f"{axis.input_min} + k * {axis.input_step}" if axis.input_step else axis.input_min
        events.say(
            f"NOT exact: along {letter} nothing is known of {network.name}; from passes over zeros "
            f"it takes {sizes} voxels, period guessed as {axis.period}"
        )
    return _Tried(
        network,
        geometry,
        tuple(Output(each.name, each.channels) for each in outputs),
        trial,
        base,
        events,
    )


def _guess(trial: _Trial, base: _Shape, axis: int) -> tuple[AxisGeometry, tuple[OutputAxis, ...]]:
    """One axis: the smallest power of two by which the input may grow, and what outputs make of it.

    Where it cannot grow, the network takes that size only. Then, for want of anything better, the
    period is the largest power of two that divides half of it, and an output that is not larger or
    smaller by a power of two is taken for one that has lost its margins.
    """
    size = base[axis]
    held = trial.at(base)
    assert held is not None
    step, grown = 0, held
    while 2**step <= _LONGEST_PERIOD:
        larger = trial.at((*base[:axis], size + 2**step, *base[axis + 1 :]))
        # Twice, so that a size that only happens to run is not taken for a lattice.
        again = larger and trial.at((*base[:axis], size + 2 ** (step + 1), *base[axis + 1 :]))
        if larger and again and _grows_evenly(held, larger, again, axis):
            grown = larger
            break
        step += 1
    period = 2**step
    fixed = period > _LONGEST_PERIOD
    if fixed:
        period = max(size // 2 & -(size // 2), 1)
        period = max(
            min(period, _LONGEST_PERIOD),
            *(_plain_scale(own[1 + axis], size).denominator for own in held),
        )
    scales: list[Fraction] = []
    shrinkages: list[Fraction] = []
    for own, more in zip(held, grown, strict=True):
        have = own[1 + axis]
        scale = _plain_scale(have, size) if fixed else Fraction(more[1 + axis] - have, period)
        scales.append(scale)
        shrinkages.append(size - have / scale)
    placed = Placement.of(scales, shrinkages)
    offset, shrinkage = placed.offset, placed.shrinkage(shrinkages)
    context = offset, shrinkage - offset
    owns = tuple(
        OutputAxis(scale, own, start, each, context, size, ())
        for scale, own, start, each in zip(
            scales, placed.offsets, placed.starts, shrinkages, strict=True
        )
    )
    least = size if fixed else _smallest(trial, base, axis, period)
    return (
        AxisGeometry(
            period=period,
            context=context,
            receptive_field=size,
            input_min=least,
            input_step=0 if fixed else period,
            output_offset=offset,
            shrinkage=shrinkage,
            padded=True,
        ),
        owns,
    )


def _plain_scale(have: int, size: int) -> Fraction:
    """Elements per voxel as a power of two, or 1."""
    ratio = Fraction(have, size)
    whole = ratio if ratio >= 1 else 1 / ratio
    is_power = whole.denominator == 1 and whole.numerator & (whole.numerator - 1) == 0
    return ratio if is_power else Fraction(1)


def _grows_evenly(
    held: tuple[_Shape, ...], larger: tuple[_Shape, ...], again: tuple[_Shape, ...], axis: int
) -> bool:
    """Whether each output grows, and twice as much in two steps as in one."""
    at = 1 + axis
    return len(held) == len(larger) == len(again) and all(
        c[at] - a[at] == 2 * (b[at] - a[at]) > 0
        for a, b, c in zip(held, larger, again, strict=True)
    )


def _smallest(trial: _Trial, base: _Shape, axis: int, period: int) -> int:
    """The smallest size of the axis that runs, by bisection from the known one down."""
    good, bad = 0, (base[axis] - 1) // period + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        runs = trial.at((*base[:axis], base[axis] - middle * period, *base[axis + 1 :]))
        good, bad = (middle, bad) if runs else (good, middle)
    return base[axis] - good * period


def _is_traced(network: Network, shape: _Shape) -> bool:
    try:
        return bool(network.trace(shape).outputs)
    except PlanError:
        return False


def _measured(trial: _Trial, base: _Shape, events: Events) -> PassMemory:
    """Memory of passes over two sizes, of which the smaller has half the length along each axis.

    The larger one is the base, doubled as often as the network takes it and a pass stays small.
    """
    shapes = [base]
    while math.prod(shapes[-1]) < _LARGE:
        doubled = tuple(2 * size for size in shapes[-1])
        if not trial.at(doubled):
            break
        shapes.append(doubled)
    network = trial.network
    found = PassMemory(
        tuple(
            (math.prod(shape), bytes_of_pass(network.run, trial.zeros(shape)))
            for shape in shapes[-2:]
        )
    )
    passes = " and ".join(
        f"{' x '.join(map(str, shape))} voxels ({format_bytes(taken)})"
        for shape, (_, taken) in zip(shapes[-2:], found.passes, strict=True)
    )
    events.say(
        f"memory: {network.name} cannot be traced; taken from its parameters and from passes over "
        f"{passes}, and larger ones as if it grew no slower than between these"
    )
    return found
