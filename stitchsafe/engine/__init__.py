"""Runs a schedule of a recipe: read, forward, crop, write, commit."""

from stitchsafe.engine._allocator import return_freed_memory
from stitchsafe.engine._border import border_map
from stitchsafe.engine._durable import (
    file_checksum,
    load_arrays,
    save_arrays,
    save_bytes,
    save_json,
)
from stitchsafe.engine._events import Events, Silent
from stitchsafe.engine._forward import BlockInput, FieldMaker, Fields, Readable
from stitchsafe.engine._intensity import Intensity
from stitchsafe.engine._lease import Lease
from stitchsafe.engine._ledger import CellIndex, CellRecord, Ledger
from stitchsafe.engine._runner import StageCount, Work, run_blocks, run_once
from stitchsafe.engine._sinks import (
    FieldSink,
    SampleSink,
    Sink,
    checksum,
    map_fields,
    sample_positions,
)

__all__ = [
    "BlockInput",
    "CellIndex",
    "CellRecord",
    "Events",
    "FieldMaker",
    "FieldSink",
    "Fields",
    "Intensity",
    "Lease",
    "Ledger",
    "Readable",
    "SampleSink",
    "Silent",
    "Sink",
    "StageCount",
    "Work",
    "border_map",
    "checksum",
    "file_checksum",
    "load_arrays",
    "map_fields",
    "return_freed_memory",
    "run_blocks",
    "run_once",
    "sample_positions",
    "save_arrays",
    "save_bytes",
    "save_json",
]
