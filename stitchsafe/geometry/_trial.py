"""One axis measured on the bench, and every fact of it compared with the trace."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry._bench import Bench, Rows, differing, element, own_period, period_of
from stitchsafe.geometry._types import AxisGeometry, OutputAxis

__all__ = ["MeasuredAxis", "MeasuredOutput", "Trial"]

MOST_SIZES = 3


@dataclass(frozen=True, slots=True)
class MeasuredOutput:
    """What was seen of one output along one axis, in the terms of `OutputAxis`.

    Parameters
    ----------
    name
        Of the output.
    scale, offset, context, receptive_field, support
        As in the trace; a phase that was not seen to respond has no support.
    touched
        Elements (at the beginning, at the end) that an end of the input changes.
    """

    name: str
    scale: Fraction
    offset: int
    context: tuple[int, int]
    receptive_field: int
    support: tuple[tuple[int, int] | None, ...]
    touched: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MeasuredAxis:
    """What was seen along one axis.

    Parameters
    ----------
    axis
        Its letter.
    input_size
        Of the inputs that were used.
    passes
        How often the network ran.
    period
        The least shift under which nothing changed; None where none was found.
    context, receptive_field, output_offset
        The largest of all outputs.
    outputs
        One each.
    """

    axis: str
    input_size: int
    passes: int
    period: int | None
    context: tuple[int, int]
    receptive_field: int
    output_offset: int
    outputs: tuple[MeasuredOutput, ...]


@dataclass(frozen=True, slots=True)
class _Reference:
    """The pass that windows are compared with."""

    batch: NDArray[Any]
    size: int
    rows: Rows
    noise: Rows


_Support = tuple[tuple[int, int] | None, ...]


@dataclass(slots=True)
class Trial:
    """One axis measured and compared; collects where the two differ."""

    bench: Bench
    letter: str
    names: list[str]
    contradictions: list[str] = field(default_factory=list)
    wider: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def axis(self) -> AxisGeometry:
        return self.bench.sizes.axis

    def measure(self) -> MeasuredAxis | None:
        """All facts of the axis; None where sizes or offsets are not even as traced."""
        if not self._whole_elements():
            return None
        reference = self._reference()
        offsets = None if reference is None else self._offsets()
        if reference is None or offsets is None:
            return None
        touched = self._ends(reference)
        period = self._period(reference)
        self._other_sizes(reference)
        size = self.bench.sizes.short
        found = []
        for own, name, offset, support, ends in zip(
            self.bench.outputs, self.names, offsets, self._supports(), touched, strict=True
        ):
            field_ = max((hi - lo + 1 for lo, hi in filter(None, support)), default=0)
            context = self._context(own, support, ends, own.size(size))
            output = MeasuredOutput(name, own.scale, offset, context, field_, support, ends)
            self._compare(own, output)
            found.append(output)
        context = max(o.context[0] for o in found), max(o.context[1] for o in found)
        joint = MeasuredAxis(
            self.letter, size, self.bench.passes, period, context,
            max(o.receptive_field for o in found), max(offsets), tuple(found),
        )  # fmt: skip
        self._within("all outputs", "context", context, self.axis.context)
        self._within(
            "all outputs", "receptive field", joint.receptive_field, self.axis.receptive_field
        )
        return joint

    def _contradict(self, output: str, what: str) -> None:
        text = f"along {self.letter}, {output}: {what}"
        if text not in self.contradictions:
            self.contradictions.append(text)

    def _within(self, output: str, fact: str, measured: Any, traced: Any) -> None:
        above = np.greater(measured, traced)
        if above.any():
            self._contradict(output, f"{fact} measured {measured}, traced {traced}")

    # sizes

    def _whole_elements(self) -> bool:
        """Whether a period is a whole number of each output's elements and own periods."""
        right = True
        for own, name in zip(self.bench.outputs, self.names, strict=True):
            count = self.axis.period * own.scale
            if count.denominator > 1 or not own.support or count % len(own.support):
                right = False
                self._contradict(
                    name,
                    f"a period of {self.axis.period} voxels, with {own.scale} elements for each, "
                    f"is no whole number of its {len(own.support)} phases",
                )
        return right

    def _sized(self, rows: Rows, size: int) -> bool:
        """Whether the outputs of a pass are as large as traced."""
        outputs = self.bench.outputs
        if len(rows) != len(outputs):
            self._contradict(
                "the network", f"gives {len(rows)} outputs, and {len(outputs)} were traced"
            )
            return False
        right = True
        for own, name, row in zip(outputs, self.names, rows, strict=True):
            if row.shape[-1] != own.size(size):
                right = False
                self._contradict(
                    name,
                    f"an input of {size} voxels gives {row.shape[-1]} elements, and "
                    f"{own.size(size)} were traced (scale {own.scale}, shrinkage {own.shrinkage})",
                )
        return right

    def _reference(self) -> _Reference | None:
        bench, sizes = self.bench, self.bench.sizes
        least = bench.random(self.axis.input_min)
        if not self._sized(bench.rows(least), self.axis.input_min):
            return None
        size = sizes.long or sizes.short
        batch = bench.random(sizes.long or sizes.short + self.axis.period)
        part = self._part(batch, 0, size)
        rows = bench.rows(part)
        if not self._sized(rows, size):
            return None
        for name, row in zip(self.names, rows, strict=True):
            if not np.isfinite(row).any():
                self.skipped.append(f"along {self.letter}, {name}: gives no finite numbers")
        return _Reference(batch, size, rows, bench.noise(part, rows))

    def _part(self, batch: NDArray[Any], begin: int, size: int) -> NDArray[Any]:
        return np.moveaxis(
            np.moveaxis(batch, self.bench.axis + 2, 0)[begin : begin + size],
            0,
            self.bench.axis + 2,
        )

    def _offsets(self) -> list[int] | None:
        """Where outputs begin by what they take off; None if the trace says otherwise."""
        before = len(self.contradictions)
        outputs, size = self.bench.outputs, self.bench.sizes.short
        taken = [Fraction(size) - own.size(size) / own.scale for own in outputs]
        joint = max(math.floor(each / 2) for each in taken)
        found = []
        for own, name, each in zip(outputs, self.names, taken, strict=True):
            lead = joint - math.floor(each / 2)
            while (lead * own.scale).denominator > 1:
                lead += 1
            found.append(joint - lead)
            if (own.offset, own.start) != (found[-1], int(lead * own.scale)):
                self._contradict(
                    name,
                    f"output offset measured {found[-1]}, {int(lead * own.scale)} elements before "
                    f"the others' {joint}; traced {own.offset}, {own.start} elements before",
                )
        if self.axis.output_offset != joint:
            self._contradict(
                "all outputs", f"output offset measured {joint}, traced {self.axis.output_offset}"
            )
        answered = joint + max(math.ceil(t - o) for t, o in zip(taken, found, strict=True))
        if self.axis.shrinkage != answered:
            self._contradict(
                "all outputs", f"shrinkage measured {answered}, traced {self.axis.shrinkage}"
            )
        return found if len(self.contradictions) == before else None

    # windows

    def _window(
        self, reference: _Reference, begin: int, size: int, what: str, *, claim: bool = True
    ) -> list[NDArray[np.bool_]] | None:
        """Per output, which elements of a window differ from those of the whole.

        With `claim`, a difference where the trace says that there is none is a contradiction.
        """
        rows = self.bench.rows(self._part(reference.batch, begin, size))
        if not self._sized(rows, size):
            return None
        found = []
        for place, (own, name) in enumerate(zip(self.bench.outputs, self.names, strict=True)):
            a, whole, noise = rows[place], reference.rows[place], reference.noise[place]
            shift = int(begin * own.scale)
            count = min(a.shape[-1], whole.shape[-1] - shift)
            differs = np.zeros(a.shape[-1], bool)
            differs[:count] = differing(a[..., :count], whole[..., shift : shift + count], noise)
            found.append(differs)
            low, high = self._untouched(own, begin, size, reference.size, shift)
            wrong = np.flatnonzero(differs[low:high])
            if claim and wrong.size:
                index = low + int(wrong[0])
                gap = np.abs(a[..., index] - whole[..., index + shift]) / np.maximum(
                    noise[..., 0], np.finfo(noise.dtype).tiny
                )
                self._contradict(
                    name,
                    f"{what}, {wrong.size} of {high - low} elements that the trace calls the same "
                    f"differ, up to {float(np.nanmax(gap)):.2g} times what rounding does",
                )
        return found

    def _untouched(
        self, own: OutputAxis, begin: int, size: int, whole: int, shift: int
    ) -> tuple[int, int]:
        """Elements of a window that no end of it or of the whole touches unless they share it."""
        sizes, period = self.bench.sizes, self.axis.period
        mine, other = sizes.periods(own.context, size), sizes.periods(own.context, whole)
        low = high = 0
        if begin > 0:
            low = max(
                period_of(own, period, mine.start).start,
                period_of(own, period, other.start).start - shift,
            )
        if begin + size == whole:
            high = own.size(size)
        else:
            high = min(
                period_of(own, period, mine.stop).start,
                period_of(own, period, other.stop).start - shift,
            )
        return max(0, low), max(0, low, high)

    def _ends(self, reference: _Reference) -> list[tuple[int, int]]:
        """How far the ends of an input are felt; a true border must be felt alike."""
        short, none = self.bench.sizes.short, [(0, 0)] * len(self.names)
        if reference.size == short:
            return none
        what = "between an input and a longer one that goes on"
        left = self._window(reference, reference.size - short, short, f"{what} before it")
        right = self._window(reference, 0, short, f"{what} behind it")
        if left is None or right is None:
            return none
        return [
            (
                int(np.flatnonzero(a)[-1]) + 1 if a.any() else 0,
                len(b) - int(np.flatnonzero(b)[0]) if b.any() else 0,
            )
            for a, b in zip(left, right, strict=True)
        ]

    def _period(self, reference: _Reference) -> int | None:
        """The least divisor of the traced period that is one; contradicts if that is none."""
        period, short = self.axis.period, self.bench.sizes.short
        before = len(self.contradictions)
        self._window(
            reference, period, short, f"between an input and one that begins {period} voxels later"
        )
        if len(self.contradictions) > before:
            return None
        if reference.size == short:
            return period
        candidates = _prime_factors(period)
        while candidates:
            smaller = period // candidates.pop()
            if self._repeats(reference, smaller):
                period, candidates = smaller, _prime_factors(smaller)
        return period

    def _repeats(self, reference: _Reference, shift: int) -> bool:
        outputs = self.bench.outputs
        if any((own.scale * shift).denominator > 1 for own in outputs):
            return False
        short = self.bench.sizes.short
        differs = self._window(reference, shift, short, "", claim=False)
        return differs is not None and not any(
            each[slice(*self._untouched(own, shift, short, reference.size, int(shift * own.scale)))]
            .any()
            for own, each in zip(outputs, differs, strict=True)
        )  # fmt: skip

    def _other_sizes(self, reference: _Reference) -> None:
        axis, short = self.axis, self.bench.sizes.short
        if axis.input_step == 0:
            return
        for count in range(1, min(MOST_SIZES, -(-axis.period // axis.input_step) - 1) + 1):
            size = short + count * axis.input_step
            if size < reference.size:
                what = f"between an input of {size} voxels and one of {reference.size}"
                self._window(reference, 0, size, what)

    # supports

    def _supports(self) -> list[_Support]:
        sides = self._side(before=True), self._side(before=False)
        found = []
        for own, first, last in zip(self.bench.outputs, *sides, strict=True):
            n, period = len(own.support), own_period(own)
            rows: list[tuple[int, int] | None] = []
            for phase in range(n):
                lo = [v - i // n * period for i, v in first.items() if i % n == phase]
                hi = [v - i // n * period for i, v in last.items() if i % n == phase]
                rows.append((min(lo), max(hi)) if lo and hi and min(lo) <= max(hi) else None)
            found.append(tuple(rows))
        return found

    def _side(self, *, before: bool) -> list[dict[int, int]]:
        """Per output, the outermost voxel that each element of one period responds to."""
        size, period = self.bench.sizes.short, self.axis.period
        places = self.bench.sizes.periods(self.axis.context)
        place = places[-1] if before else places[0]
        goals: dict[tuple[int, int], int | None] = {}
        for number, own in enumerate(self.bench.outputs):
            for index in period_of(own, period, place):
                reach = element(own, index)
                goals[number, index] = (
                    None if reach is None else reach[0] if before else size - 1 - reach[1]
                )
        depths = {depth for depth in goals.values() if depth is not None}
        for count in sorted({d + more for d in depths for more in (0, 1)}):
            if 0 < count <= size:
                self.bench.respond(before, count)
        self._refine(goals, place, before)
        found: list[dict[int, int]] = [{} for _ in self.bench.outputs]
        for (number, index), depth in goals.items():
            _, seen = self._bounds(number, index, place, before)
            if seen is not None:
                found[number][index] = seen - 1 if before else size - seen
            self._judge(number, index, place, depth, seen, before)
        return found

    def _refine(self, goals: dict[tuple[int, int], int | None], place: int, before: bool) -> None:
        """Halve what is open between a cut without and one with a response."""
        if not self.bench.thorough:
            return
        for _ in range(2 * self.bench.sizes.short.bit_length()):
            for (number, index), depth in goals.items():
                quiet, seen = self._bounds(number, index, place, before)
                if (seen is None and depth is not None) or (seen is not None and seen - quiet > 1):
                    if self.bench.enrich():
                        break
                    if seen is not None:
                        self.bench.respond(before, (quiet + seen) // 2)
                        break
            else:
                return

    def _bounds(self, number: int, index: int, place: int, before: bool) -> tuple[int, int | None]:
        """The largest cut without, and the least one with, a response: of the element or a copy."""
        own, period = self.bench.outputs[number], self.axis.period
        step = int(period * own.scale)
        seen: list[int] = []
        quiet = [0]
        for count, rows in self.bench.seen(before):
            for copy in self.bench.sizes.periods(self.axis.context):
                away = copy - place
                cut = count - away * period if before else count + away * period
                (seen if rows[number][index + away * step] else quiet).append(cut)
        least = min(seen, default=None)
        return max(q for q in quiet if least is None or q < least or q == 0), least

    def _judge(
        self, number: int, index: int, place: int, depth: int | None, seen: int | None, before: bool
    ) -> None:
        own, size = self.bench.outputs[number], self.bench.sizes.short
        phase = index - period_of(own, self.axis.period, place).start
        what = f"phase {phase} responds to"
        end = "first" if before else "last"

        def voxel(cut: int) -> int:
            origin = self.axis.output_offset + place * self.axis.period
            return (cut - 1 if before else size - cut) - origin

        if depth is None:
            if seen is not None:
                self._contradict(
                    self.names[number], f"{what} the input, and nothing was traced for it"
                )
        elif seen is not None and seen <= depth:
            self._contradict(
                self.names[number],
                f"{what} voxel {voxel(seen):+d} of its period, and the {end} that was traced is "
                f"{voxel(depth + 1):+d}",
            )
        elif seen is None or seen > depth + 1:
            shown = "nothing" if seen is None else f"voxel {voxel(seen):+d}"
            self.wider.append(
                f"along {self.letter}, {self.names[number]}: phase {phase} responds at most to "
                f"{shown}, and the {end} that was traced is {voxel(depth + 1):+d}"
            )

    # context

    def _context(
        self, own: OutputAxis, support: _Support, touched: tuple[int, int], size: int
    ) -> tuple[int, int]:
        """The margin around whole periods that was seen to matter."""
        axis, before, after = self.axis, 0, 0
        offset, period, step = axis.output_offset, axis.period, int(axis.period * own.scale)
        if touched[0] > own.start:
            before = offset + (-((own.start - touched[0]) // step) - 1) * period + 1
        if touched[1]:
            clean = (size - touched[1] - own.start) // step
            after = self.bench.sizes.short - offset - (clean + 1) * period + 1
        n = len(own.support)
        for index in range(own.start, own.start + step):
            if (reach := support[index % n]) is not None:
                shift = index // n * own_period(own)
                before = max(before, offset - reach[0] - shift)
                after = max(after, reach[1] + shift - (offset + period - 1))
        return max(0, before), max(0, after)

    def _compare(self, own: OutputAxis, found: MeasuredOutput) -> None:
        self._within(found.name, "context", found.context, own.context)
        self._within(found.name, "receptive field", found.receptive_field, own.receptive_field)
        if found.receptive_field < own.receptive_field:
            self.wider.append(
                f"along {self.letter}, {found.name}: receptive field measured "
                f"{found.receptive_field}, traced {own.receptive_field}"
            )


def _prime_factors(number: int) -> list[int]:
    found, factor = [], 2
    while number > 1:
        if number % factor == 0:
            found.append(factor)
            while number % factor == 0:
                number //= factor
        factor += 1
    return found
