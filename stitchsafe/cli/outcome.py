"""How a command ends: its exit code, and one line on stderr where it is not what was asked for.

==== ==========================================================================================
code meaning
==== ==========================================================================================
0    done, and as promised
1    it ran, and the answer is "no": unsafe, seams found, verification failed, bytes not sound
2    what the user gave is wrong, and nothing was written
3    it failed part-way; what is committed stays, and the same command goes on from there
==== ==========================================================================================
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import typer

from stitchsafe.errors import StitchsafeError
from stitchsafe.legible import legible

__all__ = ["ExitCode", "Terminated", "complain", "failures_as_one_line"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class Terminated(KeyboardInterrupt):
    """An interruption by SIGTERM: the end of a walltime, or a scheduler's wish."""


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    PART_WAY = 3


def complain(message: str) -> None:
    """Print one line on stderr, whatever line breaks the message had."""
    print(f"stitchsafe: error: {legible(' '.join(message.split()))}", file=sys.stderr)


@contextmanager
def failures_as_one_line(*, debug: bool) -> Iterator[None]:
    """Turn whatever a command raises into one line and an exit code; `debug` adds the traceback."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except SystemExit as error:  # of a network's code, whose code of exit is no answer of ours
        if debug:
            traceback.print_exc()
        complain(f"the network's code ended the program (SystemExit: {error.code}); repair it")
        raise typer.Exit(ExitCode.PART_WAY) from None
    except BrokenPipeError:
        # Whoever read our output has gone: point stdout away, or its last flush would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.DONE) from None
    except BaseException as error:
        if debug:
            traceback.print_exc()
        _end(error)


def _end(error: BaseException) -> NoReturn:
    message, code = _explain(error)
    complain(message)
    raise typer.Exit(code) from None


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, StitchsafeError):
        return str(error), error.exit_code
    if isinstance(error, Terminated):
        return "stopped by SIGTERM; run the same command again", ExitCode.PART_WAY
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again", ExitCode.PART_WAY
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"no space is left on the device{where}; make room, and the same command goes on from "
            "what is done",
            ExitCode.PART_WAY,
        )
    if isinstance(error, MemoryError):
        return (
            "the memory of this machine did not suffice; give less of it with --max-memory, and "
            "run the command again",
            ExitCode.PART_WAY,
        )
    text = str(error).strip() or "no message"
    return (
        f"{type(error).__name__}: {text} (not foreseen; --debug shows where it comes from)",
        ExitCode.PART_WAY,
    )
