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
    classes: list[dict[int, Fact]] = []
    for residue, fact in found.items():
        for members in classes:
            if fact.joins(next(iter(members.values()))):
                members[residue] = fact
                break
        else:
            classes.append({residue: fact})
    # Last of all, sizes that leave out voxels beside those that do not.
    for members in list(classes):
        fact = next(iter(members.values()))
        if not fact.lossy:
            wide = {r: f for r, f in found.items() if f.joins(fact, lossy=True)}
            classes.extend([wide] if len(wide) > len(members) else [])
    best: tuple[tuple[int, ...], _Choice] | None = None
    for members in classes:
        for step in (d for d in range(1, period + 1) if period % d == 0):
            starts = [r for r in range(step) if all(k in members for k in range(r, period, step))]
            for start in starts:
                facts = [members[k] for k in range(start, period, step)]
                whole = [fact for fact in facts if not fact.lossy]
                missed = sum(
                    not fact.lossy and fact not in whole and fact.key == facts[0].key
                    for fact in found.values()
                )
                shorter = any(s > 0 for fact in whole or facts for s in fact.shrinkages)
                rank = (not whole, missed, len(facts) - len(whole), shorter, step, start)
                if best is None or rank < best[0]:
                    best = (rank, (sorted(facts, key=lambda fact: fact.lossy), step))
            if starts:
                break
    return None if best is None else best[1]
