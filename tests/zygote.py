"""Starts processes over and over without importing torch each time.

``python zygote.py SOCKET`` imports what a run needs, and then forks one process for each request:
a real run of the real command line, which may be killed like any other, or what a Python is told
by ``-c`` or ``-m``. A request is one line of JSON with the file descriptors of its input, output
and errors, and of what else it is given; the answers are the process's id, and in the end its exit
code (or -signal), a line each.

On Linux a run with ``--workers`` gets its workers by forks too. They must be its own children,
which end with it, so it has a nursery: a process that it starts before it does anything, and that
forks workers when they are hired. `Zygote.workers` is what the test's own process hires by.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Run", "Zygote", "workers_of"]

_WORKER = "stitchsafe.engine._worker"
_NURSERY = "nursery"
"""What the process is called in which a run's workers are forked."""


def workers_of(run: int) -> list[Any]:
    """The processes of a run's workers, by the run's id."""
    import psutil

    found = []
    for each in psutil.Process(run).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() != _NURSERY:
                found.append(each)
    return found


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

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired("zygote", timeout)
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
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGTERM)


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
        return self._start(
            {"words": list(map(str, words)), "window": window}, cwd, log, environment
        )

    def start_python(
        self,
        *words: object,
        cwd: Path | None = None,
        log: Path | None = None,
        **environment: str,
    ) -> Run:
        """Start ``python WORDS``, which begin with ``-c`` or ``-m``."""
        assert words[0] in ("-c", "-m")
        return self._start({"python": list(map(str, words))}, cwd, log, environment)

    def _start(
        self, request: dict[str, Any], cwd: Path | None, log: Path | None, more: dict[str, str]
    ) -> Run:
        files: list[Any] = [log.open("ab")] if log else [_scratch(), _scratch()]
        request = {
            **request, "cwd": str(cwd or Path.cwd()), "environment": {**os.environ, **more},
        }  # fmt: skip
        with open(os.devnull) as nothing:  # noqa: PTH123
            connection = self._ask(request, [f.fileno() for f in (nothing, files[0], files[-1])])
        if log:
            files.pop().close()
        return Run(connection, files)

    def _ask(self, request: dict[str, Any], given: Sequence[int]) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], given)
        return connection

    def learn(self, model: str) -> None:
        """Have what is analysed once in a process analysed for all that are forked from now on."""
        with self._ask({"learn": model}, []) as connection:
            assert connection.recv(20) == b"learnt\n"

    @contextlib.contextmanager
    def workers(self) -> Iterator[None]:
        """Meanwhile, workers that this process hires are forks."""

        def hire(words: Sequence[str], pipe: int) -> Run:
            request = {"python": [*words[1:-1], "3"], "cwd": str(Path.cwd()),
                       "environment": dict(os.environ)}  # fmt: skip
            with open(os.devnull, "w") as nothing:  # noqa: PTH123
                return Run(self._ask(request, [nothing.fileno(), nothing.fileno(), 2, pipe]), [])

        with _hiring_by(hire):
            yield

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
                if "learn" in request:
                    _learn(request["learn"])
                    connection.sendall(b"learnt\n")
                    connection.close()
                    continue
                process = os.fork()
                if not process:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (connection, listener, bell, ringer, *running.values()):
                        each.close()
                    _become(request, files)
                    sys.exit()
                for file in files:
                    os.close(file)
                running[process] = connection
                connection.sendall(b"%d\n" % process)


def _warm_up() -> None:
    """Import what takes long, and analyse the networks that most tests have."""
    import yaozarrs  # noqa: F401
    from stores import tiny_model

    import stitchsafe.pipeline._planning  # noqa: F401
    from stitchsafe.cli import main  # noqa: F401

    for ndim in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            _learn(str(tiny_model(Path(folder), ndim=ndim)))


def _learn(model: str) -> None:
    """Analyse a network on one thread: forks would wait for the others, which they do not have."""
    import torch

    from stitchsafe.networks import load_network

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = load_network(model)
        assert network.geometry.verdict == "safe"
        assert network.layout_for("float32") == "channels_last"
    finally:
        torch.set_num_threads(threads)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    line, files, _, _ = socket.recv_fds(connection, 2**20, 4)
    while not line.endswith(b"\n"):
        line += connection.recv(2**20)
    return json.loads(line), files


def _become(request: dict[str, Any], files: list[int]) -> None:
    """The command line, in a fresh fork."""
    for place, file in enumerate(files):
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
    if "python" in request:
        _be_python(*request["python"])
        return
    with contextlib.ExitStack() as lasting:
        if "--workers" in request["words"] and sys.platform == "linux":
            _found_nursery(lasting)
        from stitchsafe.cli import main

        sys.argv = ["stitchsafe", *request["words"]]
        main()


def _be_python(option: str, what: str, *words: str) -> None:
    sys.argv = [option, *words]
    if option == "-c":
        sys.path.insert(0, "")
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(module))
    elif what == _WORKER:
        from stitchsafe.engine._worker import main

        main(int(words[0]))
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def _hiring_by(hire: Callable[[Sequence[str], int], Any]) -> Iterator[None]:
    """Meanwhile, this process hires workers so, of the words that start one and its pipe."""
    from stitchsafe.engine import _processes

    def started(words: Sequence[str], *, pass_fds: Sequence[int], **_: object) -> Any:
        assert words[1:-1] == ["-m", _WORKER]
        return hire(words, *pass_fds)

    real = _processes.subprocess
    _processes.subprocess = types.SimpleNamespace(  # type: ignore[assignment]
        Popen=started, DEVNULL=real.DEVNULL, TimeoutExpired=real.TimeoutExpired
    )
    try:
        yield
    finally:
        _processes.subprocess = real


class _Child:
    """A child of this process that it did not start by itself."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.001)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _found_nursery(lasting: contextlib.ExitStack) -> None:
    """Start this process's nursery, and have it hire by that.

    A worker is forked twice, so that it is nobody's child but that of the nearest ancestor which
    takes in orphans: this process.
    """
    run = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    take_in_orphans, call_me = 36, 15
    prctl = ctypes.CDLL(None).prctl
    assert prctl(take_in_orphans, 1, 0, 0, 0) == 0
    if os.fork():
        theirs.close()

        def hire(words: Sequence[str], pipe: int) -> _Child:
            socket.send_fds(ours, [b"."], [pipe])
            child = _Child(int(ours.recv(20)))
            assert ours.recv(1)  # and it has become one
            return child

        lasting.enter_context(_hiring_by(hire))
        return
    ours.close()
    prctl(call_me, _NURSERY.encode(), 0, 0, 0)
    # A Ctrl-C in a terminal reaches this too, and the run's end is its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        said, pipes, _, _ = socket.recv_fds(theirs, 1, 1)
        if not said:
            os._exit(0)
        if between := os.fork():
            os.waitpid(between, 0)
            os.close(pipes[0])
            theirs.sendall(b".")
        elif worker := os.fork():
            theirs.sendall(b"%d" % worker)
            os._exit(0)
        else:
            while os.getppid() != run:
                time.sleep(0.0005)
            theirs.close()
            prctl(call_me, b"python", 0, 0, 0)
            nothing = os.open(os.devnull, os.O_RDWR)
            for place in (0, 1):
                os.dup2(nothing, place)
            _be_python("-m", _WORKER, str(pipes[0]))


if __name__ == "__main__":
    main(sys.argv[1])
