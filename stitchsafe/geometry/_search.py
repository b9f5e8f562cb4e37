"""Traces at several sizes, and the first size at which a network runs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from stitchsafe.geometry._axis import LatticeMismatch
from stitchsafe.geometry._facts import Fact, facts_of
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._types import Break
from stitchsafe.geometry._windows import Drift, SizeRefusal

__all__ = ["MOST_RESIDUES", "Search", "moved"]

Refusal = SizeRefusal | LatticeMismatch

BASES = (576, 1152, 320, 243, 96, 128, 224, 256, 512, 64)
LEAPS = 4
"""By the period of what ran, before what stopped the network is taken for something else."""
MOST_RESIDUES = 128
FEWEST_RESIDUES = 32
"""Tried even where operators ask for fewer, as a network may refuse sizes of its own will."""
DRIFTS = 8
"""Residues that are tried where resizes drift."""
MOST_COMBINATIONS = 216


def moved(shape: tuple[int, ...], offsets: dict[int, int]) -> tuple[int, ...]:
    """A shape that is larger by some offsets along some axes."""
    return tuple(size + offsets.get(axis, 0) for axis, size in enumerate(shape))


class Search:
    """Traces by shape, each once.

    Parameters
    ----------
    run
        Traces the network at one shape.
    fixed
        Per axis, the only size that the network takes, or None.
    """

    def __init__(
        self, run: Callable[[tuple[int, ...]], Graph], fixed: Sequence[int | None]
    ) -> None:
        self._run = run
        self._known: dict[tuple[int, ...], tuple[Fact, ...] | None] = {}
        self.fixed = tuple(fixed)
        self.graph: Graph | None = None
        self.refusals: list[Refusal] = []
        self._period = self._last_period = 1

    @property
    def free(self) -> list[int]:
        """Axes whose size may be chosen."""
        return [axis for axis, size in enumerate(self.fixed) if size is None]

    @property
    def refusal(self) -> Refusal | None:
        """What the network said when it first refused a size."""
        return self.refusals[0] if self.refusals else None

    def at(self, shape: tuple[int, ...]) -> tuple[Fact, ...] | None:
        """The facts at one shape; None where the network refuses it, or shows no lattice."""
        if shape not in self._known:
            self._known[shape] = None
            periods: tuple[int, ...] = ()
            try:
                graph = self._run(shape)
                self.graph, periods = self.graph or graph, graph.periods
                self._known[shape] = facts_of(graph)
            except (SizeRefusal, LatticeMismatch) as error:
                self.refusals.append(error)
                periods = getattr(error, "periods", periods)
            # After how many voxels the outcome repeats, as far as that is known.
            self._last_period = math.lcm(*periods)
            self._period = min(math.lcm(self._period, *periods), MOST_RESIDUES)
        return self._known[shape]

    def first(self) -> tuple[int, ...] | None:
        """The first shape with facts, of those that are tried.

        A size that is refused stands for all that are the same modulo the period of what ran until
        then; once all of these were tried, no other of equal axes is.
        """
        if not self.free:
            return self._found(())
        for base in self._bases():
            if found := self._found([base] * len(self.free)):
                return found
            if self.graph is not None and self.graph.breaks:
                return None
        for residue in range(1, MOST_RESIDUES):
            if residue >= max(FEWEST_RESIDUES, self._period):
                break
            if residue > DRIFTS and self.drift is not None:
                return None
            if found := self._found([BASES[0] + residue] * len(self.free)):
                return found
        # Axes with different factors may have no size in common: each then needs its own residue.
        period = max(FEWEST_RESIDUES, self._period)
        for offsets in itertools.islice(_offsets(len(self.free), period), MOST_COMBINATIONS):
            if found := self._found([BASES[0] + offset for offset in offsets]):
                return found
        return None

    def _bases(self) -> Iterator[int]:
        """Sizes to try first, each once it is known what ran at those before.

        A network may ask each of its levels for whole windows, and so take one residue of many.
        What ran at a size until it was refused has the period of the levels that it is right for,
        and leaps by that period keep it so.
        """
        base, *further = BASES
        yield base
        period = self._last_period
        leaps = 0
        while leaps < LEAPS:
            leaps += 1
            yield base + leaps * period
            if period < self._last_period <= MOST_RESIDUES:
                base, period, leaps = base + leaps * period, self._last_period, 0
        yield from further

    def _found(self, sizes: Sequence[int]) -> tuple[int, ...] | None:
        left = iter(sizes)
        shape = tuple(next(left) if size is None else size for size in self.fixed)
        return None if self.at(shape) is None else shape

    @property
    def drift(self) -> Break | None:
        """The resize that has no whole factor at most of the first sizes, if one has."""
        first = self.refusals[: len(BASES)]
        drifts = [each for each in first if isinstance(each, Drift)]
        if not drifts or self.graph is not None or 2 * len(drifts) <= len(first):
            return None
        (layer, op), _ = Counter((each.layer, each.op) for each in drifts).most_common(1)[0]
        own = [each for each in drifts if (each.layer, each.op) == (layer, op)]
        factor, times = Counter(each.factor for each in own).most_common(1)[0]
        if 2 * times > len(first):
            return Break(
                layer, op, f"it resizes by {factor}, which is no whole factor",
                "use a whole factor, such as scale_factor=2",
            )  # fmt: skip
        return Break(
            layer, op,
            f"it resizes to a given size, from {own[0].size} to {own[0].out} elements: by a factor "
            "that is not whole, and that follows the size of the input, so that places drift",
            "resize by a whole factor (scale_factor=2) and pad or crop by a fixed number; a "
            "transposed convolution reaches its size by output_padding",
        )  # fmt: skip


def _offsets(ndim: int, period: int) -> Iterator[tuple[int, ...]]:
    """Unequal offsets per axis, small ones first: those that set z apart before all others."""

    def sets_z_apart(offsets: tuple[int, ...]) -> bool:
        return max(offsets) < 10 and len(set(offsets[1:])) == 1

    for first in (True, False):
        for largest in range(1, period):
            for offsets in itertools.product(range(largest + 1), repeat=ndim):
                unequal = max(offsets) == largest and len(set(offsets)) > 1
                if unequal and sets_z_apart(offsets) is first:
                    yield offsets
            if first and largest == 9:
                break
