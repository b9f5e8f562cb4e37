"""Starts the command line over and over without importing torch each time.

``python zygote.py`` imports what a run needs, and then forks one process for each line that it
reads: a real run of the real command line, which may be killed like any other. ::

    {"start": ["predict", …], "log": "file", "environment": {}}  ->  process id
    {"wait": process id}                                         ->  exit code, or -signal
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["Zygote"]


class Zygote:
    """The test's end of it; a context manager."""

    def __init__(self, **environment: str) -> None:
        here = Path(__file__).parent
        paths = [str(here), *(path for path in sys.path if path)]
        self._process = subprocess.Popen(
            [sys.executable, str(here / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, words: list[str], log: Path, **environment: str) -> int:
        return self._ask({"start": words, "log": str(log), "environment": environment})

    def wait(self, process: int) -> int:
        return self._ask({"wait": process})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    import stitchsafe.pipeline._planning  # what takes long
    from stitchsafe.cli import main as run

    # Small clustering windows where a model names none, so that a small image has many cells.
    stitchsafe.pipeline._planning._WINDOW[2] = 64
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        process = os.fork()
        if not process:
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(ours, theirs)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
            os.environ.update(request["environment"])
            sys.argv = ["stitchsafe", *request["start"]]
            run()
        print(process, flush=True)


if __name__ == "__main__":
    main()
