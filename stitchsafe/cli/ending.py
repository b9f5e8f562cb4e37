"""Ending at once, by a signal: before a command has begun, when asked twice, or when all is over.

Imported first of all, so it imports next to nothing: until the rest is there, a signal must not
end in a traceback, nor without a word.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

__all__ = ["SIGNALS", "after_all", "before_anything", "end_at_once", "end_before_anything"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_PART_WAY = 3
_CLEAN_LINE = "\r\x1b[2K\x1b[?25h"  # without the bar that may stand there, and with a cursor


@contextmanager
def before_anything() -> Iterator[None]:
    """Answer signals by ending at once, as long as nothing else answers them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end_before_anything) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_before_anything(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal that finds nothing done."""
    del frame
    asked = "stopped by SIGTERM" if number == signal.SIGTERM else "interrupted"
    end_at_once(f"{asked} before anything was done")


def end_at_once(message: str) -> NoReturn:
    """End part-way with one line, wherever a signal has struck: without buffers or clean-up."""
    with suppress(OSError):
        clean = _CLEAN_LINE if os.isatty(2) else ""
        os.write(2, f"{clean}stitchsafe: error: {message}\n".encode())
    os._exit(_PART_WAY)


def after_all(code: int) -> None:
    """Answer signals by ending with the code that is decided, while the interpreter shuts down."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, end)
