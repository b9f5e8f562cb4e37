"""From traces at several sizes to one :class:`NetworkGeometry`, and the proof for further sizes.

1. Trace large sizes until one runs; its nodes give the structural period ``P`` of each axis.
2. Trace one size per residue modulo ``P``, all axes at once, and axis by axis where that fails.
   Residues whose lattice map, shrinkage and program agree form a class; classes that drop no
   remainder come first, then those that take most residues.
3. The valid sizes are the widest progression inside the chosen class, from the smallest size that
   runs, found by bisection.

``min + k * step`` is a hint; :func:`agrees` on a trace of the very shape is the proof.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from stitchsafe.errors import PlanError
from stitchsafe.geometry._axis import AxisMap, LatticeMismatch
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._types import (
    AxisGeometry,
    Break,
    InputGeometry,
    NetworkGeometry,
    OutputAxis,
    OutputGeometry,
    Verdict,
)
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["agrees", "analyse"]

BASES = (576, 1152, 320, 243, 96, 128, 224, 256, 512, 64)
MOST_RESIDUES = 128
FAR = (150, 1500, 6000)
MOST_COMBINATIONS = 216


@dataclass(frozen=True)
class _Fact:
    """One axis of one trace: the maps of all outputs."""

    maps: tuple[AxisMap, ...]
    input_size: int
    program: str

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


def _facts(graph: Graph) -> tuple[_Fact, ...] | None:
    outputs = [each for each in graph.facts() if each is not None]
    if not outputs or len(outputs) < len(graph.outputs):
        return None
    if any(each.size < 1 for maps in outputs for each in maps):
        return None  # at this size nothing comes out
    program = graph.program
    return tuple(
        _Fact(maps, size, program)
        for maps, size in zip(zip(*outputs, strict=True), graph.space, strict=True)
    )


class _Search:
    """Traces by shape, each once."""

    def __init__(self, run: Callable[[tuple[int, ...]], Graph]) -> None:
        self._run = run
        self._known: dict[tuple[int, ...], tuple[_Fact, ...] | None] = {}
        self.periods: tuple[int, ...] = ()
        self.graph: Graph | None = None
        self.refusal: SizeRefusal | LatticeMismatch | None = None

    def at(self, shape: tuple[int, ...]) -> tuple[_Fact, ...] | None:
        if shape not in self._known:
            self._known[shape] = None
            try:
                graph = self._run(shape)
                self.graph = self.graph or graph
                self.periods = self.periods or graph.periods
                self._known[shape] = _facts(graph)
            except (SizeRefusal, LatticeMismatch) as error:
                self.refusal = self.refusal or error
        return self._known[shape]


def _replace(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def analyse(
    run: Callable[[tuple[int, ...]], Graph],
    *,
    ndim: int,
    name: str = "network",
    fixed: tuple[int, ...] | None = None,
) -> NetworkGeometry:
    """The geometry of a network and the verdict whether its tiles can be stitched exactly.

    Parameters
    ----------
    run
        Traces the network at one shape of its input over space; raises :class:`SizeRefusal` where
        the network does not run at that size.
    ndim
        Number of spatial axes.
    name
        Of the network, for what concerns all of it.
    fixed
        The only shape that the network takes, where there is just one.
    """
    search = _Search(run)
    if fixed is None:
        base = _first_size(search, ndim)
    else:
        base = fixed if search.at(fixed) is not None else None
    graph = search.graph
    if graph is None:
        return _unsafe((_refused(name, search.refusal),), (), ())
    inputs = tuple(InputGeometry(p.name, p.channels, p.layout) for p in graph.inputs)
    outputs = tuple(OutputGeometry(p.name, p.channels, p.layout) for p in graph.outputs)
    if base is None:
        breaks = graph.breaks or (_refused(name, search.refusal),)
        return _unsafe(breaks, inputs, outputs)
    solved = _solve(search, base) if fixed is None else _solve_fixed(search, fixed)
    if solved is None:
        return _unsafe((*graph.breaks, _refused(name, None)), inputs, outputs)
    solutions, program = solved
    axes = tuple(axis for axis, _ in solutions)
    outputs = tuple(
        replace(output, axes=tuple(own[place] for _, own in solutions))
        for place, output in enumerate(outputs)
    )
    consensus = tuple((n.layer, n.consensus) for n in graph.nodes if n.consensus)
    verdict: Verdict = "safe with consensus" if consensus else "safe"
    if graph.breaks:
        verdict = "unsafe"
    return NetworkGeometry(axes, verdict, graph.breaks, inputs, outputs, consensus, program)


def _refused(name: str, refusal: SizeRefusal | LatticeMismatch | None) -> Break:
    """What is said of a network that shows no lattice, by the layer that refused the first size."""
    layer, op = getattr(refusal, "layer", ""), getattr(refusal, "op", "")
    return Break(
        layer or name,
        op or "forward",
        "not analysed: no family of input sizes gives one lattice "
        f"({refusal or 'operators or constants follow the size of the input'})",
        "let the network take inputs of any size on a lattice, and resize by whole factors",
    )


def _unsafe(
    breaks: tuple[Break, ...],
    inputs: tuple[InputGeometry, ...],
    outputs: tuple[OutputGeometry, ...],
) -> NetworkGeometry:
    return NetworkGeometry((), "unsafe", breaks, inputs, outputs)


def _first_size(search: _Search, ndim: int) -> tuple[int, ...] | None:
    for base in BASES:
        if search.at((base,) * ndim) is not None:
            return (base,) * ndim
        if search.graph is not None and search.graph.breaks:
            return None
    for residue in range(1, MOST_RESIDUES):
        if search.periods and residue >= math.lcm(*search.periods):
            break
        if search.at((BASES[0] + residue,) * ndim) is not None:
            return (BASES[0] + residue,) * ndim
    # Axes with different factors may have no size in common: each then needs its own residue.
    for offsets in itertools.islice(_offsets(ndim), MOST_COMBINATIONS):
        shape = tuple(BASES[0] + offset for offset in offsets)
        if search.at(shape) is not None:
            return shape
    return None


def _offsets(ndim: int) -> Iterator[tuple[int, ...]]:
    """Unequal offsets per axis, small ones first: those that set z apart before all others."""

    def sets_z_apart(offsets: tuple[int, ...]) -> bool:
        return max(offsets) < 10 and len(set(offsets[1:])) == 1

    for first in (True, False):
        for largest in range(1, MOST_RESIDUES):
            for offsets in itertools.product(range(largest + 1), repeat=ndim):
                unequal = max(offsets) == largest and len(set(offsets)) > 1
                if unequal and sets_z_apart(offsets) is first:
                    yield offsets
            if first and largest == 9:
                break


_Solution = tuple[AxisGeometry, tuple[OutputAxis, ...]]


def _solve(search: _Search, base: tuple[int, ...]) -> tuple[tuple[_Solution, ...], str] | None:
    first = search.at(base)
    assert first is not None
    periods = [fact.period for fact in first]
    residues: list[dict[int, _Fact]] = [{} for _ in base]
    for r in range(min(max(periods), MOST_RESIDUES)):
        together = tuple(b + r % p for b, p in zip(base, periods, strict=True))
        facts = search.at(together)
        for axis, p in enumerate(periods):
            if r >= p:
                continue
            alone = facts or search.at(_replace(base, axis, base[axis] + r))
            if alone is not None:
                residues[axis][(base[axis] + r) % p] = alone[axis]
    chosen = next((each for each in _choices(residues, periods) if _agree(search, each)), None)
    if chosen is None:
        return None
    known = tuple(facts[0].input_size for facts, _, _ in chosen)
    smallest = _smallest(search, known, chosen)
    axes = tuple(
        _axis(facts, step, least) for (facts, _, step), least in zip(chosen, smallest, strict=True)
    )
    # A program may change with the magnitude, too.
    for axis, far in itertools.product(range(len(known)), FAR):
        step = chosen[axis][2]
        size = smallest[axis] + -(-far // step) * step
        facts = search.at(_replace(smallest, axis, size))
        if facts is None or facts[axis].key != chosen[axis][0][0].key:
            return None
    final = search.at(smallest)
    return None if final is None else (axes, final[0].program)


_Choice = tuple[list[_Fact], int, int]


def _choices(residues: list[dict[int, _Fact]], periods: list[int]) -> Iterator[list[_Choice]]:
    """Classes of residues for all axes: the best of each, then the best that share a program."""
    programs = dict.fromkeys(fact.program for found in residues for fact in found.values())
    for program in (None, *programs):
        picked = [
            _choose({r: f for r, f in found.items() if program in (None, f.program)}, period)
            for found, period in zip(residues, periods, strict=True)
        ]
        if all(each is not None for each in picked):
            yield [each for each in picked if each is not None]


def _agree(search: _Search, chosen: list[_Choice]) -> bool:
    """Whether the classes of all axes hold together, and for further sizes.

    Those are unequal, lest a network be told apart from its transpose by none.
    """
    known = tuple(facts[0].input_size for facts, _, _ in chosen)
    further = search.at(
        tuple(
            size + facts[0].period * (1 + place)
            for place, (size, (facts, _, _)) in enumerate(zip(known, chosen, strict=True))
        )
    )
    return (
        search.at(known) is not None
        and further is not None
        and all(f.key == facts[0].key for f, (facts, _, _) in zip(further, chosen, strict=True))
    )


def _solve_fixed(search: _Search, shape: tuple[int, ...]) -> tuple[tuple[_Solution, ...], str]:
    """The map of the one size that there is; its lattice holds from tile to tile of that size."""
    facts = search.at(shape)
    assert facts is not None
    axes = tuple(_axis([fact], 0, size) for fact, size in zip(facts, shape, strict=True))
    return axes, facts[0].program


def _choose(found: dict[int, _Fact], period: int) -> _Choice | None:
    """The best class of residues: its facts, one residue, and the step between valid sizes."""
    classes: dict[tuple[object, ...], dict[int, _Fact]] = {}
    for residue, fact in found.items():
        classes.setdefault(fact.key, {})[residue] = fact
    best: tuple[tuple[int, ...], _Choice] | None = None
    for members in classes.values():
        lossy = any(each.lossy for fact in members.values() for each in fact.maps)
        for step in (d for d in range(1, period + 1) if period % d == 0):
            starts = [r for r in range(step) if all(k in members for k in range(r, period, step))]
            if starts:
                facts = [members[k] for k in range(starts[0], period, step)]
                same = not any(facts[0].shrinkages)
                rank = (lossy, not same, step, starts[0])
                if best is None or rank < best[0]:
                    best = (rank, (facts, starts[0], step))
                break
    return None if best is None else best[1]


def _smallest(search: _Search, known: tuple[int, ...], chosen: list[_Choice]) -> tuple[int, ...]:
    """The least valid size per axis: bisection together, then each axis alone."""
    keys = [facts[0].key for facts, _, _ in chosen]
    steps = [step for _, _, step in chosen]

    def runs(shape: tuple[int, ...]) -> bool:
        facts = search.at(shape)
        return facts is not None and all(f.key == k for f, k in zip(facts, keys, strict=True))

    def least(axes: list[int], shape: tuple[int, ...]) -> tuple[int, ...]:
        def reduced(k: int) -> tuple[int, ...]:
            return tuple(
                max(s - k * steps[a], (s - 1) % steps[a] + 1) if a in axes else s
                for a, s in enumerate(shape)
            )

        good, bad = 0, max(-(-shape[a] // steps[a]) for a in axes)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if runs(reduced(middle)) else (good, middle)
        return reduced(good)

    shape = least(list(range(len(known))), known)
    for axis in range(len(known)):
        smaller = _replace(shape, axis, shape[axis] - steps[axis])
        if smaller[axis] > 0 and runs(smaller):
            shape = least([axis], shape)
    return shape


def _axis(facts: list[_Fact], step: int, least: int) -> _Solution:
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


def agrees(geometry: NetworkGeometry, graph: Graph, *, whole: Sequence[bool] | None = None) -> None:
    """Pass if a trace at a concrete shape has the lattice map that the geometry promises.

    Parameters
    ----------
    geometry
        From :func:`analyse`.
    graph
        From :func:`trace`, at the shape of a tile's input or of the whole.
    whole
        Per axis, whether the shape is that of the whole volume, where both ends are true borders;
        nowhere by default.

    Raises
    ------
    PlanError
        If they differ, with the axis and the reason.
    """
    where = f"an input of shape {graph.space}"
    advice = "choose a shape of the valid sizes that the geometry lists"
    try:
        facts = _facts(graph)
    except LatticeMismatch as error:
        raise PlanError(f"{where} does not fit the network: {error}; {advice}") from error
    if facts is None or len(facts) != geometry.ndim:
        raise PlanError(f"{where} gives no lattice map with {geometry.ndim} axes; {advice}")
    if graph.program != geometry.program:
        raise PlanError(f"{where} makes the network run other operators; {advice}")
    for number, (fact, axis) in enumerate(zip(facts, geometry.axes, strict=True)):
        promised = [output.axes[number] for output in geometry.outputs]
        same = len(promised) == len(fact.maps) and all(
            (own.scale, own.support, own.shrinkage) == (each.rate, each.support, shrinkage)
            for own, each, shrinkage in zip(promised, fact.maps, fact.shrinkages, strict=True)
        )
        if not same:
            raise PlanError(
                f"{where} has another lattice map along axis {number} than the network's "
                f"(shrinkage {fact.shrinkage}, not {axis.shrinkage}); {advice}"
            )
        if whole is not None and whole[number]:
            continue
        short = [c > known for c, known in zip(fact.context, axis.context, strict=True)]
        if any(short) or any(each.mixed for each in fact.maps):
            raise PlanError(
                f"{where} is too small along axis {number}: it needs the context {fact.context}, "
                f"not {axis.context}, or its padding meets a tile's cut; choose a larger tile"
            )
