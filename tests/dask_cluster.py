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

from zygote import Run, Zygote

__all__ = ["RunningCluster", "running_cluster"]

Process = Run | subprocess.Popen[bytes]


@dataclass
class RunningCluster:
    """A scheduler, and workers that a test may kill."""

    folder: Path
    zygote: Zygote
    scheduler: Run
    workers: list[Process] = field(default_factory=list)

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

    def hire(self, *, threads: int = 1, path: Path | None = None) -> Process:
        """Start one more worker; in a folder of its own, so that relative paths lead nowhere.

        One that is to find its packages in a path of its own is not forked.
        """
        cwd = self.folder / f"worker{len(self.workers)}"
        cwd.mkdir()
        words = [self.address, "--nthreads", str(threads), "--no-nanny", "--host", "127.0.0.1",
                 "--no-dashboard", "--memory-limit", "8GB", "--death-timeout", "60"]  # fmt: skip
        worker = _start(self.zygote, "worker", words, cwd, path)
        self.workers.append(worker)
        return worker


@contextmanager
def running_cluster(
    zygote: Zygote, folder: Path, workers: int, *, threads: int = 1
) -> Iterator[RunningCluster]:
    folder.mkdir()
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
             "--scheduler-file", str(folder / "scheduler.json")]  # fmt: skip
    cluster = RunningCluster(folder, zygote, _start(zygote, "scheduler", words, folder))
    try:
        for _ in range(workers):
            cluster.hire(threads=threads)
        yield cluster
    finally:
        for process in (*cluster.workers, cluster.scheduler):
            process.kill()
            process.wait()


def _start(
    zygote: Zygote, what: str, words: list[str], cwd: Path, path: Path | None = None
) -> Process:
    words, log = ["-m", f"distributed.cli.dask_{what}", *words], cwd / f"{what}.log"
    if path is None:
        return zygote.start_python(*words, cwd=cwd, log=log, PYTHONWARNINGS="ignore")
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *words], cwd=cwd, env=environment, stdout=file, stderr=file
        )
