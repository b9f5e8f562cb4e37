"""Tasks done in this process, the next block being read while one is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stitchsafe.engine._failures import raise_interrupted, stops_the_run
from stitchsafe.engine._stage import Stage, Task, Workshop, do_task

__all__ = ["Inline", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task that is done, or the error that it failed with."""

    task: Task
    error: Exception | None = None


@dataclass(frozen=True)
class Inline:
    """Does tasks one after the other.

    A block is entered in the ledger before the next one is computed: whenever the process dies, at
    most one block's work is lost.
    """

    workshop: Workshop

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Do tasks in order; what stops the run is raised, other errors come as outcomes.

        `tasks` is advanced in another thread, one task ahead.
        """
        waiting, stages = iter(tasks), _Stages(self.workshop)
        reader = ThreadPoolExecutor(1, thread_name_prefix="stitchsafe-reader")
        try:
            coming = reader.submit(_next_source, waiting, stages)
            while (found := coming.result()) is not None:
                task, source, error = found
                del found
                coming = reader.submit(_next_source, waiting, stages)
                if error is None:
                    error = self._do(task, stages[task.stage], source)
                del source
                if error is not None and stops_the_run(error):
                    coming.cancel()
                    raise_interrupted(task.stage, f"block {task.block}", error)
                yield Outcome(task, error)
        finally:
            # Not waiting for what is read ahead: it may wait for a task that never comes.
            reader.shutdown(wait=False, cancel_futures=True)

    def _do(self, task: Task, stage: Stage, source: Any) -> Exception | None:
        try:
            do_task(task, stage, self.workshop.ledger, source)
        except Exception as error:
            return error
        return None


class _Stages:
    """The stages that tasks speak of, each looked up once."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._known: dict[str, Stage] = {}

    def __getitem__(self, name: str) -> Stage:
        if name not in self._known:
            self._known[name] = self._workshop.stage(name)
        return self._known[name]


def _next_source(
    tasks: Iterator[Task], stages: _Stages
) -> tuple[Task, Any, Exception | None] | None:
    """The next task with what its work reads, or the error of reading; None at the end."""
    task = next(tasks, None)
    if task is None:
        return None
    try:
        return task, stages[task.stage].work.read(task.block, task.cells), None
    except Exception as error:
        return task, None, error
