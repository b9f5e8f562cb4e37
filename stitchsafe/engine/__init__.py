"""Runs a schedule of a recipe: read, forward, crop, write, commit."""

from stitchsafe.engine._allocator import return_freed_memory
from stitchsafe.engine._arriving import Export, arriving, export_targets, refuse_place
from stitchsafe.engine._border import border_map
from stitchsafe.engine._dask import Dask
from stitchsafe.engine._durable import (
    file_checksum,
    load_arrays,
    load_json,
    place_checksum,
    save_arrays,
    save_bytes,
    save_json,
)
from stitchsafe.engine._events import Events, Silent
from stitchsafe.engine._forward import BlockInput, FieldMaker, Fields, Readable
from stitchsafe.engine._inline import Inline, Outcome
from stitchsafe.engine._intensity import Intensity
from stitchsafe.engine._lease import Lease
from stitchsafe.engine._ledger import CellIndex, CellRecord, Ledger
from stitchsafe.engine._processes import Opener, Processes
from stitchsafe.engine._resident import peak_memory
from stitchsafe.engine._runner import Executor, StageCount, run_blocks, run_once
from stitchsafe.engine._shares import Shares
from stitchsafe.engine._sinks import (
    FieldSink,
    FieldWork,
    SampleSink,
    Sink,
    checksum,
    rounded,
    sample_positions,
)
from stitchsafe.engine._stage import ArrayWork, FileWork, Stage, Task, Work, Workshop

__all__ = [
    "ArrayWork",
    "BlockInput",
    "CellIndex",
    "CellRecord",
    "Dask",
    "Events",
    "Executor",
    "Export",
    "FieldMaker",
    "FieldSink",
    "FieldWork",
    "Fields",
    "FileWork",
    "Inline",
    "Intensity",
    "Lease",
    "Ledger",
    "Opener",
    "Outcome",
    "Processes",
    "Readable",
    "SampleSink",
    "Shares",
    "Silent",
    "Sink",
    "Stage",
    "StageCount",
    "Task",
    "Work",
    "Workshop",
    "arriving",
    "border_map",
    "checksum",
    "export_targets",
    "file_checksum",
    "load_arrays",
    "load_json",
    "peak_memory",
    "place_checksum",
    "refuse_place",
    "return_freed_memory",
    "rounded",
    "run_blocks",
    "run_once",
    "sample_positions",
    "save_arrays",
    "save_bytes",
    "save_json",
]
