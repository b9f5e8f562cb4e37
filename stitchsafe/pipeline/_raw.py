"""Fields that wait until something is decided of the whole of them, and are read again then.

Two kinds of them do: fields whose last steps take statistics of all of it, and those that labels
are made of where modes or a bandwidth are a consensus. They lie in scratch as the network and its
pointwise steps give them, unless the result keeps them just so. Of a finished result scratch is
gone; whatever has to be made anew is predicted again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    BlockInput,
    CellIndex,
    CellRecord,
    FieldMaker,
    Fields,
    Ledger,
    checksum,
)
from stitchsafe.errors import IntegrityError
from stitchsafe.pipeline._mask import VoxelMask
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Field, Recipe
from stitchsafe.volumes import ArrayStore, Place

__all__ = ["RAW", "FieldView", "RawFields"]

RAW = "raw/"
"""How the names of raw fields begin in the records of cells."""

_KEPT = 2**22
"""Numbers of raw cells that are kept at hand while a portion is read."""


@dataclass(frozen=True)
class RawFields:
    """Reads cells of fields as they are before what needs the whole of them.

    Parameters
    ----------
    store, recipe
        The result.
    records
        What the ledger says of the predicted cells; None for a finished result, whose raw fields
        are gone.
    maker
        Makes what predicts again, where that is needed.
    mask
        The foreground, where a mask is.
    """

    store: ResultStore
    recipe: Recipe
    records: Mapping[CellIndex, CellRecord] | None
    maker: Callable[[], FieldMaker]
    mask: VoxelMask | None = None
    _arrays: dict[str, ArrayStore] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        store: ResultStore,
        recipe: Recipe,
        ledger: Ledger,
        maker: Callable[[], FieldMaker],
        mask: VoxelMask | None = None,
    ) -> RawFields:
        over = bool(ledger.finished("finish"))
        return cls(store, recipe, None if over else ledger.finished("predict"), maker, mask)

    def again(self, block: Roi) -> BlockInput | None:
        """What predicting the cells of a block again reads; None where they lie in scratch."""
        return self.maker().read(block) if self.records is None else None

    def read(self, cell: Roi, names: Sequence[str], source: BlockInput | None = None) -> Fields:
        """Fields of a whole cell.

        Raises
        ------
        IntegrityError
            If one does not hold what was written.
        """
        if self.records is None:
            made = self.maker().fields(cell, self.maker().read(cell) if source is None else source)
            return {name: made[name] for name in names}
        record = self.records[self.recipe.cells.index(cell)]
        return {name: self._checked(name, cell, record) for name in names}

    def _checked(self, name: str, cell: Roi, record: CellRecord) -> NDArray[np.floating]:
        place, entered = self._place(name)
        if name not in self._arrays:
            self._arrays[name] = ArrayStore.open(place)
        (layout,) = (each for each in self.recipe.fields if each.name == name)
        data = self._arrays[name].read(layout.box(cell))
        if checksum(data) != record["checksums"][entered]:
            raise IntegrityError(
                f"{place} at {cell} no longer holds what was written; the same command with "
                "--repair does that cell again"
            )
        return data

    def _place(self, name: str) -> tuple[Place, str]:
        """Where a field lies, and the name of its checksums."""
        if any(each.name == name for each in self.recipe.raw):
            return self.store.raw / name, f"{RAW}{name}"
        return self.store.field(name) / "0", name


@dataclass(frozen=True)
class FieldView:
    """Raw fields of one scale as a volume, channel after channel, to take statistics of.

    Parameters
    ----------
    raw
        The fields. Cells that are skipped are NaN.
    layouts
        Which of them.
    inside
        Which voxels count; the others are NaN. All of them where it is None.
    """

    raw: RawFields
    layouts: tuple[Field, ...]
    inside: VoxelMask | None = None
    decoded_bytes = 0  # cells are at hand, and pieces of them cost no decoding
    _cells: OrderedDict[CellIndex, NDArray[np.floating]] = field(
        default_factory=OrderedDict, repr=False
    )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layouts[0].shape(self.raw.recipe.extent)

    @property
    def channels(self) -> int:
        return sum(layout.channels for layout in self.layouts)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.raw.recipe.kept)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        recipe = self.raw.recipe
        cell = zip(recipe.cell_shape, recipe.extent, strict=True)
        return self.layouts[0].shape([min(c, e) for c, e in cell])

    def read(self, roi: Roi) -> NDArray[np.floating]:
        cells, layout = self.raw.recipe.cells, self.layouts[0]
        found = np.full((self.channels, *roi.shape), np.nan, self.dtype)
        voxels = Roi.from_bounds(
            [math.floor(o / s) for o, s in zip(roi.offset, layout.scale, strict=True)],
            [math.ceil(e / s) for e, s in zip(roi.end, layout.scale, strict=True)],
        )
        for index in map(cells.index, cells.cells(voxels)):
            cell = cells.cell_at(index)
            elements = layout.elements(cell)
            part = elements.intersect(roi)
            if part.size and not self.raw.recipe.skips(cell):
                data = self._cell(index, cell)
                found[(slice(None), *part.relative_to(roi).slices)] = data[
                    (slice(None), *part.relative_to(elements).slices)
                ]
        return found

    def _cell(self, index: CellIndex, cell: Roi) -> NDArray[np.floating]:
        """A cell, at hand since pieces of several may alternate."""
        if index not in self._cells:
            names = [layout.name for layout in self.layouts]
            read = self.raw.read(cell, names)
            parts = [read.pop(name) for name in names]
            data = np.concatenate(parts) if len(parts) > 1 else parts[0]
            del parts
            if self.inside is not None:
                data[:, ~self.inside(cell)] = np.nan
            while self._cells and (len(self._cells) + 1) * data.size > _KEPT:
                self._cells.popitem(last=False)
            self._cells[index] = data
        return self._cells[index]
