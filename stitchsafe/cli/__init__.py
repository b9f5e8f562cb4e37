"""The command line: it parses, calls the public API of :mod:`stitchsafe`, and prints.

stdout carries the answer (with ``--json`` one JSON object and nothing else); progress, decisions
and errors go to stderr. Exit codes are those of :mod:`stitchsafe.cli.outcome`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from stitchsafe.cli.ending import after_all, before_anything

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments
        What follows the program's name; by default what it was called with.
    """
    with before_anything():
        from stitchsafe.cli.app import run  # much comes with it

        code = run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:  # the program itself, of which nothing is left but to end
        after_all(code)
    sys.exit(code)
