"""Tasks done by worker processes on this machine.

::

    coordinator ── Task (a few hundred bytes) ──> worker: reads, computes, writes, commits
         <──────── done, or why not ─────────────

A worker opens the result, the volume and the network by itself; no voxel goes through a pipe. It is
a fresh interpreter, so that neither the caller's threads nor its main module come along. A worker
that dies costs the block that it was at; the ones that it had waiting go to others. One that dies
before it has opened anything costs no block, unless others in a row do the same.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Self

from stitchsafe.engine._inline import Outcome
from stitchsafe.engine._resident import peak_memory
from stitchsafe.engine._stage import Task, Workshop
from stitchsafe.errors import InterruptedRunError

__all__ = ["Opener", "Processes"]

Opener = Callable[[], Workshop]
"""Opens the place where a worker works. It is pickled."""

_WAITING = 2
"""Tasks that a worker is given at a time: one that it computes and one that it reads ahead."""

_GRACE = 60.0
"""Seconds that a worker has for entering what it has finished, when it is asked to stop."""

_STILLBORN = 4
"""So many workers that died in a row before they had opened anything are no accident."""


class Processes:
    """Does tasks in worker processes, which start with the first task and stay until the end.

    Parameters
    ----------
    openers
        One for each worker.
    cores
        For each worker, the cores that it is pinned to; empty where it may run anywhere.
    threads
        Threads of numerical libraries in each worker.
    """

    def __init__(
        self, openers: Sequence[Opener], *, cores: Sequence[Sequence[int]], threads: int
    ) -> None:
        self._openers = [pickle.dumps(opener) for opener in openers]
        self._cores, self._threads = cores, threads
        self._workers: list[_Worker | None] = [None] * len(openers)
        self._stillborn = 0
        self.peak_memory = 0
        """Largest resident memory of the workers, added up when they have ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        working = [worker for worker in self._workers if worker is not None]
        self.peak_memory = sum(peak_memory(worker.process.pid) for worker in working)
        for worker in working:
            worker.dismiss(at_once=error is not None)
        for worker in working:
            worker.wait()
        self._workers = [None] * len(self._openers)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Do tasks, in any order. What stops the run is raised when a worker meets it.

        Raises
        ------
        InterruptedRunError
            If workers die, one after the other, before they have opened what they work on.
        """
        coming, returned = iter(tasks), deque[Task]()
        while True:
            while (place := self._idle()) is not None:
                task = returned.popleft() if returned else next(coming, None)
                if task is None:
                    break
                self._at(place).give(task)
            busy: dict[object, _Worker] = {
                w.connection: w for w in self._workers if w is not None and w.tasks
            }
            if not busy:
                return
            for connection in wait([worker.connection for worker in busy.values()]):
                worker = busy[connection]
                try:
                    outcome = worker.receive()
                    self._stillborn = 0
                except (EOFError, OSError):
                    outcome = self._bury(worker, returned)
                if outcome is not None:
                    yield outcome

    def _bury(self, worker: _Worker, returned: deque[Task]) -> Outcome | None:
        """Take its tasks back; returns what became of the one that it was at, if it was at one."""
        self._workers[self._workers.index(worker)] = None
        how = worker.obituary()
        if worker.ready:
            died = worker.tasks.popleft()
            returned.extendleft(reversed(worker.tasks))
            return Outcome(died, InterruptedRunError(f"its worker process {how}"))
        self._stillborn += 1
        if self._stillborn == _STILLBORN:
            raise InterruptedRunError(
                f"{_STILLBORN} worker processes in a row ended before they had opened what they "
                f"work on; the last one {how}; mend that, or give fewer --workers, and run the "
                "same command again"
            )
        returned.extendleft(reversed(worker.tasks))
        return None

    def _idle(self) -> int | None:
        """The worker with the least to do, if any has room for a task."""
        given = [len(worker.tasks) if worker else 0 for worker in self._workers]
        least = min(given)
        return given.index(least) if least < _WAITING else None

    def _at(self, place: int) -> _Worker:
        worker = self._workers[place]
        if worker is None:
            cores = self._cores[place] if self._cores else ()
            worker = _Worker.hire(self._openers[place], cores, self._threads)
            self._workers[place] = worker
        return worker


@dataclass
class _Worker:
    """One worker process, as its coordinator sees it."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    tasks: deque[Task] = field(default_factory=deque)
    ready: bool = False

    @classmethod
    def hire(cls, opener: bytes, cores: Sequence[int], threads: int) -> _Worker:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "stitchsafe.engine._worker", str(theirs.fileno())]
        # A Ctrl-C goes to all processes of a terminal, and is this one's to answer: the worker
        # inherits that it is held back, before it can say so itself.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what a library prints there is not the answer
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()
        worker = cls(process, ours)
        ours.send((list(sys.path), opener, tuple(cores), threads))
        return worker

    def give(self, task: Task) -> None:
        with suppress(OSError):  # where it has died, receiving from it tells
            self.connection.send(task)
        self.tasks.append(task)

    def receive(self) -> Outcome | None:
        """What became of the task that it was at; None where it tells that it is ready."""
        kind, error = self.connection.recv()
        if kind == "ready":
            self.ready = True
            return None
        if kind == "stops":
            raise error
        return Outcome(self.tasks.popleft(), error)

    def obituary(self) -> str:
        """How it died, as far as the system tells."""
        self.connection.close()
        code = self.process.wait()
        if code >= 0:
            return f"ended with code {code}"
        name = signal.Signals(-code).name
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"

    def dismiss(self, *, at_once: bool) -> None:
        """Ask it to end: after its task, or at once with what it has finished entered."""
        if at_once:
            self.process.terminate()
        self.connection.close()

    def wait(self) -> None:
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
