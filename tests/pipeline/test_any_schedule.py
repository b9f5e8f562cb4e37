"""For one recipe: random shapes of blocks, numbers of workers and orders, and the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.engine import Inline, Outcome, Processes, Task, Workshop
from stitchsafe.pipeline import _predict

OPTIONS = {
    "threads": 1, "max_memory": 10**10, "image": "none", "save": ("labels", "fields", "table"),
}  # fmt: skip
CELL, SHAPE = (8, 16), (27, 45)

pytestmark = pytest.mark.usefixtures("quick_workers")


class Shuffled:
    """An executor that does the blocks in any order, and some of them twice."""

    def __init__(self, workshop: Workshop, chance: random.Random) -> None:
        self.inner, self.chance = Inline(workshop), chance

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        order = list(tasks)
        self.chance.shuffle(order)
        done: set[Task] = set()
        for outcome in self.inner.run(order + self.chance.sample(order, len(order) // 4)):
            if outcome.task not in done:
                done.add(outcome.task)
                yield outcome


@pytest.fixture
def job(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "tiny", ndim=2, window=CELL)
    np.save(tmp_path / "volume.npy", smooth_volume(*SHAPE))
    return tmp_path


@pytest.mark.parametrize(
    "count", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_random_schedules(job: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    chance = random.Random(20)
    run = lambda out, **more: stitchsafe.predict(  # noqa: E731
        job / "volume.npy", job / "tiny", job / out, **OPTIONS, **more
    )
    run("straight.zarr")
    expected = content_of(job / "straight.zarr")
    seen = set()
    for number in range(count):
        block = tuple(cell * chance.randint(1, 5) for cell in CELL)
        workers = 2 if number % 4 == 3 else 1
        seen.add((block, workers))
        with monkeypatch.context() as patch:
            if workers == 1:
                patch.setattr(_predict, "Inline", lambda workshop: Shuffled(workshop, chance))
            parts = chance.choice([None, None, None, 2]) if workers == 1 else None
            shares = range(1, parts + 1) if parts else (None,)
            for index in chance.sample(list(shares), len(shares)):
                share = {"part": (index, parts)} if parts else {}
                run(f"{number}.zarr", block_shape=block, workers=workers, **share)
        assert content_of(job / f"{number}.zarr") == expected, (number, block, workers, parts)
    assert len(seen) >= min(count // 2, 25)  # of 50 that there are


def test_one_block_by_two_workers_at_once(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is handed out twice, one right after the other, to two processes."""
    stitchsafe.predict(job / "volume.npy", job / "tiny", job / "straight.zarr", **OPTIONS)
    by_two = Processes.run

    def twice(self: Processes, tasks: Iterable[Task]) -> Iterator[Outcome]:
        done = set()
        for outcome in by_two(self, (task for task in tasks for _ in range(2))):
            assert outcome.error is None
            if outcome.task not in done:
                done.add(outcome.task)
                yield outcome

    monkeypatch.setattr(Processes, "run", twice)
    stitchsafe.predict(job / "volume.npy", job / "tiny", job / "twice.zarr", workers=2, **OPTIONS)
    assert content_of(job / "twice.zarr") == content_of(job / "straight.zarr")
