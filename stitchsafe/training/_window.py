"""Which input a training window needs, and whether a network may be trained with it.

A network with period p computes each of p^d phases of positions with other effective weights. A
window of at most one period never shows two positions of the same phase side by side across the
period's grid, so nothing in the loss ties them: the network may break its embeddings at every tile
(Rumberger et al. 2021, figure 3). So the window must be strictly larger than the period.

A network that pads has another function at each position of its window, up to as many as there are
voxels. What holds across seams is then learnt only where the loss sees both sides of one: from
windows that directly neighbour each other, at least d + 1 of them, so that each axis has a pair
(section 3.2). They make one example, and one loss::

    d = 2, three windows       four
    +---+---+                  +---+---+
    | 0 | 2 |                  | 0 | 2 |
    +---+---+                  +---+---+
    | 1 |                      | 1 | 3 |
    +---+                      +---+---+

The same frees networks without padding from the rule, since the loss sees across the period's grid:
neighbouring windows need only be whole periods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from stitchsafe.errors import PlanError
from stitchsafe.geometry import AxisGeometry, NetworkGeometry

__all__ = ["TrainingWindow", "WindowRules", "fit_window", "refuse_far_offsets"]


@dataclass(frozen=True)
class TrainingWindow:
    """Shapes of one training example, in voxels.

    ::

        |<------------------- input ------------------->|
        |<- offset ->|<--- window --->|<- rest ->|

    The network's output may be larger than the window, which is then cut out of its centre. Where
    several windows that neighbour each other make one example, `joint` has the shapes of all.

    Attributes
    ----------
    offset
        From the input's first voxel to the window's.
    crop
        From the output's first voxel to the window's.
    places
        Where the windows of one example lie, in windows: ``((0, 0),)`` of one in 2-D.
    output
        What the network returns for one input, where that is known.
    """

    window: tuple[int, ...]
    input: tuple[int, ...]
    offset: tuple[int, ...]
    crop: tuple[int, ...]
    places: tuple[tuple[int, ...], ...] = ()
    output: tuple[int, ...] | None = None

    @property
    def centred(self) -> bool:
        """Whether the window lies in the middle of its input: only then may examples be flipped."""
        return all(
            2 * offset + window == whole
            for offset, window, whole in zip(self.offset, self.window, self.input, strict=True)
        )

    @property
    def joint(self) -> TrainingWindow:
        """The shapes of the box around all windows of one example."""
        if len(self.places) < 2:
            return self
        return TrainingWindow(
            tuple(2 * size for size in self.window),
            tuple(whole + size for whole, size in zip(self.input, self.window, strict=True)),
            self.offset,
            self.crop,
        )

    def shifts(self) -> list[tuple[int, ...]]:
        """From the first window to each, in voxels."""
        places = self.places or ((0,) * len(self.window),)
        return [
            tuple(at * size for at, size in zip(place, self.window, strict=True))
            for place in places
        ]

    def describe(self) -> str:
        """The shapes for people."""
        cut = f", of which {_times(self.crop)} are cropped before it" if any(self.crop) else ""
        count = f"{len(self.places)} neighbouring windows of" if len(self.places) > 1 else "window"
        return f"{count} {_times(self.window)} voxels from inputs of {_times(self.input)}{cut}"


@dataclass(frozen=True)
class WindowRules:
    """What a window may be.

    Attributes
    ----------
    neighbours
        How many windows that directly neighbour each other make one example.
    allow_breaking
        Whether a window that lets embeddings break at a grid is taken all the same.
    """

    neighbours: int = 1
    allow_breaking: bool = False


def fit_window(
    geometry: NetworkGeometry, window: Sequence[int], rules: WindowRules | None = None
) -> TrainingWindow:
    """The smallest valid input whose output covers the window.

    Raises
    ------
    PlanError
        If the window cannot be had, or breaks a rule of the theory that is not waived; names the
        nearest windows that would do.
    UnsafeNetworkError
        If the network cannot be stitched exactly.
    """
    geometry.require_safe()
    rules = rules or WindowRules()
    if len(window) != len(geometry.axes):
        raise PlanError(
            f"the training window {tuple(window)} has {len(window)} sizes, but the network has "
            f"{len(geometry.axes)} axes; give one size per axis"
        )
    window = tuple(window)
    places = _places(len(window), rules.neighbours)
    padded = any(axis.padded for axis in geometry.axes)
    if padded or len(places) > 1:
        _refuse_partial_periods(geometry, window, "pads" if padded else "is trained by neighbours")
    if not rules.allow_breaking and len(places) == 1 and (why := broken_rule(geometry, window)):
        raise PlanError(f"{why}, or allow_breaking_window: true to study what happens")
    inputs = tuple(_input_size(*pair) for pair in zip(geometry.axes, window, strict=True))
    outputs = tuple(
        axis.output_size(whole) for axis, whole in zip(geometry.axes, inputs, strict=True)
    )
    crops = tuple((whole - size) // 2 for whole, size in zip(outputs, window, strict=True))
    offsets = tuple(
        axis.output_offset + crop for axis, crop in zip(geometry.axes, crops, strict=True)
    )
    return TrainingWindow(window, inputs, offsets, crops, places, outputs)


def refuse_far_offsets(window: TrainingWindow, offsets: Sequence[Sequence[int]]) -> None:
    """Refuse offsets of affinities that lead out of every window of an example from all its voxels.

    Raises
    ------
    PlanError
        Naming the offset, the window and the nearest offset that can be learnt.
    """
    spans = {
        tuple((there - here) * size for here, there, size in zip(*pair, window.window, strict=True))
        for pair in itertools.product(window.places or ((0,) * len(window.window),), repeat=2)
    }
    for offset in offsets:
        fitting = [
            tuple(
                min(max(step, span - size + 1), span + size - 1)
                for step, span, size in zip(offset, each, window.window, strict=True)
            )
            for each in spans
        ]
        near = min(fitting, key=lambda each: (math.dist(each, offset), each))
        if near != tuple(offset):
            where = "window" if len(window.places) < 2 else f"{len(window.places)} windows"
            raise PlanError(
                f"the offset {tuple(offset)} of affinities leads out of the training {where} of "
                f"{_times(window.window)} voxels from everywhere, so nothing would learn it; the "
                f"largest that fits is {near}, or take a larger window"
            )


def broken_rule(geometry: NetworkGeometry, window: Sequence[int]) -> str | None:
    """Why embeddings trained on single windows of this size may break at a grid, and what to do."""
    period = tuple(axis.period for axis in geometry.axes)
    if any(axis.padded for axis in geometry.axes):
        least = len(period) + 1
        return (
            "the network pads its input (same padding), so what it learns depends on where single "
            f"windows are cut; give neighbours: {least} (or up to {2 ** len(period)}), by which "
            "examples are windows that directly neighbour each other, train it with padding: valid"
        )
    if any(size <= p for size, p in zip(window, period, strict=True)):
        least_window = tuple(max(size, p + 1) for size, p in zip(window, period, strict=True))
        return (
            f"the training window {tuple(window)} does not exceed the period {period} along every "
            "axis, so neighbouring tiles would not agree on embeddings; the nearest window that "
            f"would do is {least_window}"
        )
    return None


def _places(ndim: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Windows of one example: the first, its neighbour along each axis, then the others."""
    if count == 1:
        return ((0,) * ndim,)
    if not ndim + 1 <= count <= 2**ndim:
        raise PlanError(
            f"neighbours cannot be {count}: {ndim} axes need at least {ndim + 1} windows to have "
            f"a pair along each, and {2**ndim} fill the block; give a number from {ndim + 1} to "
            f"{2**ndim}"
        )
    cells = sorted(itertools.product((0, 1), repeat=ndim), key=lambda cell: (sum(cell), cell))
    return tuple(cells[:1] + cells[1 : ndim + 1][::-1] + cells[ndim + 1 :])[:count]


def _refuse_partial_periods(geometry: NetworkGeometry, window: tuple[int, ...], why: str) -> None:
    period = [axis.period for axis in geometry.axes]
    if all(size % p == 0 for size, p in zip(window, period, strict=True)):
        return
    below = tuple(max(p, size // p * p) for size, p in zip(window, period, strict=True))
    above = tuple(-(-size // p) * p for size, p in zip(window, period, strict=True))
    near = f"{below} or {above}" if below != above else f"{above}"
    raise PlanError(
        f"the training window {window} is not whole periods of {tuple(period)}, and the network "
        f"{why}, so the next window would lie off its lattice; the nearest that would do are {near}"
    )


def _input_size(axis: AxisGeometry, window: int) -> int:
    if not axis.input_step and (most := axis.output_size(axis.input_min)) < window:
        raise PlanError(
            f"the network takes inputs of {axis.input_min} voxels only, which give {most}, and the "
            f"training window has {window}; take a window of at most {most}"
        )
    return axis.covering(window)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
