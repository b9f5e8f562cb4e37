"""What a dask worker process does with a block.

A process has one bench: the job that is open on it, and one thread that opens it and computes. So
one block at a time is computed whatever number of threads the dask worker has, all of them in the
same thread, with as many threads of arithmetic as the recipe says. While it computes, the block
that will be next is read.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from stitchsafe.coordinates import Roi
from stitchsafe.engine._allocator import return_freed_memory
from stitchsafe.engine._failures import portable
from stitchsafe.engine._ledger import CellRecord
from stitchsafe.engine._stage import Stage, Task, Work, Workshop, do_task

__all__ = ["close_job", "do_block", "open_job"]


def open_job(job: str, opener: bytes) -> None:
    """Open what the blocks of a job are done with."""
    _computing(_bench.open, job, opener)


def do_block(job: str, opener: bytes, task: Task, following: Task | None) -> None:
    """Do a block, and read the one that probably follows meanwhile."""
    _computing(_bench.do, job, opener, task, following)


async def close_job(job: str) -> None:
    """Stop the job after the cell that is being computed, and drop what is open."""
    _bench.stopped.add(job)
    await asyncio.wrap_future(_computer.submit(_bench.close, job))


class _StoppedError(Exception):
    """The coordinator wants no more of this job."""


class _Bench:
    """The job that is open in this process; all its methods run in the one computing thread."""

    def __init__(self) -> None:
        self.job: str | None = None
        self.workshop: Workshop | None = None
        self.stopped: set[str] = set()
        self._stages: dict[str, Stage] = {}
        self._ahead: dict[Task, Future[Any]] = {}

    def open(self, job: str, opener: bytes) -> Workshop:
        if self.workshop is None or self.job != job:
            self._drop()
            return_freed_memory()
            self.workshop = pickle.loads(opener)()  # from the coordinator, whose task this is
            self.job = job
        return self.workshop

    def do(self, job: str, opener: bytes, task: Task, following: Task | None) -> None:
        if job in self.stopped:
            raise _StoppedError
        workshop = self.open(job, opener)
        stage = self._stage(task.stage)
        read = self._ahead.pop(task, None)
        self._ahead.clear()
        source = read.result() if read else stage.work.read(task.block, task.cells)
        del read
        if following is not None:
            work = self._stage(following.stage).work
            self._ahead[following] = _reader.submit(work.read, following.block, following.cells)
        do_task(task, stage, workshop.ledger, source)

    def close(self, job: str) -> None:
        if self.job == job:
            self._drop()

    def _stage(self, name: str) -> Stage:
        assert self.workshop is not None
        assert self.job is not None
        if name not in self._stages:
            stage = self.workshop.stage(name)
            work = _Stoppable(stage.work, self.job, self.stopped)
            self._stages[name] = replace(stage, work=work)
        return self._stages[name]

    def _drop(self) -> None:
        self.job = self.workshop = None
        self._stages.clear()
        self._ahead.clear()


@dataclass(frozen=True)
class _Stoppable:
    """Work that ends before a cell when its job is to stop."""

    work: Work
    job: str
    stopped: set[str]

    def read(self, block: Roi, cells: Sequence[Roi]) -> Any:
        return self.work.read(block, cells)

    def compute(self, cells: Sequence[Roi], source: Any) -> Iterator[Any]:
        results = self.work.compute(cells, source)
        for _ in cells:
            if self.job in self.stopped:
                raise _StoppedError
            yield next(results)

    def write(self, cell: Roi, result: Any) -> CellRecord:
        return self.work.write(cell, result)


_bench = _Bench()
_computer = ThreadPoolExecutor(1, thread_name_prefix="stitchsafe-computer")
_reader = ThreadPoolExecutor(1, thread_name_prefix="stitchsafe-reader")


def _computing(function: Any, *arguments: Any) -> None:
    try:
        _computer.submit(function, *arguments).result()
    except Exception as error:
        raise portable(error) from None
