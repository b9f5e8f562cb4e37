"""Classes of residues: the sizes modulo the period at which a network does the same."""

from __future__ import annotations

from collections.abc import Iterator

from stitchsafe.geometry._facts import Fact
from stitchsafe.geometry._search import MOST_RESIDUES, Search, moved

__all__ = ["classes"]

_Choice = tuple[list[Fact], int]


def classes(
    search: Search, base: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], list[_Choice]]]:
    """Shapes, and per axis what it is at all residues of a class and the step between its sizes.

    First the best class of each axis, then the best of those that share a program.
    """
    first = search.at(base)
    assert first is not None
    residues: list[dict[int, Fact]] = [{} for _ in base]
    periods = {axis: first[axis].period for axis in search.free}
    for r in range(min(max(periods.values(), default=0), MOST_RESIDUES)):
        together = search.at(moved(base, {axis: r % p for axis, p in periods.items()}))
        for axis, p in periods.items():
            if r >= p:
                continue
            facts = together or search.at(moved(base, {axis: r}))
            if facts is not None:
                residues[axis][(base[axis] + r) % p] = facts[axis]
    programs = dict.fromkeys(fact.program for found in residues for fact in found.values())
    for program in (None, *programs):
        picked = [
            _choose({r: f for r, f in found.items() if program in (None, f.program)}, fact.period)
            if axis in periods
            else ([fact], 0)
            for axis, (found, fact) in enumerate(zip(residues, first, strict=True))
        ]
        chosen = [each for each in picked if each is not None]
        if len(chosen) == len(picked):
            yield tuple(facts[0].input_size for facts, _ in chosen), chosen


def _choose(found: dict[int, Fact], period: int) -> _Choice | None:
    """The best class of residues."""
    classes: dict[tuple[object, ...], dict[int, Fact]] = {}
    for residue, fact in found.items():
        classes.setdefault(fact.key, {})[residue] = fact
    best: tuple[tuple[int, ...], _Choice] | None = None
    for members in classes.values():
        lossy = any(fact.lossy for fact in members.values())
        for step in (d for d in range(1, period + 1) if period % d == 0):
            starts = [r for r in range(step) if all(k in members for k in range(r, period, step))]
            if starts:
                facts = [members[k] for k in range(starts[0], period, step)]
                same = not any(facts[0].shrinkages)
                rank = (lossy, not same, step, starts[0])
                if best is None or rank < best[0]:
                    best = (rank, (facts, step))
                break
    return None if best is None else best[1]
