"""SIGTERM (a walltime, a scheduler) and Ctrl-C end a command part-way, and lose nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stitchsafe.cli.outcome import ExitCode, Terminated, complain
from stitchsafe.interruption import forget_interruption, interrupt

__all__ = ["signals_answered"]


@contextmanager
def signals_answered() -> Iterator[None]:
    """Answer the first signal by an interruption, and a second Ctrl-C by ending at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _answer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        forget_interruption()
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(number: int, frame: FrameType | None) -> None:
    del frame
    # A scheduler may send SIGTERM more than once; only a person's Ctrl-C is impatience.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end_at_once)
    interrupt(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())


def _end_at_once(number: int, frame: FrameType | None) -> None:
    del number, frame
    complain("interrupted twice; the same command goes on from what is done")
    sys.stderr.flush()
    os._exit(ExitCode.PART_WAY)
