"""Signals that arrive while the program is still starting: one line, exit code 3, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import pathlib, time
pathlib.Path({mark!r}).touch()
for _ in range(6000):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("imported", ["typer", "torch"])
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_during_imports(
    tmp_path: Path, imported: str, number: signal.Signals, said: str
) -> None:
    """The import that takes long stands still here, until the signal has come."""
    mark = tmp_path / "imports"
    (tmp_path / f"{imported}.py").write_text(SLOW.format(mark=str(mark)))
    program = subprocess.Popen(
        [sys.executable, "-m", "stitchsafe", "predict", "volume.npy", "-m", "disks-2d"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not mark.exists():
        assert program.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    program.send_signal(number)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (3, "")
    assert err == f"stitchsafe: error: {said} before anything was done\n"


def test_handlers_are_given_back_to_whoever_called(monkeypatch: pytest.MonkeyPatch) -> None:
    from stitchsafe.cli import main

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_when_all_is_over() -> None:
    """The answer has been given, and its exit code stands."""
    code = (
        "import atexit, os, signal, sys\n"
        "sys.argv[1:] = ['--nonsense']\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "from stitchsafe.cli import main\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1


def test_an_end_at_once_leaves_the_terminal_tidy() -> None:
    """Without the bar that stood there, and with a cursor."""
    ours, theirs = os.openpty()
    code = "from stitchsafe.cli.ending import end_at_once; end_at_once('interrupted twice')"
    ended = subprocess.run([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    assert ended.returncode == 3
    assert os.read(ours, 999) == b"\r\x1b[2K\x1b[?25hstitchsafe: error: interrupted twice\r\n"
    os.close(ours)
