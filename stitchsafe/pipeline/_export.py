"""A result in forms that other programs read: OME-TIFF, CSV, Parquet.

Everything is checked before anything is written; all files come into being at the end together, so
that an export which is stopped leaves none.
"""

from __future__ import annotations

import io
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, get_args

from stitchsafe.coordinates import grid_cells
from stitchsafe.engine import (
    Events,
    Export,
    Silent,
    arriving,
    export_targets,
    refuse_place,
)
from stitchsafe.errors import InputError, IntegrityError, PlanError, StoreError
from stitchsafe.instances import InstanceTable, LabelMeasures
from stitchsafe.interruption import heed
from stitchsafe.pipeline._machine import allotted_memory
from stitchsafe.pipeline._result import LabelResult
from stitchsafe.pipeline._tables import (
    csv_pieces,
    csv_to_parquet,
    require_parquet,
    write_parquet,
)
from stitchsafe.tiling import format_bytes
from stitchsafe.volumes import (
    Place,
    Volume,
    keeps_every_page,
    open_volume,
    refuse_tiff_type,
    tiff_windows,
    write_ome_tiff,
)

__all__ = ["Export", "ExportOptions", "ResultForm", "export_result"]

ResultForm = Literal["tiff", "csv", "parquet"]
"""What a result can be exported to."""


class ExportOptions(TypedDict, total=False):
    """Keyword options of `export_result`."""

    overwrite: bool
    max_memory: int | None
    events: Events | None


_ENDINGS: dict[str, str] = {"tiff": ".ome.tif", "csv": ".csv", "parquet": ".parquet"}
_BLOCK = 1 << 22
"""Voxels that are measured at once, unless a chunk has more."""
_BESIDE = 500_000_000
"""What an export takes at most beside the table: the interpreter, and a block of labels."""


def export_result(
    result: str | Path,
    to: Sequence[ResultForm],
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    max_memory: int | None = None,
    events: Events | None = None,
) -> Export:
    """Write the labels of a result, or a table of its instances, for other programs.

    Parameters
    ----------
    result
        What predict wrote.
    to
        ``tiff``: the labels as OME-TIFF, tiled, with those levels of their pyramid that keep every
        slice. ``csv``, ``parquet``: the instances, a row each: id, voxels, centroid, box, whether
        it touches the border of what was predicted, and its volume where the voxel size is known.
    out
        A folder for the files, or of one form the file; by default they lie beside the result.
    overwrite
        Replace files that are there.
    max_memory
        Bytes that computing the table may take, some 100 for each instance beside half a gigabyte;
        by default the job's or machine's allotment. A table that predict wrote (``--save table``)
        is taken as it is.
    events
        Told of progress.

    Returns
    -------
    Export

    Raises
    ------
    InputError
        If this is no finished result with labels, or the files cannot be written; none was.
    IntegrityError
        If what is stored is damaged.
    """
    began, events = time.monotonic(), events or Silent()
    found = LabelResult.of(result)
    forms: list[str] = list(dict.fromkeys(to))
    for form in forms:
        if form not in get_args(ResultForm):
            raise InputError(
                f"a result has no form {form!r}; it can be exported to "
                f"{', '.join(get_args(ResultForm))}"
            )
    files = _targets(found, forms, out)

    def admit(path: Path) -> None:
        _refuse_target(path, found, overwrite=overwrite)

    for path in files.values():
        admit(path)
    writers = _writers(found, files, max_memory, events)
    with arriving(list(files.values()), admit) as opened:
        for form, file in zip(files, opened, strict=True):
            writers[form](file)
    return Export(files, time.monotonic() - began)


def _targets(found: LabelResult, forms: Sequence[str], out: str | Path | None) -> dict[str, Path]:
    """Where each file goes."""
    here = found.store.path.local
    name = found.store.path.name.removesuffix(".zarr").removesuffix(".ome")
    if out is None and here is None:
        raise StoreError(
            f"{found.store.path} lies on no disk, so nothing can be written beside it; say where "
            "the files go with --out"
        )
    beside = Path() if here is None else here.absolute().parent
    return export_targets(name, beside, {form: _ENDINGS[form] for form in forms}, out)


def _refuse_target(path: Path, found: LabelResult, *, overwrite: bool) -> None:
    """Refuse a place where a file would do harm, or cannot be."""
    if found.store.path.holds(Place.of(path.absolute())):
        raise StoreError(
            f"{path} lies in the result itself, where only predict writes; choose another place "
            "with --out"
        )
    source = str(found.store.stored()["source"] or "")
    for known in map(Path, filter(None, (source, source.rpartition(":")[0]))):
        if path.exists() and known.exists() and path.samefile(known):
            raise StoreError(
                f"{path} is the volume that the result was made of; choose another place with --out"
            )
    refuse_place(path, overwrite=overwrite)


