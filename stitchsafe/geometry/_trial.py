"""One axis measured on the bench, and every fact of it compared with the trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry._bench import Bench, Rows, differing, own_period, period_of
from stitchsafe.geometry._cuts import Cuts, Support
from stitchsafe.geometry._measured import MeasuredAxis, MeasuredOutput
from stitchsafe.geometry._placement import Placement
from stitchsafe.geometry._types import AxisGeometry, OutputAxis

__all__ = ["Trial"]

MOST_SIZES = 3


@dataclass(frozen=True, slots=True)
class _Reference:
    """The pass that windows are compared with."""

    batch: NDArray[Any]
    size: int
    rows: Rows
    noise: Rows


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
        cuts = Cuts(self.bench, self.letter, self.names, self._contradict, self.wider)
        found = []
        for own, name, offset, support, ends in zip(
            self.bench.outputs, self.names, offsets, cuts.measure(), touched, strict=True
        ):
            field_ = max((hi - lo + 1 for lo, hi in filter(None, support)), default=0)
            context = self._context(own, support, ends, own.size(size))
            output = MeasuredOutput(name, own.scale, offset, context, field_, support, ends)
            self._compare(own, output)
            found.append(output)
        context = max(o.context[0] for o in found), max(o.context[1] for o in found)
        joint = MeasuredAxis(
            self.letter, size, self.bench.passes, period, context,
            max(o.receptive_field for o in found), max(0, *offsets), tuple(found),
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

    def _within(
        self, output: str, fact: str, found: Any, traced: Any, how: str = "measured"
    ) -> None:
        if np.greater(found, traced).any():
            self._contradict(output, f"{fact} {how} {found}, traced {traced}")

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
        outputs, axis = self.bench.outputs, self.axis
        # At all residues of the valid sizes; those that are run must be as large as traced.
        short, step = self.bench.sizes.short, axis.input_step
        sizes = range(short, short + (axis.period if step else 1), step or 1)
        # Sizes that leave out voxels, which is more, move no output.
        taken = [
            max(
                n - own.size(n) / own.scale for n in sizes if own.surplus[n % len(own.surplus)] >= 0
            )
            for own in outputs
        ]
        placed = Placement.of([own.scale for own in outputs], taken)
        for own, name, offset, start in zip(
            outputs, self.names, placed.offsets, placed.starts, strict=True
        ):
            if (own.offset, own.start) != (offset, start):
                self._contradict(
                    name,
                    f"output offset measured {offset}, {start} elements before the others' "
                    f"{placed.offset}; traced {own.offset}, {own.start} elements before",
                )
        if axis.output_offset != placed.offset:
            self._contradict(
                "all outputs",
                f"output offset measured {placed.offset}, traced {axis.output_offset}",
            )
        answered = placed.shrinkage(taken)
        if axis.shrinkage != answered:
            self._contradict(
                "all outputs", f"shrinkage measured {answered}, traced {axis.shrinkage}"
            )
        return list(placed.offsets) if len(self.contradictions) == before else None

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

    # context

    def _context(
        self, own: OutputAxis, support: Support, touched: tuple[int, int], size: int
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
        reach = max((hi - lo + 1 for lo, hi in filter(None, own.support)), default=0)
        context, how = self._context(own, own.support, (0, 0), 0), "that its supports ask for"
        self._within(found.name, "context", context, own.context, how)
        self._within(found.name, "receptive field", reach, own.receptive_field, how)
        self._within("all outputs", "context", own.context, self.axis.context, "of an output")
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
