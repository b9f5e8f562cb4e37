"""The instance table as CSV and Parquet, portion by portion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import MissingExtraError
from stitchsafe.volumes import VoxelSize

__all__ = ["Columns", "csv_to_parquet", "require_parquet", "with_volumes", "write_csv",
           "write_parquet"]  # fmt: skip

Columns = Mapping[str, NDArray[Any]]

_BLOCK = 1 << 24
_WHOLE = ("id", "voxels", "begin_", "end_")


def with_volumes(columns: Columns, axes: str, voxel_size: VoxelSize | None) -> Columns:
    """The columns with the volume of instances, in units where the voxel size is known."""
    if voxel_size is None:
        return columns
    name = f"volume_{voxel_size.unit}{len(axes)}"
    return {**columns, name: columns["voxels"] * float(np.prod(voxel_size.values))}


def write_csv(file: BinaryIO, portions: Iterable[Columns]) -> None:
    """Write a table with a head of names."""
    for number, columns in enumerate(portions):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if number == 0:
            writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        file.write(text.getvalue().encode())


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


def write_parquet(file: BinaryIO, portions: Iterable[Columns]) -> None:
    """Write a table, one group of rows for each portion."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    writer = None
    try:
        for columns in portions:
            table = pyarrow.table(dict(columns))
            writer = writer or ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def csv_to_parquet(source: BinaryIO, file: BinaryIO) -> None:
    """Write the Parquet form of a table that `write_csv` wrote."""
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
