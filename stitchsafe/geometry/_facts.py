"""One axis of a network at one size of its input, and what several sizes say together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from stitchsafe.geometry._axis import AxisMap
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._types import AxisGeometry, OutputAxis

__all__ = ["Fact", "Solution", "facts_of", "solution"]

Solution = tuple[AxisGeometry, tuple[OutputAxis, ...]]


@dataclass(frozen=True)
class Fact:
    """One axis of one trace: the maps of all outputs."""

    maps: tuple[AxisMap, ...]
    input_size: int
    program: str
    operators: str

    @property
    def period(self) -> int:
        return math.lcm(*(each.period for each in self.maps))

    @property
    def lattice(self) -> tuple[object, ...]:
        """What must be the same for every size."""
        return tuple(
            (each.period, each.support, shrinkage)
            for each, shrinkage in zip(self.maps, self.shrinkages, strict=True)
        )

    @property
    def key(self) -> tuple[object, ...]:
        return self.lattice, self.program

    @property
    def lossy(self) -> bool:
        """Whether trailing elements are left out somewhere."""
        return any(each.lossy for each in self.maps)

    @property
    def shrinkages(self) -> tuple[Fraction, ...]:
        return tuple(self.input_size - each.size / each.rate for each in self.maps)

    @property
    def offset(self) -> int:
        """The first voxel that all outputs answer for."""
        return max(math.floor(each / 2) for each in self.shrinkages)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each output begins, whole elements before `offset`."""
        found = []
        for each, shrinkage in zip(self.maps, self.shrinkages, strict=True):
            lead = self.offset - math.floor(shrinkage / 2)
            while (lead * each.rate).denominator > 1:
                lead += 1
            found.append(self.offset - lead)
        return tuple(found)

    @property
    def starts(self) -> tuple[int, ...]:
        return tuple(
            int((self.offset - own) * each.rate)
            for own, each in zip(self.offsets, self.maps, strict=True)
        )

    @property
    def shrinkage(self) -> int:
        """Input size less the voxels that all outputs answer for."""
        pairs = zip(self.shrinkages, self.offsets, strict=True)
        return self.offset + max(math.ceil(shrinkage - own) for shrinkage, own in pairs)

    @property
    def contexts(self) -> tuple[tuple[int, int], ...]:
        """Margins around whole periods that supports and touched ends of each output ask for."""
        return tuple(
            self._context(each.extend(self.period), start)
            for each, start in zip(self.maps, self.starts, strict=True)
        )

    @property
    def context(self) -> tuple[int, int]:
        return max(c[0] for c in self.contexts), max(c[1] for c in self.contexts)

    def _context(self, own: AxisMap, start: int) -> tuple[int, int]:
        n, period, offset = len(own.support), own.period, self.offset
        touched, clean = -((start - own.before) // n), (own.clean - start) // n
        before = offset + (touched - 1) * period + 1
        after = self.input_size - offset - (clean + 1) * period + 1
        for index in range(start, start + n):
            reach = own.element(index)
            if reach is not None:
                before = max(before, offset - reach[0])
                after = max(after, reach[1] - (offset + period - 1))
        return max(0, before), max(0, after)


def facts_of(graph: Graph) -> tuple[Fact, ...] | None:
    """One per axis; None where an output has no map, or nothing comes out.

    Raises
    ------
    LatticeMismatch
        If tensors on different lattices meet.
    """
    outputs = [each for each in graph.facts() if each is not None]
    if not outputs or len(outputs) < len(graph.outputs):
        return None
    if any(each.size < 1 for maps in outputs for each in maps):
        return None  # at this size nothing comes out
    program, operators = graph.program, graph.operators
    return tuple(
        Fact(maps, size, program, operators)
        for maps, size in zip(zip(*outputs, strict=True), graph.space, strict=True)
    )


def solution(facts: list[Fact], step: int, least: int) -> Solution:
    """One axis, from what it is at all residues of the valid sizes."""
    fact = facts[0]
    own = tuple(
        OutputAxis(
            scale=each.rate,
            offset=offset,
            start=start,
            shrinkage=shrinkage,
            context=_widest([other.contexts[place] for other in facts]),
            receptive_field=max((hi - lo + 1 for lo, hi in filter(None, each.support)), default=0),
            support=each.support,
        )
        for place, (each, offset, start, shrinkage) in enumerate(
            zip(fact.maps, fact.offsets, fact.starts, fact.shrinkages, strict=True)
        )
    )
    axis = AxisGeometry(
        period=fact.period,
        context=_widest([output.context for output in own]),
        receptive_field=max(output.receptive_field for output in own),
        input_min=least,
        input_step=step,
        output_offset=fact.offset,
        shrinkage=fact.shrinkage,
        padded=any(each.touched for each in fact.maps),
    )
    return axis, own


def _widest(contexts: list[tuple[int, int]]) -> tuple[int, int]:
    return max(before for before, _ in contexts), max(after for _, after in contexts)
