"""One axis of a network at one size of its input, and what several sizes say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from stitchsafe.geometry._axis import AxisMap
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._placement import Placement
from stitchsafe.geometry._types import AxisGeometry, OutputAxis

__all__ = ["Fact", "Solution", "facts_of", "solution", "widest", "without_losses"]

N = TypeVar("N", int, Fraction)

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
    def key(self) -> tuple[object, ...]:
        """What must be the same for every size."""
        return tuple((each.period, each.support) for each in self.maps), self.program

    @property
    def lossy(self) -> bool:
        """Whether trailing voxels of the input are left out, and have no element either."""
        return any(each.lossy for each in self.maps) and any(s > 0 for s in self.shrinkages)

    @property
    def rates(self) -> tuple[Fraction, ...]:
        return tuple(each.rate for each in self.maps)

    @property
    def shrinkages(self) -> tuple[Fraction, ...]:
        return tuple(self.input_size - each.size / each.rate for each in self.maps)

    @property
    def residue(self) -> int:
        return self.input_size % self.period

    def room(self, step: int) -> int:
        """How many steps shorter the input may be before nothing is left of an output."""
        return min(int((each.size - 1) / (each.rate * step)) for each in self.maps)

    def joins(self, other: Fact, *, lossy: bool = False) -> bool:
        """Whether the network does the same at this size as at the other.

        The output may be some elements longer or shorter, where neither size leaves out any voxel
        (or that does not matter: `lossy`).
        """
        if self.key != other.key:
            return False
        if self.residue == other.residue or (not lossy and (self.lossy or other.lossy)):
            return self.shrinkages == other.shrinkages
        return True

    def contexts(self, offset: int, starts: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Margins around whole periods that supports and touched ends of each output ask for."""
        return tuple(
            self._context(each.extend(self.period), offset, start)
            for each, start in zip(self.maps, starts, strict=True)
        )

    def _context(self, own: AxisMap, offset: int, start: int) -> tuple[int, int]:
        n, period = len(own.support), own.period
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


def without_losses(facts: Sequence[Fact]) -> int:
    """Every how many sizes of one family to take, so that none leaves out any voxel.

    All of them where that would take too few: then sizes whose outputs cover the input would be
    missed. Which of them a volume needs is found by what they cover.
    """
    whole = {place for place, fact in enumerate(facts) if not fact.lossy}
    fitting = (
        every
        for every in range(1, len(facts) + 1)
        if len(facts) % every == 0 and set(range(0, len(facts), every)) == whole
    )
    return next(fitting, 1)


def solution(facts: list[Fact], step: int, least: int) -> Solution:
    """One axis, from what it is at all residues of the valid sizes."""
    fact = facts[0]
    whole = [other for other in facts if not other.lossy] or facts
    most = [max(each) for each in zip(*(other.shrinkages for other in whole), strict=True)]
    placed = Placement.of(fact.rates, most)
    contexts = [other.contexts(placed.offset, placed.starts) for other in facts]
    shrinkage = placed.shrinkage(most)
    own = tuple(
        OutputAxis(
            scale=each.rate,
            offset=placed.offsets[place],
            start=placed.starts[place],
            shrinkage=most[place],
            context=widest([found[place] for found in contexts]),
            receptive_field=max((hi - lo + 1 for lo, hi in filter(None, each.support)), default=0),
            support=each.support,
            surplus=_by_residue(facts, [most[place] - o.shrinkages[place] for o in facts]),
        )
        for place, each in enumerate(fact.maps)
    )
    axis = AxisGeometry(
        period=fact.period,
        context=widest([output.context for output in own]),
        receptive_field=max(output.receptive_field for output in own),
        input_min=least,
        input_step=step,
        output_offset=placed.offset,
        shrinkage=shrinkage,
        padded=any(each.touched for other in facts for each in other.maps),
        surplus=_by_residue(facts, [shrinkage - placed.shrinkage(o.shrinkages) for o in facts]),
    )
    return axis, own


def _by_residue(facts: list[Fact], values: Sequence[N]) -> tuple[N, ...]:
    """Values of some sizes, by the size modulo the period."""
    if len(set(values)) == 1:
        return (values[0],)
    found = {fact.residue: value for fact, value in zip(facts, values, strict=True)}
    return tuple(found.get(residue, values[0]) for residue in range(facts[0].period))


def widest(contexts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The largest margins of all."""
    return max(before for before, _ in contexts), max(after for _, after in contexts)
