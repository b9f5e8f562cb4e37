"""What stages of merging make of a cell, and find of what earlier stages have made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["Arrays", "Left", "Made"]

Arrays = Mapping[str, NDArray[Any]]
Index = tuple[int, ...]


class Left(Protocol):
    """What earlier stages have left."""

    def load(self, stage: str, index: Index) -> Arrays:
        """The arrays of one of its cells."""

    def notes(self, stage: str) -> Mapping[Index, Mapping[str, Any]]:
        """What else it said of its cells."""


@dataclass(frozen=True)
class Made:
    """What a stage makes of a cell: arrays to keep, and notes for later stages."""

    arrays: Arrays
    notes: Mapping[str, Any] = field(default_factory=dict)
