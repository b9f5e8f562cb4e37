"""From traces at several sizes to one :class:`NetworkGeometry`, and the proof for further sizes.

1. Trace large sizes until one runs; its lattice map gives the period ``P`` of each axis.
2. Where that size drops no remainder, look for the least step to further sizes of the same lattice
   map and program: ``P`` itself, its divisors, or multiples of it where the network takes fewer
   sizes than its lattice would let it. Outputs may be rounded up at some of them; how much is held
   by residue modulo ``P``.
3. Else trace one size per residue modulo ``P``, all axes at once, and axis by axis where that
   fails. Residues that agree form a class; classes that drop no remainder come first, then those
   that take most residues.
4. The smallest valid size is found by bisection, near the least that leaves something of each
   output.

``min + k * step`` is a hint; :func:`agrees` on a trace of the very shape is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stitchsafe.errors import PlanError
from stitchsafe.geometry._axis import LatticeMismatch
from stitchsafe.geometry._classes import classes
from stitchsafe.geometry._facts import Fact, facts_of, solution, widest
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._search import Search, moved
from stitchsafe.geometry._steps import steps
from stitchsafe.geometry._types import (
    Break,
    InputGeometry,
    NetworkGeometry,
    OutputGeometry,
    Verdict,
)
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["agrees", "analyse"]

FAR = (150, 1500, 6000)

Choice = tuple[list[Fact], int]
"""What an axis is at all residues of its valid sizes, and the step between these."""


def analyse(
    run: Callable[[tuple[int, ...]], Graph],
    *,
    ndim: int,
    name: str = "network",
    fixed: Sequence[int | None] | None = None,
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
        Per axis, the only size that the network takes, or None; by default it may take any.
    """
    search = Search(run, fixed or (None,) * ndim)
    base = search.first()
    graph = search.graph
    if graph is None:
        return _unsafe((search.drift or _refused(name, search.refusal),), (), ())
    inputs = tuple(InputGeometry(p.name, p.channels, p.layout) for p in graph.inputs)
    outputs = tuple(OutputGeometry(p.name, p.channels, p.layout) for p in graph.outputs)
    if base is None:
        breaks = graph.breaks or (_refused(name, search.refusal),)
        return _unsafe(breaks, inputs, outputs)
    solved = _solve(search, base)
    if solved is None:
        return _unsafe((*graph.breaks, _refused(name, None)), inputs, outputs)
    chosen, smallest, program = solved
    solutions = [
        solution(facts, step, least) for (facts, step), least in zip(chosen, smallest, strict=True)
    ]
    axes = tuple(axis for axis, _ in solutions)
    outputs = tuple(
        replace(output, axes=tuple(own[place] for _, own in solutions))
        for place, output in enumerate(outputs)
    )
    seen = [graph.nodes[index] for index in sorted(graph.live)]
    consensus = tuple((n.layer, n.consensus) for n in seen if n.consensus)
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


def _solve(
    search: Search, base: tuple[int, ...]
) -> tuple[list[Choice], tuple[int, ...], str] | None:
    """The choice and the smallest size of each axis, and the program."""
    for known, chosen in _candidates(search, base):
        if not _agree(search, known, chosen):
            continue
        smallest = _smallest(search, known, chosen)
        final = search.at(smallest)
        if final is None or not _agree_afar(search, smallest, chosen):
            return None
        return chosen, smallest, final[0].program
    return None


def _candidates(
    search: Search, base: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], list[Choice]]]:
    first = search.at(base)
    assert first is not None
    lossy = any(fact.lossy for fact in first)
    if not lossy and (found := steps(search, base)) is not None:
        yield base, found
    yield from classes(search, base)
    if lossy and (found := steps(search, base)) is not None:
        yield base, found


def _agrees_at(search: Search, shape: tuple[int, ...], chosen: list[Choice]) -> bool:
    """Whether each axis is what it is at the chosen size of the same residue."""
    facts = search.at(shape)
    return facts is not None and all(
        any(own.residue == other.residue and own.joins(other) for other in alike)
        for own, (alike, _) in zip(facts, chosen, strict=True)
    )


