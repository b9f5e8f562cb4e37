"""Which cells of a volume a mask leaves out."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
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
        Identity of the mask, for people: what it holds is below, and that alone is compared.
    first, counts
        Position of the first cell on the grid, and cells along each axis.
    wanted
        One bit per cell in raster order, packed, compressed, as text.
    content
        Likewise a checksum of the mask's voxels in each cell; None where only cells matter.
    """

    mask: dict[str, Any] = field(compare=False)
    first: tuple[int, ...]
    counts: tuple[int, ...]
    wanted: str
    content: str | None = None

    @classmethod
    def of(
        cls,
        mask: dict[str, Any],
        cells: CellGrid,
        wanted: Sequence[bool],
        content: Sequence[int] | None = None,
    ) -> Skipping:
        """From an answer for each cell, in raster order, and a checksum of 32 bits for each."""
        indices = [cells.index(cell) for cell in cells.cells()]
        low = tuple(min(each) for each in zip(*indices, strict=True))
        high = tuple(max(each) for each in zip(*indices, strict=True))
        bits = np.packbits(np.asarray(wanted, bool))
        return cls(
            mask,
            low,
            tuple(b - a + 1 for a, b in zip(low, high, strict=True)),
            _as_text(bits),
            None if content is None else _as_text(np.asarray(content, "<u4")),
        )

    @functools.cached_property
    def _wanted(self) -> NDArray[np.bool_]:
        packed = np.frombuffer(_from_text(self.wanted), np.uint8)
        count = int(np.prod(self.counts))
        return np.unpackbits(packed, count=count).astype(bool).reshape(self.counts)

    @functools.cached_property
    def _content(self) -> NDArray[np.uint32] | None:
        if self.content is None:
            return None
        return np.frombuffer(_from_text(self.content), "<u4").reshape(self.counts)

    @property
    def skipped(self) -> int:
        """How many cells are skipped."""
        return int(self._wanted.size - np.count_nonzero(self._wanted))

    @property
    def total(self) -> int:
        return self._wanted.size

    def skips(self, index: Sequence[int]) -> bool:
        """Whether no voxel of the mask lies in a cell."""
        return not self._wanted[self._place(index)]

    def content_of(self, index: Sequence[int]) -> int | None:
        """Checksum of the mask's voxels in a cell; None where only cells matter."""
        return None if self._content is None else int(self._content[self._place(index)])

    def _place(self, index: Sequence[int]) -> tuple[int, ...]:
        return tuple(i - a for i, a in zip(index, self.first, strict=True))

    def __str__(self) -> str:
        text = f"a mask that leaves out {self.skipped} of {self.total} cells"
        if self.content is not None:
            text += f", its voxels having the checksum {zlib.crc32(self.content.encode()):08x}"
        return text


def _as_text(array: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def _from_text(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
