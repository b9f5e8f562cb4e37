"""Starts the command line over and over without importing torch each time.

``python zygote.py SOCKET`` imports what a run needs, and then forks one process for each request:
a real run of the real command line, which may be killed like any other. A request is one line of
JSON with the file descriptors of its input, output and errors; the answers are the process's id,
and in the end its exit code (or -signal), a line each.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["Run", "Zygote"]


class Run:
    """A process that a zygote forked, used like a `subprocess.Popen`; a context manager."""

    def __init__(self, connection: socket.socket, files: list[Any]) -> None:
        self._answers, self._files = connection.makefile("r"), files
        self._connection = connection
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for file in self._files:
            file.close()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """What it wrote, when it has ended."""
        self.wait()
        for file in self._files:
            file.seek(0)
        output, errors = (file.read().decode() for file in self._files)
        return output, errors

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _scratch() -> Any:
    return tempfile.TemporaryFile()


class Zygote:
    """The test's end of it; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name) / "socket")
        here = Path(__file__).parent
        paths = [str(here), *(path for path in sys.path if path)]
        self._process = subprocess.Popen(
            [sys.executable, str(here / "zygote.py"), self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def start(
        self,
        *words: object,
        cwd: Path | None = None,
        log: Path | None = None,
        window: int | None = None,
        **environment: str,
    ) -> Run:
        """Start ``stitchsafe WORDS``.

        Parameters
        ----------
        cwd
            Where it runs; here by default.
        log
            A file that all it writes is appended to, instead of being kept for `communicate`.
        window
            Extent of a clustering window where a model names none.
        environment
            More variables.
        """
        files: list[Any] = [log.open("ab")] if log else [_scratch(), _scratch()]
        request = {
            "words": list(map(str, words)), "window": window, "cwd": str(cwd or Path.cwd()),
            "environment": {**os.environ, **environment},
        }  # fmt: skip
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        with open(os.devnull) as nothing:  # noqa: PTH123
            given = [file.fileno() for file in (nothing, files[0], files[-1])]
            socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], given)
        if log:
            files.pop().close()
        return Run(connection, files)

    def run(self, *words: object, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run ``stitchsafe WORDS`` to its end."""
        with self.start(*words, **more) as run:
            output, errors = run.communicate()
        return subprocess.CompletedProcess(words, run.wait(), output, errors)

    def program(self, path: Path) -> None:
        """Make a program that does what ``stitchsafe`` does, by a fork."""
        path.write_text(f"#!{sys.executable} -IS\nADDRESS = {self.address!r}\n{_PROGRAM}")
        path.chmod(0o755)


_PROGRAM = """
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(ADDRESS)
request = {"words": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}
socket.send_fds(connection, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
_, code = connection.makefile()
sys.exit(int(code))
"""


def main(address: str) -> None:
    _warm_up()
    gc.collect()
    gc.freeze()  # or each fork would go through all of it, and so copy it, when it ends
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    bell, ringer = socket.socketpair()
    ringer.setblocking(False)
    signal.set_wakeup_fd(ringer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for each in (listener, bell, sys.stdin):
            selector.register(each, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if sys.stdin in ready:  # closed by the tests, which are over
                return
            if bell in ready:
                bell.recv(4096)
                while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    with running.pop(ended[0]) as connection, contextlib.suppress(OSError):
                        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
            if listener in ready:
                connection, _ = listener.accept()
                request, files = _receive(connection)
                process = os.fork()
                if not process:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _become(request, files)
                for file in files:
                    os.close(file)
                running[process] = connection
                connection.sendall(b"%d\n" % process)


def _warm_up() -> None:
    """Import what takes long; the half of it comes with the first network that is analysed."""
    import yaozarrs  # noqa: F401

    import stitchsafe.pipeline._planning  # noqa: F401
    from stitchsafe.cli import main  # noqa: F401
    from stitchsafe.networks import TorchNetwork
    from stitchsafe.nn import UNet

    assert TorchNetwork(UNet(ndim=2, levels=1, base_channels=2)).geometry.verdict == "safe"


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    line, files, _, _ = socket.recv_fds(connection, 2**20, 3)
    while not line.endswith(b"\n"):
        line += connection.recv(2**20)
    return json.loads(line), files


def _become(request: dict[str, Any], files: list[int]) -> None:
    """The command line, in a fresh fork."""
    for file, place in zip(files, (0, 1, 2), strict=True):
        os.dup2(file, place)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [str(Path(path).absolute()) for path in paths]
    if request.get("window"):
        import stitchsafe.pipeline._planning

        stitchsafe.pipeline._planning._WINDOW[2] = request["window"]
    from stitchsafe.cli import main

    sys.argv = ["stitchsafe", *request["words"]]
    main()


if __name__ == "__main__":
    main(sys.argv[1])
