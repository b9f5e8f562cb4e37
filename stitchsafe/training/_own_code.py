"""What goes wrong in the user's own network or loss while it trains: said in a line of theirs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stitchsafe.errors import InterruptedRunError, StitchsafeError
from stitchsafe.networks import is_factory

__all__ = ["own_code"]


@contextmanager
def own_code(what: str, named: str | None) -> Iterator[None]:
    """Name the place in code of one's own where it fails; what fails for want of memory passes.

    Parameters
    ----------
    what, named
        Such as ``"loss"`` and ``package.module:name``; any other name is no code of one's own.

    Raises
    ------
    InterruptedRunError
        Naming it, the exception, its file and line.
    """
    if named is None or not is_factory(named):
        yield
        return
    try:
        yield
    except (StitchsafeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise InterruptedRunError(
            f"the {what} {named} failed with {type(error).__name__}: {told} "
            f"({_place(error, named)}); repair it and run the same command again, which goes on from "
            "the last checkpoint if there is one"
        ) from error


def _place(error: Exception, named: str) -> str:
    """The innermost line in the package that has that name, or else the file."""
    module = named.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or module
    package = Path(file).parents[module.count(".")] if "." in module else Path(file)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(package):
            return f"{frame.filename}, line {frame.lineno}"
    return f"in {file}"
