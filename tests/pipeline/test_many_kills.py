"""SIGKILL at random moments, again and again, and the bytes of a run that nothing disturbed.

Real processes and the real command line: a run alone, a run with workers (of which the coordinator
or a worker is killed), and parts of a run side by side. A network that counts its passes tells how
much is done twice: at most a block for each process that died.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from counted_network import VARIABLE, passes
from stores import Content, content_of, smooth_volume, tiny_model
from zygote import Run, Zygote, workers_of

from stitchsafe.engine import Silent
from stitchsafe.pipeline import predict

WORDS = ["-m", "counted_network:counted", "--labels-from", "foreground", "--axes", "yx",
         "--tile-shape", "64,64", "--block-shape", "64,64", "--threads", "1", "--max-memory",
         "10GB", "--save", "labels,fields,table", "--image", "copy"]  # fmt: skip
SIDE = 64 * 6
RUNS = 4
"""Runs whose workers are killed, until one is done; more would mean that they get nowhere."""


@dataclass
class Field:
    """Where runs are started and killed."""

    here: Path
    zygote: Zygote
    straight: Content
    seed: int
    kills: int = 0
    lost: int = 0
    runs: int = 0
    chance: random.Random = field(default_factory=random.Random)

    def start(self, out: Path, *more: str) -> Run:
        words = ["predict", self.here / "volume.npy", "-o", out, *WORDS, *more]
        counting = {VARIABLE: str(self.here / "passes"), "OMP_NUM_THREADS": "1"}
        # Small clustering windows, so that a small image has many cells.
        return self.zygote.start(*words, log=self.here / "log.txt", window=64, **counting)

    def fresh(self) -> Path:
        self.runs += 1
        (self.here / "passes").unlink(missing_ok=True)
        return self.here / f"out{self.runs}.zarr"

    def kill_soon(self, out: Path, victim: int) -> bool:
        """Kill a process after some more entries in the ledger; False if it ended before."""
        goal, end = entries(out) + self.chance.randrange(8), time.monotonic() + 120
        while entries(out) < goal and alive(victim):
            assert time.monotonic() < end, (self.here / "log.txt").read_text()
            time.sleep(0.002)
        time.sleep(self.chance.random() * 0.03)
        if not alive(victim):
            return False
        psutil.Process(victim).kill()
        self.kills += 1
        return True

    def judge(self, out: Path, may_be_lost: int) -> None:
        """What came out, and how much was done twice for it."""
        assert content_of(out) == self.straight, self.seed
        counts = passes(self.here / "passes")
        assert len(counts) == len(self.straight["ledger"]["predict"])
        twice = counts.total() - len(counts)
        assert twice <= may_be_lost, f"{twice} done twice, seed {self.seed}"
        self.lost += twice


def entries(out: Path) -> int:
    ledger = out / ".stitchsafe" / "ledger"
    if not ledger.is_dir():
        return 0
    return sum(1 for _ in ledger.glob("*/*.json"))


def alive(process: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="module")
def field_of_runs(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Field:
    here = tmp_path_factory.mktemp("kills")
    np.save(here / "volume.npy", smooth_volume(SIDE, SIDE))
    seed = int(os.environ.get("STITCHSAFE_TEST_SEED", "0")) or time.time_ns() % 10**6
    found = Field(here, zygote, {}, seed)
    found.chance.seed(seed)
    out = found.fresh()
    assert found.start(out).wait() == 0, (here / "log.txt").read_text()
    found.straight = content_of(out)
    found.judge(out, 0)
    return found


def alone(runs: Field, most: int) -> None:
    """One process, killed up to so many times, and started again until it is done."""
    out, kills = runs.fresh(), runs.kills
    while True:
        run = runs.start(out)
        killed = runs.kills - kills < most and runs.kill_soon(out, run.pid)
        if run.wait() == 0:
            break
        assert killed, (runs.here / "log.txt").read_text()
    runs.judge(out, runs.kills - kills)


def with_coordinator_killed(runs: Field, most: int) -> None:
    """Two workers whose coordinator dies: each may lose a block, and none remains."""
    out, kills = runs.fresh(), runs.kills
    while True:
        run = runs.start(out, "--workers", "2")
        killed = False
        if runs.kills - kills < most:
            with contextlib.suppress(psutil.NoSuchProcess):
                wait_for_workers(runs, run.pid)
                workers = workers_of(run.pid)
                killed = runs.kill_soon(out, run.pid)
                _, left = psutil.wait_procs(workers, timeout=30)
                assert not left, "a worker outlived its coordinator"
        if run.wait() == 0:
            break
        assert killed, (runs.here / "log.txt").read_text()
    runs.judge(out, 2 * (runs.kills - kills))


def with_workers_killed(runs: Field, most: int) -> None:
    """Workers die under a coordinator that lives, and hires others."""
    out, kills = runs.fresh(), runs.kills
    for _ in range(RUNS):
        run = runs.start(out, "--workers", "2")
        while alive(run.pid) and runs.kills - kills < most:
            with contextlib.suppress(psutil.NoSuchProcess):
                wait_for_workers(runs, run.pid)
                if workers := workers_of(run.pid):
                    runs.kill_soon(out, runs.chance.choice(workers).pid)
        code = run.wait()
        if code != 3:  # the same block was at hand three times, or four start-ups in a row
            break
    assert code == 0, (runs.here / "log.txt").read_text()
    runs.judge(out, runs.kills - kills)


def wait_for_workers(runs: Field, run: int) -> None:
    """Until workers are at work, or the run has ended."""
    end, out = time.monotonic() + 120, runs.here / f"out{runs.runs}.zarr"
    before = None
    while alive(run):
        assert time.monotonic() < end, (runs.here / "log.txt").read_text()
        if workers_of(run):
            before = entries(out) if before is None else before
            if entries(out) > before:
                return
        time.sleep(0.005)


def in_parts(runs: Field, most: int) -> None:
    """Two parts side by side, each killed and started again."""
    out, kills = runs.fresh(), runs.kills
    running = {part: runs.start(out, "--part", part) for part in ("1/2", "2/2")}
    while running:
        part = runs.chance.choice(sorted(running))
        killed = runs.kills - kills < most and runs.kill_soon(out, running[part].pid)
        code = running.pop(part).wait()
        assert killed or code == 0, (runs.here / "log.txt").read_text()
        if code != 0:
            running[part] = runs.start(out, "--part", part)
    runs.judge(out, runs.kills - kills)


def test_what_a_worker_leaves_when_it_dies_is_swept_by_the_run_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    left = out / ".stitchsafe" / "ledger" / "predict" / "0_0.json.1-2.partial"

    class Dying(Silent):
        def stage(self, name: str, total: int, unit: str) -> None:
            if name == "predict":
                left.parent.mkdir(parents=True, exist_ok=True)
                left.write_text("{")

    model = tiny_model(tmp_path / "tiny", ndim=2, window=(32, 32))
    volume = smooth_volume(32, 32)
    predict(volume, model, out, events=Dying(), axes="yx", save="fields", threads=1)
    assert left.parent.is_dir()
    assert not left.exists()


WAYS = (alone, in_parts, with_coordinator_killed, with_workers_killed)


def kill(runs: Field, *most: int) -> None:
    """Kill in every way, up to so many times."""
    for way, times in zip(WAYS, most, strict=True):
        kills, lost, begun = runs.kills, runs.lost, time.monotonic()
        way(runs, times)
        print(
            f"{way.__name__}: {runs.kills - kills} kills, {runs.lost - lost} blocks done twice, "
            f"{time.monotonic() - begun:.1f} s",
            flush=True,
        )


def test_some_kills(field_of_runs: Field) -> None:
    before = field_of_runs.kills
    kill(field_of_runs, 2, 2, 1, 1)
    assert field_of_runs.kills - before >= 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills(field_of_runs: Field) -> None:
    before = field_of_runs.kills
    while (kills := field_of_runs.kills - before) < 200:
        kill(field_of_runs, 30, 30, 5, 8)
        assert field_of_runs.kills - before > kills
    print(f"{field_of_runs.kills} kills in {field_of_runs.runs} runs, {field_of_runs.lost} twice")
