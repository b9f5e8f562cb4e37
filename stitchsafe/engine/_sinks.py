"""What becomes of a cell's fields: sinks take them one cell at a time and leave durable results."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine._durable import save_arrays
from stitchsafe.engine._forward import FieldMaker, Fields
from stitchsafe.engine._ledger import CellIndex, CellRecord
from stitchsafe.volumes import ArrayStore

__all__ = ["FieldSink", "SampleSink", "Sink", "checksum", "map_fields", "sample_positions"]

SAMPLES = 64
"""Voxels of each cell that are recorded for `verify`."""


class Sink(Protocol):
    """Takes the fields of a cell, and returns checksums of what it wrote, by name."""

    def take(self, cell: Roi, fields: Fields) -> Mapping[str, str]: ...


def map_fields(
    maker: FieldMaker, sinks: Sequence[Sink]
) -> Callable[[Roi, Sequence[Roi]], Iterator[tuple[Roi, CellRecord]]]:
    """Work for the runner: compute the fields of each cell and hand them to all sinks.

    The record also holds a checksum of the cell's own voxels as they were read: by it a volume that
    has changed since is found out.
    """

    def work(block: Roi, cells: Sequence[Roi]) -> Iterator[tuple[Roi, CellRecord]]:
        source = maker.read(block)
        for cell in cells:
            fields = maker.fields(cell, source)
            checksums: dict[str, str] = {}
            for sink in sinks:
                checksums.update(sink.take(cell, fields))
            yield cell, {"checksums": checksums, "input": checksum(source.part(cell))}

    return work


def checksum(array: NDArray[np.generic]) -> str:
    """CRC-32 of an array's values in C order."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


class FieldSink:
    """Writes fields to arrays of shape (channels, *volume)."""

    def __init__(self, arrays: Mapping[str, ArrayStore]) -> None:
        self.arrays = arrays

    def take(self, cell: Roi, fields: Fields) -> Mapping[str, str]:
        written = {}
        for name, array in self.arrays.items():
            field = fields[name]
            array.write(Roi((0, *cell.offset), (field.shape[0], *cell.shape)), field)
            written[name] = checksum(field)
        return written


class SampleSink:
    """Keeps a few voxels of every cell, for `verify` to predict again."""

    def __init__(self, place: Callable[[CellIndex], Path], cells: CellGrid, seed: int) -> None:
        self.place, self.cells, self.seed = place, cells, seed

    def take(self, cell: Roi, fields: Fields) -> Mapping[str, str]:
        index = self.cells.index(cell)
        positions = sample_positions(cell, index, self.seed)
        inside = tuple((positions - np.asarray(cell.offset)).T)
        arrays = {f"field_{name}": field[(slice(None), *inside)] for name, field in fields.items()}
        return {"samples": save_arrays(self.place(index), {"positions": positions, **arrays})}


def sample_positions(cell: Roi, index: CellIndex, seed: int) -> NDArray[np.int64]:
    """Positions in the volume of a cell's recorded voxels, shape (samples, ndim).

    A function of the seed and the cell alone, so that no order of work can change it.
    """
    generator = np.random.default_rng([seed, *index])
    corner, shape = np.asarray(cell.offset), np.asarray(cell.shape)
    return corner + generator.integers(0, shape, size=(SAMPLES, len(shape)))
