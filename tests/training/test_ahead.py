"""Examples are drawn ahead: in order, not too far, and never when it is over."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_training import Stop, tiny

from stitchsafe.errors import InterruptedRunError
from stitchsafe.training import train
from stitchsafe.training._ahead import Ahead
from stitchsafe.training._examples import _DiskExamples


def drawing_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("stitchsafe-examples")]


def test_steps_are_made_in_order_in_another_thread_and_not_too_far_ahead() -> None:
    made: list[int] = []
    there = threading.Event()

    def make(step: int) -> tuple[int, str]:
        made.append(step)
        if step == 4:
            there.set()
        return step, threading.current_thread().name

    with Ahead(make, 3, 9, most=2) as ahead:
        assert there.wait(10)  # before anything was asked for
        for step in range(3, 9):
            found, thread = ahead.take()
            assert found == step
            assert thread.startswith("stitchsafe-examples")
            assert max(made) <= step + 2
    assert made == list(range(3, 9))
    assert not drawing_threads()


def test_errors_come_in_the_step_that_they_are_for_and_leave_no_thread() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("of step 2")
        return step

    taken: list[int] = []

    def take_all() -> None:
        with Ahead(make, 0, 9, most=3) as ahead:
            while True:
                taken.append(ahead.take())

    with pytest.raises(ValueError, match="of step 2"):
        take_all()
    assert taken == [0, 1]
    assert not drawing_threads()


def test_what_is_not_made_yet_is_not_made_any_more() -> None:
    made, going, go = [], threading.Event(), threading.Event()

    def make(step: int) -> None:
        made.append(step)
        going.set()
        go.wait(10)

    def interrupted() -> None:
        with Ahead(make, 0, 9, most=4):
            going.wait(10)
            threading.Timer(0.2, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert made == [0]


def test_a_training_draws_ahead_and_stops_at_the_step_whose_example_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    draw = _DiskExamples.draw
    fails = np.random.default_rng((0, 4, 0)).bit_generator.state

    def drawing(self: _DiskExamples, generator: np.random.Generator) -> object:
        drawn.append(threading.current_thread().name)
        if generator.bit_generator.state == fails:
            raise InterruptedRunError("the volume is gone")
        return draw(self, generator)

    monkeypatch.setattr(_DiskExamples, "draw", drawing)
    steps = Stop(99)
    with pytest.raises(InterruptedRunError, match="is gone"):
        train(tiny(), tmp_path / "run", device="cpu", events=steps)
    assert 99 - steps.left == 4
    assert all(name.startswith("stitchsafe-examples") for name in drawn)
    assert not drawing_threads()
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
