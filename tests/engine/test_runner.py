"""Stages over executors that may fail: what is done, what is done again, and what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext

import pytest
from toy_workshop import CELLS, Toy

from stitchsafe.engine import Inline, Processes, Silent, run_blocks
from stitchsafe.errors import InputError, InterruptedRunError

ALL = {CELLS.index(cell) for cell in CELLS.cells()}

quick = pytest.mark.usefixtures("quick_workers")
"""Where workers need not be the fresh interpreters that others of these tests see."""


def run(executor, toy, block_shape=(2, 3)):
    return run_blocks(
        "map",
        cells=CELLS,
        block_shape=block_shape,
        executor=executor,
        ledger=toy.ledger,
        events=Silent(),
    )


def workers(toy, count=2):
    return Processes([toy] * count, cores=[], threads=1)


def place(toy, inline):
    return nullcontext(Inline(toy)) if inline else workers(toy)


def finished(toy):
    return set(toy.ledger.finished("map"))


def test_every_cell_is_done_once_and_a_block_ahead_is_read(tmp_path):
    toy = Toy(tmp_path)
    count = run(Inline(toy), toy, (2, 9))
    assert (count.total, count.resumed) == (3, 0)
    assert finished(toy) == ALL
    assert sorted(toy.noted("compute")) == sorted(str(cell) for cell in CELLS.cells())
    lines = (tmp_path / "log").read_text().splitlines()
    second_read = lines.index("read 2:4,0:9")
    assert second_read < lines.index("compute 2:4,0:3")


def test_a_stage_resumes_with_other_blocks_and_repeats_no_cell(tmp_path):
    toy = Toy(tmp_path)
    toy.order((1, 1), "full once")
    with pytest.raises(InterruptedRunError, match="disk is full; free some space and run the same"):
        run(Inline(toy), toy, (2, 9))
    # Of the block that stopped, the cell that was finished counts.
    assert finished(toy) == {(0, 0), (0, 1), (0, 2), (1, 0)}
    count = run(Inline(toy), toy, (6, 3))
    assert (count.total, count.resumed) == (3, 0)
    assert len(toy.noted("compute")) == len(ALL) + 1
    again = run(Inline(toy), toy, (4, 6))
    assert again.resumed == again.total == 4


@quick
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "workers"])
def test_a_block_that_always_fails_is_set_aside_and_the_rest_finished(tmp_path, inline):
    toy = Toy(tmp_path)
    toy.order((0, 1), "damaged")
    toy.order((2, 2), "damaged once")
    pattern = r"1 of its blocks \(block 0:2,3:6: cell \(0, 1\) cannot be read.* all other blocks"
    with place(toy, inline) as executor, pytest.raises(InterruptedRunError, match=pattern):
        run(executor, toy)
    assert finished(toy) == ALL - {(0, 1)}
    assert toy.noted("compute").count("0:2,3:6") == 3


def test_where_everything_fails_the_run_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr("stitchsafe.engine._runner._MOST_SET_ASIDE", 3)
    toy = Toy(tmp_path)
    for index in ALL:
        toy.order(index, "damaged")
    with pytest.raises(
        InterruptedRunError, match=r"[34] of its blocks .* [56] blocks were not tried"
    ):
        run(Inline(toy), toy)
    assert len(toy.noted("compute")) <= 4  # one more had been read ahead


@quick
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "workers"])
def test_a_wrong_input_that_only_shows_now_is_still_an_input_error(tmp_path, inline):
    toy = Toy(tmp_path)
    toy.order((0, 0), "wrong")
    with place(toy, inline) as executor, pytest.raises(InputError, match="bandwidth 9"):
        run(executor, toy)


def test_workers_share_the_blocks(tmp_path):
    toy = Toy(tmp_path)
    with workers(toy) as executor:
        run(executor, toy)
        by = {record["by"] for record in toy.ledger.finished("map").values()}
        assert finished(toy) == ALL
        assert os.getpid() not in by
        assert len(by) == 2
    assert not any(_alive(each) for each in by)


@quick
def test_a_worker_that_dies_costs_its_block(tmp_path):
    toy = Toy(tmp_path)
    toy.order((1, 1), "die once")
    with workers(toy) as executor:
        run(executor, toy)
    assert finished(toy) == ALL
    assert len(toy.noted("compute")) == len(ALL) + 1


@quick
def test_a_block_that_kills_its_workers_is_named_and_the_rest_finished(tmp_path):
    toy = Toy(tmp_path)
    toy.order((1, 1), "die")
    with (
        pytest.raises(InterruptedRunError, match=r"block 2:4,3:6: its worker .* SIGKILL"),
        workers(toy) as executor,
    ):
        run(executor, toy)
    assert finished(toy) == ALL - {(1, 1)}
    assert toy.noted("compute").count("2:4,3:6") == 3


@quick
def test_workers_that_die_at_their_start_cost_no_block(tmp_path):
    toy = Toy(tmp_path)
    (tmp_path / "stillborn").write_text("2")
    with workers(toy, 1) as executor:
        run(executor, toy)
    assert not (tmp_path / "stillborn").exists()
    assert finished(toy) == ALL
    assert len(toy.noted("compute")) == len(ALL)


@quick
def test_workers_that_cannot_even_open_stop_the_run(tmp_path):
    toy = Toy(tmp_path)
    (tmp_path / "stillborn").write_text("100")
    with (
        pytest.raises(
            InterruptedRunError, match=r"4 worker processes in a row .* by SIGKILL.* mend that"
        ),
        workers(toy, 1) as executor,
    ):
        run(executor, toy)
    assert (tmp_path / "stillborn").read_text() == "96"
    assert not finished(toy)


@quick
def test_what_stops_the_run_in_one_worker_stops_all_and_enters_what_is_done(tmp_path):
    toy = Toy(tmp_path)
    toy.order((0, 1), "slow")
    toy.order((1, 1), "full afterwards")
    with (
        pytest.raises(InterruptedRunError, match="disk is full"),
        workers(toy) as executor,
    ):
        run(executor, toy, (2, 9))
    # The slow worker was asked to stop: the cell that it had finished is entered.
    assert {(0, 0), (1, 0)} <= finished(toy)


def test_workers_end_with_their_coordinator(tmp_path):
    toy = Toy(tmp_path)
    for index in ALL:
        toy.order(index, "slow")
    script = textwrap.dedent(
        f"""
        import pathlib, sys
        sys.path[:0] = {sys.path!r}
        from toy_workshop import CELLS, Toy
        from stitchsafe.engine import Processes, Silent, run_blocks
        toy = Toy(pathlib.Path({str(tmp_path)!r}))
        with Processes([toy] * 2, cores=[], threads=1) as executor:
            run_blocks("map", cells=CELLS, block_shape=(2, 3), executor=executor,
                       ledger=toy.ledger, events=Silent())
        """
    )
    with subprocess.Popen([sys.executable, "-c", script]) as coordinator:
        _until(lambda: (tmp_path / "log").exists() and len(toy.noted("slow")) == 2)
        children = _children(coordinator.pid)
        assert len(children) == 2
        coordinator.send_signal(signal.SIGKILL)
    _until(lambda: not any(_alive(child) for child in children))


def _children(parent):
    import psutil

    return [child.pid for child in psutil.Process(parent).children()]


def _alive(process):
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
