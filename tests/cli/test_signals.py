"""SIGTERM and Ctrl-C, sent to real runs: what is finished is entered, nothing is left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from counted_network import VARIABLE, passes
from stores import content_of, smooth_volume
from zygote import Run, Zygote, workers_of

CELLS = 25


class Runs:
    """One folder with a volume of 25 cells, and processes started there."""

    def __init__(self, here: Path, zygote: Zygote, **environment: str) -> None:
        self.here, self.zygote = here, zygote
        self.environment = {**environment, VARIABLE: str(here / "passes")}
        np.save(here / "volume.npy", smooth_volume(320, 320))

    def start(self, *more: str) -> Run:
        words = ["predict", self.here / "volume.npy", "-o", self.here / "out.zarr",
                 "-m", "counted_network:counted", "--labels-from", "foreground", "--axes", "yx",
                 "--tile-shape", "64,64", "--threads", "1", "--max-memory", "10GB",
                 *more]  # fmt: skip
        (self.here / "log").unlink(missing_ok=True)
        # Small clustering windows, so that a small image has many cells.
        return self.zygote.start(*words, log=self.here / "log", window=64, **self.environment)

    def computed(self) -> int:
        return passes(self.here / "passes").total()

    @property
    def last_line(self) -> str:
        log = (self.here / "log").read_text()
        assert "Traceback" not in log, log
        return log.splitlines()[-1]


@pytest.fixture
def runs(tmp_path: Path, zygote: Zygote) -> Runs:
    return Runs(tmp_path, zygote)


@pytest.fixture
def deaf_runs(tmp_path: Path, zygote: Zygote) -> Runs:
    return Runs(tmp_path, zygote, STITCHSAFE_TEST_DEAF="1")


def until(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")]
)
def test_cells_that_are_finished_are_entered(runs: Runs, number: int, said: str) -> None:
    """All cells are one block here: without that, all of them would be done again."""
    run = runs.start("--block-shape", "999,999")
    until(lambda: runs.computed() >= 5)
    run.send_signal(number)
    assert run.wait() == 3
    assert runs.last_line.startswith(f"stitchsafe: error: {said}; run the same command again")
    done = runs.computed()
    assert 5 <= done < CELLS
    assert runs.start().wait() == 0
    assert CELLS <= runs.computed() <= CELLS + 1


def test_with_workers_each_enters_what_it_has_and_none_remains(runs: Runs) -> None:
    run = runs.start("--workers", "2", "--block-shape", "64,999")
    until(lambda: runs.computed() >= 6)
    workers = workers_of(run.pid)
    assert len(workers) == 2
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 3
    assert runs.last_line.startswith("stitchsafe: error: stopped by SIGTERM")
    assert not any(worker.is_running() for worker in workers)
    assert runs.start().wait() == 0
    assert CELLS <= runs.computed() <= CELLS + 2
    interrupted = content_of(runs.here / "out.zarr")
    (runs.here / "out.zarr").rename(runs.here / "moved.zarr")
    assert runs.start().wait() == 0
    assert content_of(runs.here / "out.zarr") == interrupted


def test_a_second_ctrl_c_ends_at_once(deaf_runs: Runs) -> None:
    run = deaf_runs.start("--workers", "2")
    until(lambda: deaf_runs.computed() >= 2)
    workers = workers_of(run.pid)
    run.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert psutil.Process(run.pid).status() != psutil.STATUS_ZOMBIE  # waits for its workers
    run.send_signal(signal.SIGINT)
    assert run.wait() == 3
    assert deaf_runs.last_line.startswith("stitchsafe: error: interrupted twice")
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_two_runs_on_one_output(deaf_runs: Runs) -> None:
    """The second is refused, and the first goes on unharmed."""
    first = deaf_runs.start()
    until(lambda: deaf_runs.computed() >= 1)
    for more in ((), ("--part", "1/2"), ("--overwrite",)):
        assert deaf_runs.start(*more).wait() == 2
        assert "is writing" in deaf_runs.last_line
    assert psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE
    first.kill()
    assert first.wait() == -signal.SIGKILL
