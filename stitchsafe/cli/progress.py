"""What a run says while it goes, on stderr: decisions as lines, work as a bar.

A bar is drawn on a terminal only; lines are for logs too. ``--quiet`` silences both. With
``--progress json`` a program that started this one reads each event as one object a line. Rooms
below know only the protocol `stitchsafe.engine.Events`: four methods, given here without an import.
"""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stitchsafe.legible import legible

__all__ = ["JsonEvents", "TerminalEvents"]


class TerminalEvents:
    """Events of a run, told to a person; a context manager that owns the bar.

    Parameters
    ----------
    lines
        Whether messages are printed.
    bars
        Whether a bar may be drawn (it is drawn only where stderr is a terminal).
    """

    def __init__(self, *, lines: bool = True, bars: bool = True) -> None:
        self._lines = lines
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if bars and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                transient=True,
                redirect_stdout=False,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; what follows is printed on a clean line."""
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begin a stage of `total` portions of work."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total, unit=unit, note="")

    def advance(self, count: int = 1) -> None:
        """Count so many more portions of the stage as done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        """Show a text behind the bar, in place of the one before."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=legible(text))

    def say(self, message: str) -> None:
        """Tell a decision or a fact, as one line."""
        if not self._lines:
            return
        message = legible(message)
        if self._bar is not None:
            self._console.print(f"stitchsafe: {message}", soft_wrap=True)
        else:
            print(f"stitchsafe: {message}", file=sys.stderr, flush=True)


class JsonEvents:
    """Events of a run, told to a program: one JSON object a line on stderr, with one key.

    ``{"stage": [name, total, unit]}``, ``{"advance": count}``, ``{"note": text}``,
    ``{"say": text}``.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def close(self) -> None:
        pass

    def stage(self, name: str, total: int, unit: str) -> None:
        self._tell(stage=[name, total, unit])

    def advance(self, count: int = 1) -> None:
        self._tell(advance=count)

    def note(self, text: str) -> None:
        self._tell(note=text)

    def say(self, message: str) -> None:
        self._tell(say=message)

    def _tell(self, **event: object) -> None:
        print(json.dumps(event), file=sys.stderr, flush=True)
