"""Runs stages: blocks are handed to an executor, failures collected, finished cells left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine._events import Events
from stitchsafe.engine._failures import raise_interrupted, set_aside
from stitchsafe.engine._inline import Outcome
from stitchsafe.engine._ledger import CellRecord, Ledger
from stitchsafe.engine._stage import Task
from stitchsafe.errors import VolumeError
from stitchsafe.interruption import heed

__all__ = ["Executor", "StageCount", "run_blocks", "run_once"]

_TRIES = 3
"""How often a block is tried before it is set aside."""

_MOST_SET_ASIDE = 16
"""So many blocks set aside say that the fault is not in the blocks."""


class Executor(Protocol):
    """Does tasks somewhere: in this process, in others, on a cluster."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Do tasks, in any order; an outcome for each.

        What stops the run is raised, and no further task is begun.
        """


@dataclass(frozen=True, slots=True)
class StageCount:
    """Blocks of a stage: in all, and how many of them an earlier run had finished."""

    total: int
    resumed: int


def run_blocks(
    stage: str,
    *,
    cells: CellGrid,
    block_shape: Sequence[int],
    executor: Executor,
    ledger: Ledger,
    events: Events,
    share: Callable[[Sequence[Roi]], Sequence[Roi]] | None = None,
) -> StageCount:
    """Do what is left of a map stage.

    Parameters
    ----------
    stage
        Its name in the ledger.
    cells
        All cells of the stage.
    block_shape
        Cells that are done and committed together.
    executor
        Does the blocks.
    ledger, events
        Where finished cells stand, and what is told.
    share
        Chooses the blocks to do; all by default.

    Raises
    ------
    InterruptedRunError
        If blocks cannot be finished: the disk is full, memory runs out, bytes cannot be read.
    """
    done = ledger.finished(stage).keys()
    blocks: Sequence[Roi] = list(cells.blocks(block_shape))
    if share is not None:
        blocks = share(blocks)
    tasks = []
    for block in blocks:
        todo = tuple(cell for cell in cells.cells(block) if cells.index(cell) not in done)
        if todo:
            tasks.append(Task(stage, block, todo))
    resumed = len(blocks) - len(tasks)
    events.stage(stage, len(blocks), "blocks")
    events.advance(resumed)
    _run_tasks(stage, tasks, executor, events)
    return StageCount(len(blocks), resumed)


def _run_tasks(stage: str, tasks: Sequence[Task], executor: Executor, events: Events) -> None:
    """Do tasks, each as often as `_TRIES` allows; then say which could not be done."""
    failed: list[tuple[Task, Exception]] = []
    begun = 0

    def waiting() -> Iterator[Task]:
        nonlocal begun
        for task in todo:
            if len(failed) >= _MOST_SET_ASIDE:
                return
            begun += 1
            yield task

    todo = list(tasks)
    for attempt in range(_TRIES):
        failed, begun = [], 0
        for outcome in executor.run(waiting()):
            heed()
            if outcome.error is None:
                events.advance()
            else:
                failed.append((outcome.task, outcome.error))
        left = len(todo) - begun
        if not failed:
            return
        if left:
            break
        todo = [task for task, _ in failed]
        if attempt + 1 < _TRIES:
            events.say(f"stage {stage}: {len(failed)} blocks failed and are tried again")
    reasons = [(task.block, error) for task, error in failed]
    raise set_aside(stage, reasons, left) from failed[0][1]


def run_once(
    stage: str, work: Callable[[], CellRecord], *, ledger: Ledger, events: Events
) -> CellRecord:
    """Do a stage that is one piece of work, unless it is done; returns its record."""
    done = ledger.finished(stage)
    events.stage(stage, 1, "steps")
    if () not in done:
        try:
            done[()] = work()
            ledger.commit(stage, {(): done[()]})
        except (OSError, MemoryError, VolumeError) as error:
            raise_interrupted(stage, "its only step", error)
    events.advance()
    return done[()]
