"""``view``: a result in napari."""

from __future__ import annotations

from typing import Annotated

import typer

import stitchsafe
from stitchsafe.cli.options import OutputOptions, accepts_groups
from stitchsafe.cli.session import conversation

__all__ = ["view"]


@accepts_groups
def view(
    out: Annotated[str, typer.Argument(metavar="OUT", help="What predict wrote.")],
    *,
    output: OutputOptions,
) -> None:
    """Open a result in napari, with the seam inspector beside it."""
    with conversation(output):
        stitchsafe.view(out)
