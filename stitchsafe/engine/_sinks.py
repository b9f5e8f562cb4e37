"""What becomes of a cell's fields: sinks take them one cell at a time and leave durable results."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine._durable import save_arrays
from stitchsafe.engine._forward import BlockInput, FieldMaker, Fields
from stitchsafe.engine._ledger import CellIndex, CellRecord
from stitchsafe.errors import NonFiniteError
from stitchsafe.tiling import Field
from stitchsafe.volumes import ArrayStore, Place

__all__ = [
    "FieldSink",
    "FieldWork",
    "SampleSink",
    "Sink",
    "checksum",
    "rounded",
    "sample_positions",
]

SAMPLES = 64
"""Elements of each cell and field that are recorded for `verify`."""


class Sink(Protocol):
    """Takes the fields of a cell; returns its part of the cell's record.

    That is checksums of what it wrote, by name, and whatever else later stages ask the ledger.
    """

    def take(self, cell: Roi, fields: Fields) -> CellRecord: ...
    def skip(self, cell: Roi) -> CellRecord:
        """A cell that is not predicted, and 0 everywhere."""


@dataclass(frozen=True)
class FieldWork:
    """The stage that predicts: the fields of each cell, handed to all sinks.

    Cells that a mask leaves out are 0, and entered as skipped. The record also holds a checksum of
    the cell's share of what was read: by it a volume that has changed since is found out.
    """

    maker: FieldMaker
    sinks: Sequence[Sink]

    def read(self, block: Roi, cells: Sequence[Roi]) -> BlockInput | None:
        del block
        return self.maker.read_cells(cells)

    def compute(
        self, cells: Sequence[Roi], source: BlockInput | None
    ) -> Iterator[tuple[Fields | None, str | None]]:
        if source is None:
            yield from ((None, None) for _ in cells)
            return
        skips = self.maker.recipe.skips
        made = self.maker.stream([cell for cell in cells if not skips(cell)], source)
        for cell in cells:
            share = self.maker.shares.of(cell)
            read = None if share is None else checksum(source.part(share))
            yield None if skips(cell) else next(made), read

    def write(self, cell: Roi, result: tuple[Fields | None, str | None]) -> CellRecord:
        fields, read = result
        record: CellRecord = {"checksums": {}}
        for sink in self.sinks:
            part = sink.skip(cell) if fields is None else sink.take(cell, fields)
            checksums = {**record["checksums"], **part["checksums"]}
            record = {**record, **part, "checksums": checksums}
        if fields is None:
            record["skipped"] = True
        if read is not None:
            record["input"] = read
        return record


def rounded(
    name: str, field: NDArray[np.floating], dtype: np.dtype[Any], cell: Roi
) -> tuple[NDArray[np.floating], float]:
    """A field of a cell in a narrower type, and the largest difference that this makes.

    Raises
    ------
    NonFiniteError
        For numbers that are beyond the range of the type.
    """
    narrow = np.empty(field.shape, dtype)
    largest = 0.0
    for values, target in zip(field, narrow, strict=True):
        with np.errstate(over="ignore"):
            target[...] = values
        with np.errstate(invalid="ignore"):  # where the field itself is not finite
            difference = np.abs(target - values)
        difference[np.isnan(difference)] = 0
        here = float(difference.max(initial=0.0))
        if not math.isfinite(here):
            beyond = float(np.abs(values[np.isfinite(values)]).max())
            raise NonFiniteError(
                f"the field {name!r} reaches {beyond:.4g} in the block at {cell}, and {dtype} "
                f"holds up to {float(np.finfo(dtype).max):g}; start again with --field-type "
                f"{field.dtype} and --overwrite"
            )
        largest = max(largest, here)
    return narrow, largest


def checksum(array: NDArray[np.generic]) -> str:
    """CRC-32 of an array's values in C order."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


class FieldSink:
    """Writes fields to arrays of shape (channels, *elements over the volume).

    Where an array is of a narrower type, fields are rounded to it; the record says by how much at
    most.

    Parameters
    ----------
    arrays
        By the name of the field.
    layout
        The fields.
    prefix
        What the names of their checksums begin with.
    """

    def __init__(
        self, arrays: Mapping[str, ArrayStore], layout: Sequence[Field], prefix: str = ""
    ) -> None:
        self.arrays, self.layout, self.prefix = arrays, layout, prefix

    def take(self, cell: Roi, fields: Fields) -> CellRecord:
        checksums, rounding = {}, {}
        for field in self.layout:
            array, data = self.arrays[field.name], fields[field.name]
            if data.dtype != array.dtype:
                data, rounding[field.name] = rounded(field.name, data, array.dtype, cell)
            array.write(field.box(cell), data)
            checksums[f"{self.prefix}{field.name}"] = checksum(data)
        return {"checksums": checksums, **({"rounding": rounding} if rounding else {})}

    def skip(self, cell: Roi) -> CellRecord:
        zeros = {
            field.name: np.zeros(field.box(cell).shape, self.arrays[field.name].dtype)
            for field in self.layout
        }
        return self.take(cell, zeros)


class SampleSink:
    """Keeps a few elements of every cell and field, for `verify` to predict again."""

    def __init__(
        self,
        place: Callable[[CellIndex], Place],
        cells: CellGrid,
        layout: Sequence[Field],
        seed: int,
    ) -> None:
        self.place, self.cells, self.layout, self.seed = place, cells, layout, seed

    def take(self, cell: Roi, fields: Fields) -> CellRecord:
        index = self.cells.index(cell)
        arrays: dict[str, NDArray[np.generic]] = {}
        for field in self.layout:
            elements = field.elements(cell)
            positions = sample_positions(elements, index, self.seed)
            inside = tuple((positions - np.asarray(elements.offset)).T)
            arrays[f"positions_{field.name}"] = positions
            arrays[f"field_{field.name}"] = fields[field.name][(slice(None), *inside)]
        return {"checksums": {"samples": save_arrays(self.place(index), arrays)}}

    def skip(self, cell: Roi) -> CellRecord:
        del cell
        return {"checksums": {}}


def sample_positions(elements: Roi, index: CellIndex, seed: int) -> NDArray[np.int64]:
    """Positions in a field of a cell's recorded elements, shape (samples, ndim).

    A function of the seed and the cell alone, so that no order of work can change it.
    """
    generator = np.random.default_rng([seed, *index])
    corner, shape = np.asarray(elements.offset), np.asarray(elements.shape)
    return corner + generator.integers(0, shape, size=(SAMPLES, len(shape)))
