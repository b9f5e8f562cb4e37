"""What libraries raise over damaged bytes, as one kind of error.

A file that was cut off or has a flipped bit reaches some library's reader in a state that its
authors did not foresee, and what it then raises is anybody's guess: a zip of which one bit is wrong
gives ten kinds of errors. The user's remedy is the same for all of them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stitchsafe.errors import ModelError, StitchsafeError

__all__ = ["damage_named", "one_line"]


@contextmanager
def damage_named(what: str, remedy: str = "fetch it again") -> Iterator[None]:
    """Name whatever goes wrong inside as damage of a file.

    Parameters
    ----------
    what
        Begins the message, such as ``model.zip is a damaged zip``.
    remedy
        Ends it.

    Raises
    ------
    ModelError
        With the reason in between; errors of stitchsafe pass as they are, and so do those of the
        operating system, but for a place in the file that cannot be.
    """
    try:
        yield
    except StitchsafeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ModelError(f"{what} ({one_line(error)}); {remedy}") from error


def one_line(error: BaseException, most: int = 160) -> str:
    """What an error says, on one line; its kind where it says nothing or a mere word."""
    text = " ".join(str(error).split())[:most]
    if " " in text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
