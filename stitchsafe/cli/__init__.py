"""The command line: it parses, calls the public API of :mod:`stitchsafe`, and prints.

stdout carries the answer (with ``--json`` one JSON object and nothing else); progress, decisions
and errors go to stderr. Exit codes are those of :mod:`stitchsafe.cli.outcome`.
"""

from __future__ import annotations

from stitchsafe.cli.app import main

__all__ = ["main"]