def _writers(
    found: LabelResult,
    files: Mapping[str, Path],
    max_memory: int | None,
    events: Events,
) -> dict[str, Callable[[BinaryIO], None]]:
    """What writes each form; whatever speaks against one of them is found here."""
    writers: dict[str, Callable[[BinaryIO], None]] = {}
    if "parquet" in files:
        require_parquet()
    if "tiff" in files:
        refuse_tiff_type(found.volume.dtype)
        scratch = files["tiff"].absolute().parent
        writers["tiff"] = lambda file: _write_tiff(found, file, scratch, events)
    if set(files) <= {"tiff"}:
        return writers
    if (checksum := _kept_table(found)) is not None:
        writers |= {
            "csv": lambda file: file.writelines(_pieces(found, checksum)),
            "parquet": lambda file: _convert_table(found, checksum, file),
        }
    else:
        _refuse_too_many(found, max_memory)
        measured: list[LabelMeasures] = []

        def tables() -> Iterator[InstanceTable]:
            if not measured:
                measured.append(_measure(found, events))
            for table in measured[0].tables():
                heed()
                yield table

        shown = found.volume.axes, found.volume.voxel_size
        writers |= {
            "csv": lambda file: file.writelines(csv_pieces(tables(), *shown)),
            "parquet": lambda file: write_parquet(file, tables(), *shown),
        }
    return {form: writers[form] for form in files}


def _write_tiff(found: LabelResult, file: BinaryIO, scratch: Path, events: Events) -> None:
    volume = found.volume
    levels: list[Volume] = [volume]
    for level in volume.levels[1:]:
        if keeps_every_page(level.shape, volume.shape):
            levels.append(open_volume(found.store.labels, level=level.index))
    events.stage("tiff", sum(1 for level in levels for _ in tiff_windows(level)), "windows")

    def advance() -> None:
        heed()
        events.advance()

    name = found.store.labels.name
    write_ome_tiff(file, levels, name=name, scratch=scratch, advance=advance)


def _concluded(found: LabelResult) -> Mapping[str, Any]:
    """What merging has entered of the instances."""
    return found.store.ledger.finished("instances")[()]


def _kept_table(found: LabelResult) -> str | None:
    """The checksum of the table that predict wrote; None where it was not asked to."""
    if found.recipe.classes:
        return None
    checksum = _concluded(found)["checksums"].get("table")
    return None if checksum is None else str(checksum)


def _pieces(found: LabelResult, checksum: str) -> Iterator[bytes]:
    """The bytes of the table that predict wrote; in the end it is an error if they are others."""
    place, crc = found.store.table_file, 0
    try:
        for piece in place.read_pieces():
            heed()
            crc = zlib.crc32(piece, crc)
            yield piece
    except FileNotFoundError:
        crc = -1
    if f"{crc:08x}" != checksum:
        raise IntegrityError(
            f"{place} is not the table that was written; stitchsafe verify says what else is "
            "damaged, and predict --repair mends it"
        )


def _convert_table(found: LabelResult, checksum: str, file: BinaryIO) -> None:
    for _ in _pieces(found, checksum):
        pass  # unless it is damaged
    place = found.store.table_file
    with (
        io.BytesIO(place.read_bytes()) if place.local is None else place.local.open("rb") as source
    ):
        csv_to_parquet(source, file)


def _largest_id(found: LabelResult) -> int:
    if found.recipe.classes:
        return found.recipe.classes - 1
    return int(_concluded(found)["instances"])


def _refuse_too_many(found: LabelResult, max_memory: int | None) -> None:
    count = _largest_id(found)
    rows = count * LabelMeasures.bytes_per_instance(len(found.volume.shape))
    allowed = allotted_memory().memory if max_memory is None else max_memory
    if rows + _BESIDE > allowed:
        raise PlanError(
            f"computing the table of {count} instances takes {format_bytes(rows + _BESIDE)} of "
            f"memory, and {format_bytes(allowed)} are allowed; raise --max-memory, or let predict "
            "write the table with --save labels,table"
        )


def _measure(found: LabelResult, events: Events) -> LabelMeasures:
    volume, region = found.volume, found.recipe.roi
    measures = LabelMeasures(_largest_id(found), region)
    blocks = list(grid_cells(region, _block(volume)))
    events.stage("table", len(blocks), "blocks")
    for block in blocks:
        heed()
        measures.add(volume.read(block)[0], block.offset)
        events.advance()
    return measures


def _block(volume: Volume) -> tuple[int, ...]:
    """Whole chunks: one, or as many along the last axes as are not too large together."""
    block = list(volume.chunk_shape)
    for axis in reversed(range(len(block))):
        spare = min(_BLOCK // math.prod(block), -(-volume.shape[axis] // block[axis]))
        block[axis] *= max(1, spare)
    return tuple(block)
