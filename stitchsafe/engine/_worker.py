"""A worker process: ``python -m stitchsafe.engine._worker PIPE``, started by ``_processes``."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from stitchsafe.engine._failures import portable
from stitchsafe.engine._stage import Task
from stitchsafe.interruption import heed, interrupt

_WATCH_SECONDS = 0.5


_working = False


class _Dismissed(BaseException):
    """The coordinator wants no more."""


def main(pipe: int) -> None:
    """Do tasks from a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the coordinator's to answer
    signal.signal(signal.SIGTERM, _dismiss)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(pipe)
    try:
        try:
            _serve(connection)
        except EOFError:
            pass
        except Exception as error:
            connection.send(("stops", portable(error)))
    except (OSError, _Dismissed):
        pass
    finally:
        # Without waiting for the thread that reads ahead, which may wait for a task.
        os._exit(0)


def _serve(connection: Connection[Any, Any]) -> None:
    path, opener, cores, threads = connection.recv()
    sys.path[:] = path
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)

    from stitchsafe.engine._allocator import return_freed_memory
    from stitchsafe.engine._inline import Inline

    return_freed_memory()
    workshop = pickle.loads(opener)()  # from the coordinator, through a pipe of its own
    global _working
    _working = True
    connection.send(("ready", None))
    for outcome in Inline(workshop).run(_incoming(connection)):
        heed()
        error = None if outcome.error is None else portable(outcome.error)
        connection.send(("done", error))


def _incoming(connection: Connection[Any, Any]) -> Iterator[Task]:
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        assert isinstance(task, Task)
        yield task


def _dismiss(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is done is being entered
    if not _working:
        os._exit(0)  # nothing has been begun that could be entered
    interrupt(_Dismissed())


def _end_with(parent: int) -> None:
    """End this process when its parent has: whoever goes on with the result must be alone."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
