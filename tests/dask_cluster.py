"""A dask cluster of real processes on this machine, started and ended by a test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["RunningCluster", "running_cluster"]


@dataclass
class RunningCluster:
    """A scheduler, and workers that a test may kill."""

    folder: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        import json

        file = self.folder / "scheduler.json"
        end = time.monotonic() + 60
        while True:
            assert time.monotonic() < end, "the scheduler did not start"
            try:
                return json.loads(file.read_text())["address"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)

    def hire(self, *, threads: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        """Start one more worker; in a folder of its own, so that relative paths lead nowhere."""
        cwd = self.folder / f"worker{len(self.workers)}"
        cwd.mkdir()
        words = [self.address, "--nthreads", str(threads), "--no-nanny", "--host", "127.0.0.1",
                 "--no-dashboard", "--memory-limit", "8GB", "--death-timeout", "60"]  # fmt: skip
        worker = _start("worker", words, cwd, **environment)
        self.workers.append(worker)
        return worker


@contextmanager
def running_cluster(folder: Path, workers: int, *, threads: int = 1) -> Iterator[RunningCluster]:
    folder.mkdir()
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
             "--scheduler-file", str(folder / "scheduler.json")]  # fmt: skip
    cluster = RunningCluster(folder, _start("scheduler", words, folder))
    try:
        for _ in range(workers):
            cluster.hire(threads=threads)
        yield cluster
    finally:
        for process in (*cluster.workers, cluster.scheduler):
            process.kill()
            process.wait()


def _start(what: str, words: list[str], cwd: Path, **environment: str) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    with (cwd / f"{what}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore",
                 **environment},
            stdout=log,
            stderr=log,
        )  # fmt: skip
