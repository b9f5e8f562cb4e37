"""The instance table as CSV and Parquet, portion by portion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import MissingExtraError
from stitchsafe.instances import InstanceTable
from stitchsafe.volumes import VoxelSize

__all__ = ["csv_pieces", "csv_to_parquet", "require_parquet", "write_parquet"]

Columns = Mapping[str, NDArray[Any]]

_BLOCK = 1 << 24
_ROWS = 1 << 14
_WHOLE = ("id", "voxels", "begin_", "end_")


def columns_of(table: InstanceTable, axes: str, voxel_size: VoxelSize | None) -> Columns:
    """Columns by name; volumes of instances in physical units where the voxel size is known."""
    known = table.columns(axes)
    if voxel_size is None:
        return known
    volume = known["voxels"] * float(np.prod(voxel_size.values))
    return {**known, f"volume_{voxel_size.unit}{len(axes)}": volume}


def csv_pieces(
    tables: Iterable[InstanceTable], axes: str, voxel_size: VoxelSize | None
) -> Iterator[bytes]:
    """The instance table as CSV."""
    head = columns_of(InstanceTable.empty(len(axes)), axes, voxel_size)
    yield ",".join(head).encode() + b"\n"
    for table in tables:
        known = columns_of(table, axes, voxel_size)
        for begin in range(0, len(table.ids), _ROWS):
            rows = (column[begin : begin + _ROWS].tolist() for column in known.values())
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(zip(*rows, strict=True))
            yield text.getvalue().encode()


def require_parquet() -> None:
    """Refuse to go on without what writes Parquet.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error


def write_parquet(
    file: BinaryIO, tables: Iterable[InstanceTable], axes: str, voxel_size: VoxelSize | None
) -> None:
    """Write the instance table as Parquet, a group of rows for each of its portions."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    head = columns_of(InstanceTable.empty(len(axes)), axes, voxel_size)
    with ParquetWriter(file, pyarrow.table(dict(head)).schema) as writer:
        for table in tables:
            writer.write_table(pyarrow.table(dict(columns_of(table, axes, voxel_size))))


def csv_to_parquet(source: BinaryIO, file: BinaryIO) -> None:
    """Write the Parquet form of a table of `csv_pieces`."""
    import pyarrow.parquet
    from pyarrow.csv import ConvertOptions, ReadOptions, open_csv
    from pyarrow.parquet import ParquetWriter

    names = next(csv.reader([source.readline().decode()]))
    types = {
        name: pyarrow.int64()
        if name.startswith(_WHOLE)
        else pyarrow.bool_()
        if name == "touches_border"
        else pyarrow.float64()
        for name in names
    }
    begin = source.tell()
    if not source.read(1):  # of no instances, which the reader takes for no table
        empty = {name: pyarrow.array([], kind) for name, kind in types.items()}
        pyarrow.parquet.write_table(pyarrow.table(empty), file)
        return
    source.seek(begin)
    batches = open_csv(
        source,
        read_options=ReadOptions(block_size=_BLOCK, column_names=names),
        convert_options=ConvertOptions(
            column_types=types, true_values=["True"], false_values=["False"]
        ),
    )
    with ParquetWriter(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
