"""The supports of all phases along one axis, found by cuts, and compared with the trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stitchsafe.geometry._bench import Bench, element, own_period, period_of
from stitchsafe.geometry._types import AxisGeometry

__all__ = ["Cuts", "Support"]

Support = tuple[tuple[int, int] | None, ...]
"""Per phase, the first and last voxel that an element responds to."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """Measures supports; tells `contradict` and `wider` where they differ from the trace."""

    bench: Bench
    letter: str
    names: list[str]
    contradict: Callable[[str, str], None]
    wider: list[str]

    @property
    def axis(self) -> AxisGeometry:
        return self.bench.sizes.axis

    def measure(self) -> list[Support]:
        """Per output, what each phase was seen to respond to."""
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
                self.contradict(
                    self.names[number], f"{what} the input, and nothing was traced for it"
                )
        elif seen is not None and seen <= depth:
            self.contradict(
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
