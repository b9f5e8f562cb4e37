"""Tasks done by the workers of a dask.distributed cluster.

::

    coordinator ── Task (a few hundred bytes) ──> scheduler ──> worker: reads, computes, writes,
         <──────── done, or why not ──────────────                 commits

Each worker process is given one block at a time, and told which one is likely to follow. A block is
bound to its worker, so that it is the coordinator and not dask who decides what becomes of it when
the worker dies: it is tried again as any block is, and no block waits on the scheduler. Workers may
come and go while a stage runs; a new one is first asked to open what it shall work on.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from stitchsafe.engine._dask_worker import close_job, do_block, open_job
from stitchsafe.engine._failures import raise_interrupted, stops_the_run
from stitchsafe.engine._inline import Outcome
from stitchsafe.engine._processes import Opener
from stitchsafe.engine._stage import Task
from stitchsafe.errors import InputError, InterruptedRunError, StitchsafeError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Dask"]

_LOOK_SECONDS = 1.0
"""How often it is asked which workers there are."""

_GRACE = 60.0
"""Seconds for workers that are gone to come back, and for the last ones to enter what is done."""


_STILLBORN = 4
"""So many workers lost in a row before they had opened anything are no accident."""

_LOST = "lost"
"""The identity of a worker that has died, of which no living one can be taken for it."""


class Dask:
    """Does tasks on a cluster.

    Parameters
    ----------
    client
        Connected to the scheduler; it is not closed here.
    opener
        Opens the place where a worker works.
    say
        Told of workers that come too late or are lost.
    patience
        Seconds to wait where no worker is left, before the run is given up.
    """

    def __init__(
        self,
        client: Client,
        opener: Opener,
        *,
        say: Callable[[str], None],
        patience: float = _GRACE,
    ) -> None:
        self._client, self._say, self._patience = client, say, patience
        self._opener, self._job = pickle.dumps(opener), uuid4().hex
        self._places: dict[str, _Place] = {}
        self._unfit: dict[str, Exception] = {}
        self._finished: SimpleQueue[tuple[_Place, Future]] = SimpleQueue()
        self._count = 0
        self._done = 0
        self._stillborn = 0
        self.wants_more = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        futures = [place.future for place in self._places.values() if place.future is not None]
        if self._client.status != "running":
            return
        closing = threading.Thread(target=self._close, args=(futures,), daemon=True)
        closing.start()
        closing.join(_GRACE)

    def _close(self, futures: list[Future]) -> None:
        """Let the workers enter what they have finished, and forget the job."""
        try:
            self._client.run(close_job, self._job, workers=list(self._places), on_error="ignore")
            self._client.cancel(futures)
        except OSError:
            pass  # the scheduler is gone, and with it whoever could be told

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Do tasks, in any order. What stops the run is raised when a worker meets it.

        Raises
        ------
        InputError
            If, at the start, a worker cannot open what it shall work on.
        InterruptedRunError
            If the scheduler is lost, or no worker is left.
        """
        coming, returned = iter(tasks), deque[Task]()
        looked, lonely = -_LOOK_SECONDS, None
        while True:
            if time.monotonic() - looked >= _LOOK_SECONDS:
                for lost in self._look():
                    if lost.tasks:
                        died, *others = lost.tasks
                        returned.extendleft(reversed(others))
                        yield Outcome(died, InterruptedRunError(lost.obituary()))
                looked = time.monotonic()
            if self._done or all(place.ready for place in self._places.values()):
                self._hand_out(coming, returned)
            if not returned and (ahead := next(coming, None)) is not None:
                returned.append(ahead)
            self.wants_more = bool(returned)
            if not returned and not any(place.tasks for place in self._places.values()):
                return
            if self._places:
                lonely = None
            elif lonely is None:
                lonely = time.monotonic()
            elif time.monotonic() - lonely > self._patience:
                raise self._nobody()
            for place, future in self._wait():
                if place.future is future:
                    outcome = self._answer(place, future)
                    if outcome is not None:
                        yield outcome

    def _hand_out(self, coming: Iterator[Task], returned: deque[Task]) -> None:
        """Give each worker a block, and then each one that follows."""
        fit = [place for place in self._places.values() if place.ready]
        for room in (1, 2):
            for place in fit:
                while len(place.tasks) < room:
                    task = returned.popleft() if returned else next(coming, None)
                    if task is None:
                        break
                    place.tasks.append(task)
        for place in fit:
            if place.tasks and place.future is None:
                following = place.tasks[1] if len(place.tasks) > 1 else None
                self._submit(place, do_block, place.tasks[0], following)

    def _submit(self, place: _Place, function: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        future = self._client.submit(
            function,
            self._job,
            self._opener,
            *arguments,
            key=f"stitchsafe-{self._job}-{self._count}",
            workers=[place.address],
            retries=0,
            pure=False,
        )
        place.future = future
        future.add_done_callback(lambda future: self._finished.put((place, future)))

    def _wait(self) -> Iterator[tuple[_Place, Future]]:
        try:
            yield self._finished.get(timeout=_LOOK_SECONDS)
            while True:
                yield self._finished.get_nowait()
        except Empty:
            return

    def _answer(self, place: _Place, future: Future) -> Outcome | None:
        """What became of a block; None where a worker has opened what it works on, or cannot."""
        place.future = None
        if future.status in ("cancelled", "lost"):
            self._refuse_lost_scheduler()
            place.identity = _LOST
            return None
        error = None if future.status == "finished" else future.exception()
        if _killed(error):
            place.identity = _LOST
            return None
        if not place.ready:
            place.ready = error is None
            if error is not None:
                self._set_aside(place, error)
            return None
        task = place.tasks.popleft()
        if error is None:
            self._done += 1
        elif stops_the_run(error):
            raise_interrupted(task.stage, f"block {task.block}", error)
        return Outcome(task, error)

    def _set_aside(self, place: _Place, error: Exception) -> None:
        """Do without a worker that cannot open what it shall work on."""
        del self._places[place.address]
        self._unfit[place.identity] = error
        said = f"the dask worker {place.address} on {place.host} cannot take part: {error}"
        if not self._done:
            raise _same_kind(error, said) from error
        self._say(f"{said}; it is left aside")

    def _nobody(self) -> InterruptedRunError:
        reason = next((f" ({error})" for error in self._unfit.values()), "")
        return InterruptedRunError(
            f"no dask worker is left{reason}, and none came for {self._patience:.0f} s; start some "
            "and run the same command again: it goes on from there"
        )

    def _look(self) -> list[_Place]:
        """Notice workers that have come; returns those that are gone."""
        self._refuse_lost_scheduler()
        try:
            there = self._client.scheduler_info()["workers"]
        except (OSError, ValueError, RuntimeError) as error:
            self._refuse_lost_scheduler(error)
            return []
        known = {address: str(about["id"]) for address, about in there.items()}
        lost = [p for p in self._places.values() if known.get(p.address) != p.identity]
        for place in lost:
            del self._places[place.address]
            self._stillborn = 0 if place.ready else self._stillborn + 1
            if self._stillborn == _STILLBORN:
                raise InterruptedRunError(
                    f"{_STILLBORN} dask workers in a row were lost before they had opened what "
                    "they work on; see their logs, mend that, and run the same command again"
                )
            if place.future is not None:
                self._client.cancel([place.future])
                place.future = None
            self._say(f"{place.obituary()}; {len(self._places)} are left")
        for address, identity in known.items():
            if address not in self._places and identity not in self._unfit:
                place = _Place(address, identity, str(there[address].get("host", "")))
                self._places[address] = place
                self._submit(place, open_job)
        return lost

    def _refuse_lost_scheduler(self, error: Exception | None = None) -> None:
        if self._client.status == "running" and error is None:
            return
        raise InterruptedRunError(
            "the dask scheduler was lost; see that it runs, and run the same command again: it "
            "goes on from there"
        ) from error


@dataclass(eq=False)
class _Place:
    """A worker process, and the blocks that it has: the one that it is at, and the next."""

    address: str
    identity: str
    host: str
    tasks: deque[Task] = field(default_factory=deque)
    future: Future | None = None
    ready: bool = False

    def obituary(self) -> str:
        return f"the dask worker {self.address} on {self.host} was lost"


def _killed(error: BaseException | None) -> bool:
    """Whether dask says that its worker died, and not the block's own work."""
    return type(error).__name__ == "KilledWorker"


def _same_kind(error: Exception, said: str) -> StitchsafeError:
    """An error that says more, and ends the run with the same code."""
    if isinstance(error, InputError):
        return InputError(said)
    return InterruptedRunError(said)
