"""SIGTERM (a walltime, a scheduler) and Ctrl-C end a command part-way, and lose nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import stitchsafe
from stitchsafe.cli.ending import SIGNALS, end_at_once, end_before_anything
from stitchsafe.cli.outcome import Terminated
from stitchsafe.interruption import forget_interruption, interrupt

__all__ = ["signals_answered"]

_VERBS = {"check", "demo", "evaluate", "export", "plan", "predict", "train", "verify", "view"}
"""What is fetched when a command begins, and brings all imports with it."""


@contextmanager
def signals_answered() -> Iterator[None]:
    """Answer the first signal by an interruption, and a second Ctrl-C by ending at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _answer) for number in SIGNALS}
    try:
        yield
    finally:
        forget_interruption()
        for number, handler in before.items():
            over = handler is end_before_anything  # that would be untrue now
            signal.signal(number, signal.SIG_IGN if over else handler)


def _answer(number: int, frame: FrameType | None) -> None:
    if not _VERBS & vars(stitchsafe).keys():
        end_before_anything(number, frame)  # an import that is cut off may say anything
    # A scheduler may send SIGTERM more than once; only a person's Ctrl-C is impatience.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end_now)
    interrupt(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())


def _end_now(number: int, frame: FrameType | None) -> None:
    del number, frame
    end_at_once("interrupted twice; run the same command again")
