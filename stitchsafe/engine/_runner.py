"""Runs a stage: blocks in order, each committed when its data is on the disk.

Every stage is pure: it reads what earlier stages wrote and writes arrays of its own. So a block
that was interrupted is simply done again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine._events import Events
from stitchsafe.engine._ledger import CellIndex, CellRecord, Ledger
from stitchsafe.errors import InterruptedRunError, VolumeError

__all__ = ["StageCount", "Work", "run_blocks", "run_once"]

Work = Callable[[Roi, Sequence[Roi]], Iterable[tuple[Roi, CellRecord]]]
"""Does the given cells of a block; yields each with its record, data on the disk."""


_NO_MEMORY = "allocate memory"


@dataclass(frozen=True, slots=True)
class StageCount:
    """Blocks of a stage: in all, and how many of them an earlier run had finished."""

    total: int
    resumed: int


def run_blocks(
    stage: str,
    work: Work,
    *,
    cells: CellGrid,
    block_shape: Sequence[int],
    ledger: Ledger,
    events: Events,
) -> StageCount:
    """Do what is left of a stage.

    Parameters
    ----------
    stage
        Its name in the ledger.
    work
        Does cells.
    cells
        All cells of the stage.
    block_shape
        Cells that are done and committed together.
    ledger, events
        Where it is entered, and told.

    Raises
    ------
    InterruptedRunError
        If a block cannot be finished: the disk is full, memory runs out, bytes cannot be read.
    """
    done = ledger.finished(stage)
    total = sum(1 for _ in cells.blocks(block_shape))
    events.stage(stage, total, "blocks")
    resumed = 0
    for block in cells.blocks(block_shape):
        todo = [cell for cell in cells.cells(block) if cells.index(cell) not in done]
        resumed += not todo
        if todo:
            _commit_block(stage, work, block, todo, cells, ledger)
        events.advance()
    return StageCount(total, resumed)


def _commit_block(
    stage: str,
    work: Work,
    block: Roi,
    todo: Sequence[Roi],
    cells: CellGrid,
    ledger: Ledger,
) -> None:
    records: dict[CellIndex, CellRecord] = {}
    with _stops_part_way(stage, f"block {block}"):
        for cell, record in work(block, todo):
            records[cells.index(cell)] = record
        ledger.commit(stage, records)


def run_once(
    stage: str, work: Callable[[], CellRecord], *, ledger: Ledger, events: Events
) -> CellRecord:
    """Do a stage that is one piece of work, unless it is done; returns its record."""
    done = ledger.finished(stage)
    events.stage(stage, 1, "steps")
    if () not in done:
        with _stops_part_way(stage, "its only step"):
            done[()] = work()
            ledger.commit(stage, {(): done[()]})
    events.advance()
    return done[()]


@contextmanager
def _stops_part_way(stage: str, what: str) -> Iterator[None]:
    """Say of what is raised within that it stopped a run, which the same command resumes.

    A volume that turns out to be damaged when it is read is no longer refused before anything is
    written; and torch reports the want of memory as a plain RuntimeError.
    """
    try:
        yield
    except (OSError, MemoryError, VolumeError) as error:
        raise _interrupted(stage, what, error) from error
    except RuntimeError as error:
        if _NO_MEMORY not in str(error):
            raise
        raise _interrupted(stage, what, error) from error


def _interrupted(stage: str, what: str, error: BaseException) -> InterruptedRunError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, remedy = "the disk is full", "free some space"
    elif isinstance(error, MemoryError) or _NO_MEMORY in str(error):
        reason, remedy = "memory ran out", "free some, or give a smaller --block-shape,"
    else:
        reason, remedy = " ".join(str(error).split())[:500], "mend that"
    return InterruptedRunError(
        f"stage {stage!r} stopped at {what}: {reason}; {remedy} and run the same command again: "
        "it goes on from there"
    )
