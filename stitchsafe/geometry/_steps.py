"""The least step from one size that a network takes to further ones on the same lattice."""

from __future__ import annotations

from collections.abc import Iterator

from stitchsafe.geometry._facts import Fact
from stitchsafe.geometry._search import Search, moved

__all__ = ["steps"]

MULTIPLES = (*range(2, 17), 20, 24, 28, 32, 48, 64, 96, 128, 192, 256)
"""Of the period, which a network may ask its sizes to be."""
LARGEST = 4096


def steps(search: Search, base: tuple[int, ...]) -> list[tuple[list[Fact], int]] | None:
    """Per axis, what it is at all residues of its valid sizes, and the step between them.

    Parameters
    ----------
    search
        Traces.
    base
        A shape that the network takes. An axis of which it takes no other size has the step 0.

    Returns
    -------
    None where no step holds.
    """
    found = _Steps(search, base)
    if not found.whole():
        return None
    found.refine()
    if not found.verify():
        return None
    return found.choices()


class _Steps:
    def __init__(self, search: Search, base: tuple[int, ...]) -> None:
        first = search.at(base)
        assert first is not None
        self.search, self.base, self.first = search, base, first
        self.period = {axis: first[axis].period for axis in search.free}
        self.step = dict(self.period)

    def _fit(self, offsets: dict[int, int]) -> bool:
        facts = self.search.at(moved(self.base, offsets))
        return facts is not None and all(
            own.key == other.key for own, other in zip(facts, self.first, strict=True)
        )

    def _strange(self, offsets: dict[int, int]) -> bool:
        """Whether other operators run, or with other constants: both may follow the size unseen."""
        facts = self.search.at(moved(self.base, offsets))
        return facts is not None and facts[0].operators != self.first[0].operators

    def whole(self) -> bool:
        """Find a period, or the least multiple of it, that the network can be longer by."""
        if self._fit(self.period):
            return True
        for axis, period in self.period.items():
            if self._fit({axis: period}):
                continue
            held = [m * period for m in (1, *MULTIPLES) if m * period <= LARGEST]
            step = next((s for s in held if self._fit({axis: s}) or self._strange({axis: s})), 0)
            if not step or not all(self._fit({axis: k * step}) for k in (1, 2, 3, 5, 7)):
                return False
            self.step[axis] = step
        return True

    def refine(self) -> None:
        """Divide steps by prime factors while that gives a valid size."""
        own = [axis for axis, step in self.step.items() if step == self.period[axis]]
        while trial := {a: self.step[a] // _prime(self.step[a]) for a in own if self.step[a] > 1}:
            if not self._fit(trial):
                break
            self.step.update(trial)
        for axis in own:
            for prime in dict.fromkeys(_primes(self.step[axis])):
                while self.step[axis] % prime == 0 and self._fit({axis: self.step[axis] // prime}):
                    self.step[axis] //= prime

    def verify(self) -> bool:
        """Whether all sizes within a period hold; steps that miss one are made coarser."""
        place = 1
        while place < max(map(self._count, self.step), default=1):
            offsets = {a: place % self._count(a) * self.step[a] for a in self.step}
            if self._fit(offsets):
                place += 1
                continue
            wrong = [a for a, offset in offsets.items() if offset and not self._fit({a: offset})]
            if not wrong:
                return False
            for axis in wrong:
                self.step[axis] *= _prime(self._count(axis))
            place = 1
        return True

    def _count(self, axis: int) -> int:
        """Valid sizes within a period."""
        return max(1, self.period[axis] // self.step[axis])

    def choices(self) -> list[tuple[list[Fact], int]]:
        made = []
        for axis, fact in enumerate(self.first):
            if axis not in self.step:
                made.append(([fact], 0))
                continue
            facts = []
            for place in range(self._count(axis)):
                offsets = {a: place % self._count(a) * self.step[a] for a in self.step}
                held = self.search.at(moved(self.base, offsets))
                assert held is not None
                facts.append(held[axis])
            made.append((facts, self.step[axis]))
        return made


def _primes(number: int) -> Iterator[int]:
    factor = 2
    while number > 1:
        if number % factor:
            factor += 1
        else:
            number //= factor
            yield factor


def _prime(number: int) -> int:
    return next(_primes(number))
