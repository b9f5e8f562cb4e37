"""One command's conversation: events on stderr while it runs, one answer on stdout at its end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from fractions import Fraction
from inspect import signature
from os import PathLike, environ, fspath
from shutil import get_terminal_size
from typing import Any, Protocol, TextIO

import typer

from stitchsafe.cli.options import OutputOptions
from stitchsafe.cli.outcome import ExitCode, failures_as_one_line
from stitchsafe.cli.progress import JsonEvents, TerminalEvents
from stitchsafe.cli.signals import signals_answered
from stitchsafe.legible import legible

__all__ = ["Answer", "Session", "by_key", "conversation", "to_plain"]


class Answer(Protocol):
    """What the verbs return. An answer that has `describe` is printed by it, others by key."""

    def to_json(self) -> dict[str, Any]: ...


class Session:
    """What a command needs to talk: `events` while it runs, `answer` when it is done."""

    def __init__(
        self, events: TerminalEvents | JsonEvents, stdout: TextIO, *, as_json: bool
    ) -> None:
        self.events = events
        self._stdout = stdout
        self._as_json = as_json

    def answer(self, answer: Answer, *, ok: bool = True, text: str | None = None) -> None:
        """Print the answer (for people as `text`); where it is "no", end with exit code 1."""
        self.events.close()
        if self._as_json:
            text = json.dumps(to_plain(answer.to_json()), indent=2, allow_nan=False)
        print(self._for_people(answer) if text is None else _plainly(text), file=self._stdout)
        if not ok:
            raise typer.Exit(ExitCode.NO)

    def _for_people(self, answer: Answer) -> str:
        describe = getattr(answer, "describe", None)
        if describe is None:
            return _plainly(by_key(answer.to_json()))
        # Off a terminal the width is the answer's own, the same for every reader.
        if "width" not in signature(describe).parameters or not self._stdout.isatty():
            return _plainly(str(describe()))
        # What is marked up holds controls, and has those of others written out by itself.
        columns = get_terminal_size().columns
        return str(describe(width=columns, color="NO_COLOR" not in environ))


@contextmanager
def conversation(output: OutputOptions) -> Iterator[Session]:
    """Open a session, and turn what goes wrong in it into one line and an exit code."""
    with (
        failures_as_one_line(debug=output.debug),
        signals_answered(),
        _events(output) as events,
    ):
        session = Session(events, sys.stdout, as_json=output.json)
        # Whatever a library prints meanwhile must not end up in the answer.
        with redirect_stdout(sys.stderr):
            yield session


def _events(output: OutputOptions) -> TerminalEvents | JsonEvents:
    if output.progress == "json":
        return JsonEvents()
    return TerminalEvents(lines=not output.quiet, bars=not (output.quiet or output.json))


def to_plain(value: Any) -> Any:
    """The same value made of what JSON knows; numbers that are not finite become null."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Fraction):
        return str(value)
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}")


def _plainly(text: str) -> str:
    return legible(text, keeping="\n\t")


def by_key(values: Mapping[str, Any]) -> str:
    """One line per value, keys in a column; nested objects on one line."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{key:<{width}}  {_inline(to_plain(value))}" for key, value in values.items())


def _inline(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    return json.dumps(value)