def _agree(search: Search, known: tuple[int, ...], chosen: list[Choice]) -> bool:
    """Whether the choices of all axes hold together, and for further sizes.

    Those are unequal, lest a network be told apart from its transpose by none.
    """
    further = moved(
        known,
        {
            axis: math.lcm(facts[0].period, step) * (1 + axis)
            for axis, (facts, step) in enumerate(chosen)
        },
    )
    return _agrees_at(search, known, chosen) and _agrees_at(search, further, chosen)


def _agree_afar(search: Search, smallest: tuple[int, ...], chosen: list[Choice]) -> bool:
    """Whether the choices hold for large sizes, too: of all axes, and of one alone."""

    def far(axes: list[int], least: int) -> tuple[int, ...]:
        return moved(smallest, {a: -(-least // chosen[a][1]) * chosen[a][1] for a in axes})

    free = search.free
    shapes = [far(free, least) for least in FAR[:-1] if free]
    shapes += [far([axis], FAR[-1]) for axis in free]
    # A size that is refused, as a program's own bound may, says nothing of others.
    return all(search.at(each) is None or _agrees_at(search, each, chosen) for each in shapes)


def _smallest(search: Search, known: tuple[int, ...], chosen: list[Choice]) -> tuple[int, ...]:
    """The least valid size per axis: of all together, then of each alone."""
    strides = [step for _, step in chosen]

    def least(axes: list[int], shape: tuple[int, ...]) -> tuple[int, ...]:
        def reduced(k: int) -> tuple[int, ...]:
            return tuple(
                max(s - k * strides[a], (s - 1) % strides[a] + 1) if a in axes else s
                for a, s in enumerate(shape)
            )

        # Most networks take each size that leaves something of all outputs: begin at the least of
        # these, and leave it by leaps that double.
        facts = search.at(shape)
        assert facts is not None
        last = {a: (shape[a] - 1) // strides[a] for a in axes}
        room = [n for a in axes if (n := facts[a].room(strides[a])) < last[a]]
        good, bad, leap = 0, max(last.values()) + 1, 1
        middle = max(1, min(room, default=bad - 1))
        while bad - good > 1:
            runs = _agrees_at(search, reduced(middle), chosen)
            good, bad = (middle, bad) if runs else (good, middle)
            near = good + leap if runs else bad - leap
            middle, leap = near if good < near < bad else (good + bad) // 2, 2 * leap
        return reduced(good)

    shape = least(search.free, known) if search.free else known
    for axis in search.free:
        smaller = moved(shape, {axis: -strides[axis]})
        if smaller[axis] > 0 and _agrees_at(search, smaller, chosen):
            shape = least([axis], shape)
    return shape


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
        facts = facts_of(graph)
    except LatticeMismatch as error:
        raise PlanError(f"{where} does not fit the network: {error}; {advice}") from error
    if facts is None or len(facts) != geometry.ndim:
        raise PlanError(f"{where} gives no lattice map with {geometry.ndim} axes; {advice}")
    if graph.program != geometry.program:
        raise PlanError(f"{where} makes the network run other operators; {advice}")
    for number, (fact, axis) in enumerate(zip(facts, geometry.axes, strict=True)):
        promised = [output.axes[number] for output in geometry.outputs]
        same = len(promised) == len(fact.maps) and all(
            (own.scale, own.support, own.size(fact.input_size))
            == (each.rate, each.support, each.size)
            for own, each in zip(promised, fact.maps, strict=True)
        )
        if not same:
            taken = ", ".join(map(str, fact.shrinkages))
            raise PlanError(
                f"{where} has another lattice map along axis {number} than the network's (outputs "
                f"smaller by {taken}, not {', '.join(str(o.shrinkage) for o in promised)}); "
                f"{advice}"
            )
        if whole is not None and whole[number]:
            continue
        needed = widest(fact.contexts(axis.output_offset, [own.start for own in promised]))
        short = [c > known for c, known in zip(needed, axis.context, strict=True)]
        if any(short) or any(each.mixed for each in fact.maps):
            raise PlanError(
                f"{where} is too small along axis {number}: it needs the context {needed}, "
                f"not {axis.context}, or its padding meets a tile's cut; choose a larger tile"
            )
