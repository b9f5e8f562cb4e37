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
        str,
        typer.Argument(
            metavar="OUT|RUN",
            help="What predict wrote; or a model folder, such as what train wrote.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM,FORM",
            help="Of a result, tiff: labels as OME-TIFF; csv, parquet: the table of instances. Of "
            "a network, onnx; bioimageio: a package.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A folder for the files, or of one form the file; by default beside the source.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="8GB", help="Memory for computing the table."),
    ] = None,
    trust_model: Annotated[
        bool, typer.Option("--trust-model", help="Run code that the network's folder names.")
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Write labels, a table of instances, or a network, in a form that other programs read."""
    with conversation(output) as session:
        given: dict[str, Any] = {"overwrite": overwrite, "events": session.events}
        if max_memory is not None:
            given["max_memory"] = parse_bytes(max_memory, "--max-memory")
        if trust_model:
            given["trust_model"] = True
        forms = [word.strip() for word in to.split(",")]
        made = stitchsafe.export(source, forms, out, **given)
        session.answer(made, ok=made.ok)
