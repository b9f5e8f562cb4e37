"""The examples of coming steps, drawn by a thread while the current one computes.

A step's examples depend on its number alone, so it does not matter when they are drawn. At most so
many steps are ahead. What goes wrong while they are drawn is raised in the step that they are for:
those before it are done by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Ahead"]

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Makes something for each of some steps, in order; a context manager that owns the thread.

    Parameters
    ----------
    make
        Called with the number of a step, in another thread.
    begin, end
        The steps.
    most
        Steps to be made before they are asked for.
    """

    def __init__(self, make: Callable[[int], Made], begin: int, end: int, *, most: int = 2) -> None:
        self._make, self._next, self._end, self._most = make, begin, end, most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stitchsafe-examples")
        self._waiting: deque[Future[Made]] = deque()

    def __enter__(self) -> Self:
        self._fill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let what is being made end, and make no more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def take(self) -> Made:
        """What was made for the next step; raises what was raised there."""
        made = self._waiting.popleft().result()
        self._fill()
        return made

    def _fill(self) -> None:
        while len(self._waiting) < self._most and self._next < self._end:
            self._waiting.append(self._thread.submit(self._make, self._next))
            self._next += 1
