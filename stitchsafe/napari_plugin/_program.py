"""The program ``stitchsafe``, run in a process of its own for a widget.

It is told what a person would type, and tells its progress as one JSON object a line. Asked to
stop, it enters what is finished and ends; whatever way it ends, the same words go on from there.
"""

from __future__ import annotations

import atexit
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, QProcess, QTimer, Signal
from qtpy.QtWidgets import QApplication

__all__ = ["Ending", "Program", "as_command"]

_ERROR = "stitchsafe: error: "
_PATIENCE = 5000
_FAREWELL = 2000
"""Milliseconds to end by itself: for a run that is cancelled, and where the window closes."""

LAUNCHER = [sys.executable, "-m", "stitchsafe"]
"""The words that come before what a person would type: the program of the same environment."""

_running: set[Program] = set()
"""Kept alive until they end, whatever becomes of the widget."""


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Parameters
    ----------
    code
        The program's exit code; 3 where it was ended.
    answer
        What it answered, if it did.
    error
        The one line that it ended with, or "".
    cancelled
        Whether it was asked to stop.
    """

    code: int
    answer: dict[str, Any] | None = None
    error: str = ""
    cancelled: bool = False


@atexit.register
def _end_all() -> None:
    """Where Python ends without Qt's event loop, no run is left for what is half gone to hear."""
    for program in list(_running):
        program.end()


def as_command(words: Sequence[str]) -> str:
    """What a person would type for the same."""
    return shlex.join(["stitchsafe", *words])


class Program(QObject):
    """One run of the program at a time."""

    staged = Signal(str, int, str)
    advanced = Signal(int)
    said = Signal(str)
    ended = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._process: QProcess | None = None
        self._errors = b""
        self._error = ""
        self._cancelled = False

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self, words: Sequence[str]) -> None:
        """Run ``stitchsafe`` with some words; `ended` tells of the end."""
        if self.running:
            raise RuntimeError("a run is under way; it ends before the next one begins")
        self._errors, self._error, self._cancelled = b"", "", False
        process = QProcess()
        process.readyReadStandardError.connect(self._hear)
        process.finished.connect(self._finish)
        process.errorOccurred.connect(self._fail)
        QApplication.instance().aboutToQuit.connect(self.end)
        self._process = process
        _running.add(self)
        program, *first = LAUNCHER
        process.start(program, [*first, *words, "--json", "--progress", "json"])

    def cancel(self) -> None:
        """Ask the run to stop, and end it if it does not."""
        process = self._process
        if process is None:
            return
        self._cancelled = True
        process.terminate()
        QTimer.singleShot(_PATIENCE, lambda: self._insist(process))

    def _insist(self, process: Any) -> None:
        if self._process is process:
            self._process.kill()

    def end(self) -> None:
        """Stop the run now, for there is no window any more."""
        process = self._process
        if process is None:
            return
        self._cancelled = True
        self.blockSignals(True)
        process.terminate()
        if not process.waitForFinished(_FAREWELL):
            process.kill()
            process.waitForFinished(_FAREWELL)

    def _hear(self) -> None:
        if self._process is None:
            return
        self._errors += bytes(self._process.readAllStandardError().data())
        *lines, self._errors = self._errors.split(b"\n")
        for line in lines:
            self._understand(line.decode("utf-8", "replace"))

    def _understand(self, line: str) -> None:
        if line.startswith(_ERROR):
            self._error = line.removeprefix(_ERROR)
            return
        try:
            event = json.loads(line)
        except ValueError:
            return  # a library's own words
        match event:
            case {"stage": [str(name), int(total), str(unit)]}:
                self.staged.emit(name, total, unit)
            case {"advance": int(count)}:
                self.advanced.emit(count)
            case {"say": str(text)}:
                self.said.emit(text)

    def _fail(self, error: Any) -> None:
        if self._process is not None and error == QProcess.ProcessError.FailedToStart:
            self._error = f"{LAUNCHER[0]} cannot be started; it should be the Python of napari"
            self._finish(3, QProcess.ExitStatus.CrashExit)

    def _finish(self, code: int, status: Any) -> None:
        process = self._process
        if process is None:
            return
        self._hear()
        crashed = status == QProcess.ExitStatus.CrashExit
        error = self._error
        if crashed and not error:
            error = "the run was ended from outside; the same command goes on from what is done"
        answer = None
        if not crashed:
            try:
                answer = json.loads(bytes(process.readAllStandardOutput().data()))
            except ValueError:
                answer = None
        self._process = None
        _running.discard(self)
        QApplication.instance().aboutToQuit.disconnect(self.end)
        process.deleteLater()
        self.ended.emit(Ending(3 if crashed else code, answer, error, self._cancelled))
