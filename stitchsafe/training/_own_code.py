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

__all__ = ["own_backward", "own_code"]


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
    except (Exception, SystemExit) as error:
        raise _failed(f"the {what} {named}", error, _line(error, named)) from error


@contextmanager
def own_backward(network: str, loss: str | None) -> Iterator[None]:
    """The same for the way back of gradients, which goes through a loss and a network of one's own.

    Torch does not tell whose it is that fails, unless a line of theirs does.
    """
    own = {
        f"the {what} {named}": named
        for what, named in (("loss", loss), ("network", network))
        if named is not None and is_factory(named)
    }
    if not own:
        yield
        return
    try:
        yield
    except (StitchsafeError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        lines = {who: _line(error, named) for who, named in own.items()}
        who = next((each for each, line in lines.items() if line), " or ".join(own))
        raise _failed(f"the backward pass of {who}", error, lines.get(who)) from error


def _failed(what: str, error: BaseException, line: str | None) -> InterruptedRunError:
    told = " ".join(str(error).split())[:200]
    return InterruptedRunError(
        f"{what} failed with {type(error).__name__}: {told} ({line or 'in no line of its own'}); "
        "repair it and run the same command again, which goes on from the last checkpoint if there "
        "is one"
    )


def _line(error: BaseException, named: str) -> str | None:
    """The innermost line in the package that has that name."""
    module = named.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or module
    package = Path(file).parents[module.count(".")] if "." in module else Path(file)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(package):
            return f"{frame.filename}, line {frame.lineno}"
    return None
