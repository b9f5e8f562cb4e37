"""``train``: a network from a configuration."""

from __future__ import annotations

from typing import Annotated

import typer

import stitchsafe
from stitchsafe.cli.options import OutputOptions, accepts_groups
from stitchsafe.cli.session import conversation

__all__ = ["train"]


@accepts_groups
def train(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a bundled training."),
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the run is kept.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The training data, instead of the configuration's."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps, instead of the configuration's.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Start from these: safetensors, or a model folder."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, or several as cuda:0,1.")
    ] = "auto",
    trust_model: Annotated[
        bool,
        typer.Option("--trust-model", help="Run a network or loss that CONFIG names as code."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where another run stands.")
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Train a network. The same command resumes a training that was stopped."""
    with conversation(output) as session:
        result = stitchsafe.train(
            config,
            out,
            data=data,
            steps=steps,
            init=init,
            device=device,
            trust_model=trust_model,
            overwrite=overwrite,
            events=session.events,
        )
        if not result.rank:  # of several processes, one speaks
            session.answer(result)
