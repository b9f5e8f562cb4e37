"""``export``: what stitchsafe made, for other programs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import stitchsafe
from stitchsafe.cli.options import OutputOptions, accepts_groups
from stitchsafe.cli.parsing import parse_bytes
from stitchsafe.cli.session import conversation

__all__ = ["export"]


@accepts_groups
def export(
    source: Annotated[
        str, typer.Argument(metavar="OUT", help="What predict wrote.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM,FORM",
            help="tiff: labels as OME-TIFF; csv, parquet: the table of instances.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A folder for the files, or of one form the file; by default beside OUT.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="8GB", help="Memory for computing the table."),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Write labels, or the table of instances, in a form that other programs read."""
    with conversation(output) as session:
        given: dict[str, Any] = {"overwrite": overwrite, "events": session.events}
        if max_memory is not None:
            given["max_memory"] = parse_bytes(max_memory, "--max-memory")
        forms = [word.strip() for word in to.split(",")]
        session.answer(stitchsafe.export(source, forms, out, **given))
