"""One axis of a running network on the bench: what its elements respond to, measured.

Whole planes are changed at a time, perpendicular to the axis, so that one pass measures a cut for
all phases at once while the other axes stay as small as they can. Two kinds of experiment:

*Cuts.* All voxels before (or behind) a plane get other values. An element whose support begins at
``lo`` responds exactly when the cut lies above ``lo``. Everything outside a support is changed
together, so that no dependence can hide outside it, however far away.

*Windows.* Parts of one long input are run and compared with the pass over all of it: shifted by a
period, cut at either end, and of other valid sizes. What differs has been touched by a border, or
lies on another lattice.

(To mark voxels with NaN would need no other values, but some kernels drop it in maxima, and a
convolution may multiply it by the zeros of its own padding.)

Two runs differ where they differ by more than the rounding that was measured on the same inputs:
how far outputs move when every input value moves to a neighbouring number, and when nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stitchsafe.geometry._types import AxisGeometry, NetworkGeometry, OutputAxis

__all__ = ["Bench", "Refusal", "Run", "Sizes"]

Run = Callable[[NDArray[np.floating]], tuple[NDArray[np.floating], ...]]
"""One pass: (1, channels, *space) to one such array per output."""

Rows = list[NDArray[np.floating]]
"""Per output, (channels, other voxels, elements along the axis)."""

# Roundings in a deep network for each one that moving its input, or writing its output, shows.
MARGIN = 64
LEAST_OTHER = 8


class Refusal(Exception):  # noqa: N818
    """The network did not run at a size that it is said to take; the message is its own."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Inputs along the axis under test: `short` shows two periods untouched, `long` both ends."""

    axis: AxisGeometry
    short: int
    long: int | None

    @classmethod
    def of(cls, axis: AxisGeometry, outputs: Sequence[OutputAxis]) -> Sizes:
        before, after = axis.context
        for output in outputs:
            for index in period_of(output, axis.period, 0):
                if (reach := element(output, index)) is not None:
                    before = max(before, axis.output_offset - reach[0])
                    after = max(after, reach[1] - axis.output_offset - axis.period + 1)
        first = max(0, -((axis.output_offset - before) // axis.period))
        needed = axis.output_offset + (first + 2) * axis.period + after
        if axis.input_step == 0:
            return cls(axis, axis.input_min, None)
        short = next_valid(axis, needed)
        lattice = math.lcm(axis.period, axis.input_step)
        return cls(axis, short, short + lattice * -(-(max(before, after) + 1) // lattice))

    @property
    def longest(self) -> int:
        """The largest size that is run; of a network with but one size, never in one pass."""
        return self.short if self.long is None else self.long

    def periods(self, context: tuple[int, int], size: int | None = None) -> range:
        """Whole periods, counted from the output's origin, that a context leaves untouched."""
        axis, size = self.axis, self.short if size is None else size
        first = max(0, -((axis.output_offset - context[0]) // axis.period))
        return range(first, (size - context[1] - axis.output_offset) // axis.period)


def next_valid(axis: AxisGeometry, size: int) -> int:
    """The smallest valid size from `size` on; the only one where there is but one."""
    if axis.input_step == 0:
        return axis.input_min
    return axis.input_min + max(0, -((axis.input_min - size) // axis.input_step)) * axis.input_step


def space_of(geometry: NetworkGeometry, axis: int, size: int) -> tuple[int, ...]:
    """A shape over space: `size` along one axis, little along the others."""
    space = [next_valid(each, LEAST_OTHER) for each in geometry.axes]
    space[axis] = size
    return tuple(space)


def element(output: OutputAxis, index: int) -> tuple[int, int] | None:
    """Input voxels (first, last) that the trace says an element depends on."""
    q, phase = divmod(index, len(output.support))
    own, shift = output.support[phase], q * own_period(output)
    return None if own is None else (own[0] + shift, own[1] + shift)


def own_period(output: OutputAxis) -> int:
    return int(len(output.support) / output.scale)


def period_of(output: OutputAxis, period: int, place: int) -> range:
    """Elements of the period number `place`."""
    count = int(period * output.scale)
    return range(output.start + place * count, output.start + (place + 1) * count)


@dataclass(slots=True)
class _Stimulus:
    """An input, what it is changed to, and what rounding is on them."""

    base: NDArray[np.floating]
    changed: NDArray[np.floating]
    rows: Rows = field(default_factory=list)
    noise: Rows = field(default_factory=list)


class Bench:
    """One axis of a network, and the runs that were made of it.

    Parameters
    ----------
    run
        The network.
    geometry
        What was traced of it.
    axis
        Number of the axis.
    sizes
        Of inputs along it.
    positive
        Whether its weights are generic and positive, so that no dependence cancels: then nothing
        but a rise over a constant input is used, which no maximum can hide.
    thorough
        Whether what a cut leaves open is cut again: on another input, and in between.
    """

    def __init__(
        self,
        run: Run,
        geometry: NetworkGeometry,
        axis: int,
        sizes: Sizes,
        *,
        dtype: DTypeLike,
        positive: bool,
        thorough: bool,
        seed: int,
    ) -> None:
        self._run = run
        self.geometry, self.axis, self.sizes = geometry, axis, sizes
        self.outputs = [output.axes[axis] for output in geometry.outputs]
        self.passes = 0
        self._unsteady = True  # until two passes over the same input were the same
        self._dtype = np.dtype(dtype)
        self._rng = np.random.default_rng(seed)
        self._positive, self.thorough = positive, thorough
        # Planes of many voxels try many values at once.
        voxels = math.prod(self.shape(1)[2:])
        self._least = 1 if positive else max(1, min(3, 64 // voxels))
        self._most = max(2, self._least) if thorough else self._least
        self._stimuli: list[_Stimulus] = []
        self._seen: dict[tuple[bool, int], list[NDArray[np.bool_]]] = {}

    def shape(self, size: int) -> tuple[int, ...]:
        """Of an input: `size` along the axis, little along the others."""
        channels = sum(each.channels for each in self.geometry.inputs)
        return (1, channels, *space_of(self.geometry, self.axis, size))

    def rows(self, batch: NDArray[np.floating]) -> Rows:
        """One pass.

        Raises
        ------
        Refusal
            If the network does not take the size.
        """
        self.passes += 1
        try:
            outputs = self._run(np.ascontiguousarray(batch))
        except MemoryError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            if "memory" in text.lower():
                raise MemoryError(text) from error
            raise Refusal(f"{batch.shape[2:]}: {type(error).__name__}: {text[:200]}") from error
        return [
            np.moveaxis(each[0], self.axis + 1, -1).reshape(
                each.shape[1], -1, each.shape[self.axis + 2]
            )
            for each in outputs
        ]

    def random(self, size: int) -> NDArray[np.floating]:
        return self._rng.standard_normal(self.shape(size)).astype(self._dtype)

    def noise(self, batch: NDArray[np.floating], rows: Rows) -> Rows:
        """Per output and channel, the most that rounding does to the pass over `batch`."""
        towards = np.where(self._rng.random(batch.shape) < 0.5, -np.inf, np.inf)
        moved = self.rows(np.nextafter(batch, towards.astype(self._dtype)))
        again = self.rows(batch) if self._unsteady else rows
        found, self._unsteady = [], False
        for a, b, c in zip(rows, moved, again, strict=True):
            size = max(np.finfo(a.dtype).eps, np.finfo(self._dtype).eps) * _most(a)
            drift = _most(a - c)
            self._unsteady |= bool(drift.any())
            found.append(MARGIN * np.maximum(np.maximum(_most(a - b), drift), size))
        return found

    # cuts

    def enrich(self) -> bool:
        """Add an input to cut, and repeat on it the cuts that were made; whether there is one."""
        if len(self._stimuli) == self._most:
            return False
        stimulus = self._stimulus()
        stimulus.rows = self.rows(stimulus.base)
        stimulus.noise = self.noise(stimulus.base, stimulus.rows)
        whole = self.rows(stimulus.changed)
        if not self._positive:
            pairs = zip(stimulus.noise, self.noise(stimulus.changed, whole), strict=True)
            stimulus.noise = [np.maximum(a, b) for a, b in pairs]
        for before, count in list(self._seen):
            if count < self.sizes.short:
                self._cut(before, count, stimulus)
        self._note(True, self.sizes.short, stimulus, whole)
        self._note(False, self.sizes.short, stimulus, whole)
        self._stimuli.append(stimulus)
        return True

    def _stimulus(self) -> _Stimulus:
        shape = self.shape(self.sizes.short)
        if self._positive:
            # Over nothing, the least rise shows; over ones, a product with what rises does.
            level, rise = (1, 1) if self._stimuli else (0, 1000)
            base = np.full(shape, level, self._dtype)
            return _Stimulus(base, base + self._cast(rise * self._rng.uniform(0.5, 1, shape)))
        sign = self._rng.choice([-1.0, 1.0], shape)
        base = self.random(self.sizes.short)
        change = sign * 10 ** self._rng.uniform(-1, 1, shape)
        return _Stimulus(base, base + self._cast(change))

    def _cast(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        cast: NDArray[np.floating] = values.astype(self._dtype)
        return cast

    def _cut(self, before: bool, count: int, stimulus: _Stimulus) -> None:
        batch = stimulus.base.copy()
        part = slice(count) if before else slice(self.sizes.short - count, None)
        along, other = (np.moveaxis(x, self.axis + 2, 0) for x in (batch, stimulus.changed))
        along[part] = other[part]
        self._note(before, count, stimulus, self.rows(batch))

    def _note(self, before: bool, count: int, stimulus: _Stimulus, rows: Rows) -> None:
        found = [
            differing(a, b, noise)
            for a, b, noise in zip(rows, stimulus.rows, stimulus.noise, strict=True)
        ]
        known = self._seen.get((before, count))
        self._seen[before, count] = (
            found if known is None else [a | b for a, b in zip(found, known, strict=True)]
        )

    def respond(self, before: bool, count: int) -> list[NDArray[np.bool_]]:
        """Per output, which elements respond when `count` planes at one end change."""
        while len(self._stimuli) < self._least:
            self.enrich()
        if (before, count) not in self._seen:
            for stimulus in self._stimuli:
                self._cut(before, count, stimulus)
        return self._seen[before, count]

    def seen(self, before: bool) -> list[tuple[int, list[NDArray[np.bool_]]]]:
        """What has responded to the cuts at one end that were made."""
        return [(count, rows) for (side, count), rows in self._seen.items() if side == before]


def _most(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Largest size per channel."""
    finite = np.where(np.isfinite(values), np.abs(values), 0)
    most: NDArray[np.floating] = finite.max(axis=(1, 2), keepdims=True, initial=0)
    return most


def differing(
    a: NDArray[np.floating], b: NDArray[np.floating], noise: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Which elements along the axis differ by more than rounding in any channel and place."""
    with np.errstate(invalid="ignore"):
        same = (np.abs(a - b) <= noise) | (a == b) | (np.isnan(a) & np.isnan(b))
    return ~np.asarray(same.all(axis=(0, 1)))
