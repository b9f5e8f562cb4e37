"""Which cells of a volume a mask leaves out."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid

__all__ = ["Skipping"]


@dataclass(frozen=True)
class Skipping:
    """The cells of a region that hold a voxel of a mask, and so the ones that do not.

    It is a matter of cells, which belong to the recipe, so that blocks cannot change it.

    Parameters
    ----------
    mask
        Identity of the mask.
    first, counts
        Position of the first cell on the grid, and cells along each axis.
    wanted
        One bit per cell in raster order, packed, compressed, as text.
    """

    mask: dict[str, Any]
    first: tuple[int, ...]
    counts: tuple[int, ...]
    wanted: str

    @classmethod
    def of(cls, mask: dict[str, Any], cells: CellGrid, wanted: Iterable[bool]) -> Skipping:
        """From an answer for each cell, in raster order."""
        indices = [cells.index(cell) for cell in cells.cells()]
        low = tuple(min(each) for each in zip(*indices, strict=True))
        high = tuple(max(each) for each in zip(*indices, strict=True))
        bits = np.packbits(np.fromiter(wanted, bool))
        return cls(
            mask,
            low,
            tuple(b - a + 1 for a, b in zip(low, high, strict=True)),
            base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode(),
        )

    @functools.cached_property
    def _wanted(self) -> NDArray[np.bool_]:
        packed = np.frombuffer(zlib.decompress(base64.b64decode(self.wanted)), np.uint8)
        count = int(np.prod(self.counts))
        return np.unpackbits(packed, count=count).astype(bool).reshape(self.counts)

    @property
    def skipped(self) -> int:
        """How many cells are skipped."""
        return int(self._wanted.size - np.count_nonzero(self._wanted))

    @property
    def total(self) -> int:
        return self._wanted.size

    def skips(self, index: Sequence[int]) -> bool:
        """Whether no voxel of the mask lies in a cell."""
        return not self._wanted[tuple(i - a for i, a in zip(index, self.first, strict=True))]

    def __str__(self) -> str:
        return f"a mask that leaves out {self.skipped} of {self.total} cells"
