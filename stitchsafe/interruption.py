"""Signals that ask a run to stop, answered where nothing is torn.

What is being entered in the ledger is entered first: a handler calls `interrupt`, which raises at
once, or at the end of what is `untorn`. An exception out of a handler can also be lost, if it
happens to strike within a destructor; so `heed` raises it again between two blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["forget_interruption", "heed", "interrupt", "untorn"]


@dataclass
class _State:
    depth: int = 0
    asked: BaseException | None = None


_state = _State()


def interrupt(error: BaseException) -> None:
    """Raise `error` in the main thread, as soon as nothing is torn by it; for signal handlers."""
    _state.asked = error
    if not _state.depth:
        raise error


def heed() -> None:
    """Raise what was asked for, if it has got lost."""
    if _state.asked is not None and not _state.depth and _is_main():
        raise _state.asked


def forget_interruption() -> None:
    """Begin anew: what was asked for has been answered."""
    _state.asked = None


@contextmanager
def untorn() -> Iterator[None]:
    """Let nothing interrupt what happens within; the main thread alone is ever interrupted."""
    if not _is_main():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
    heed()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
