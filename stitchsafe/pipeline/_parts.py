"""Parts of a run: the same command started n times, each for its share of the blocks.

They know of each other only by what stands in the store, so any scheduler will do, or none. The
first one begins the result and decides what concerns the whole volume, while the others wait; each
does its own blocks; whoever finds that no cell is missing any more finishes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stitchsafe.errors import InputError

__all__ = ["Missing", "Part"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Part:
    """Share `index` of `count`, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"part {self} is none; give i/n with 1 <= i <= n, as 1/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, given: str | Sequence[int]) -> Part:
        """A part from ``"i/n"`` or from (i, n).

        Raises
        ------
        InputError
            If it is neither.
        """
        found: Sequence[Any] = given
        if isinstance(given, str):
            match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", given)
            found = match.groups() if match else ()
        try:
            index, count = (int(each) for each in found)
        except (TypeError, ValueError) as error:
            raise InputError(f"part {given!r} is none; give i/n, as 1/8") from error
        return cls(index, count)

    @property
    def lease(self) -> str:
        """What a run of this part holds, so that there is one."""
        return f"part-{self.index}-of-{self.count}"

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """Every n-th of some items."""
        return list(items[self.index - 1 :: self.count])

    def owner(self, position: int) -> int:
        """Whose item stands there."""
        return position % self.count + 1


@dataclass(frozen=True)
class Missing:
    """Blocks that other parts have still to do: how many of each."""

    by_part: Counter[int]
    part: Part

    def __str__(self) -> str:
        total = sum(self.by_part.values())
        named = ", ".join(
            f"{number} of part {index}/{self.part.count}"
            for index, number in sorted(self.by_part.items())
        )
        return f"{total} blocks are missing ({named})"
