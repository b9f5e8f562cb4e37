"""The bar, where there is a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest

from stitchsafe.cli.progress import TerminalEvents


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Show = Callable[[Callable[[], None]], str]


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Runs something with stderr as a terminal, and returns what the terminal got."""
    monkeypatch.setenv("TERM", "xterm")

    def show(action: Callable[[], None]) -> str:
        screen = Terminal()
        with redirect_stderr(screen):
            action()
        return screen.getvalue()

    return show


def work(**options: bool) -> None:
    with TerminalEvents(**options) as events:
        events.stage("forward", 4, "blocks")
        events.advance(2)
        events.say("resumed [2 of 4] blocks")
        events.stage("labels", 2, "windows")
        events.advance()


def test_a_terminal_gets_a_bar_and_lines(on_terminal: Show) -> None:
    shown = on_terminal(work)
    assert "labels" in shown
    assert "1/2" in shown
    assert "windows" in shown
    assert "stitchsafe: resumed [2 of 4] blocks" in shown


def test_bars_can_be_switched_off(on_terminal: Show) -> None:
    assert on_terminal(lambda: work(bars=False)) == "stitchsafe: resumed [2 of 4] blocks\n"


def test_quiet_is_silent(on_terminal: Show) -> None:
    assert on_terminal(lambda: work(lines=False, bars=False)) == ""


def test_work_outside_a_stage_is_not_an_error(on_terminal: Show) -> None:
    def early() -> None:
        with TerminalEvents() as events:
            events.advance()

    on_terminal(early)
