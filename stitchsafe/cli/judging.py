"""``check``, ``verify`` and ``evaluate``: questions about a network, a result, and labels."""

from __future__ import annotations

from typing import Annotated

import typer

import stitchsafe
from stitchsafe.cli.options import MODEL_HELP, ModelOptions, OutputOptions, accepts_groups
from stitchsafe.cli.parsing import parse_numbers, parse_shape
from stitchsafe.cli.session import conversation

__all__ = ["check", "evaluate", "verify"]


@accepts_groups
def check(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}."),
    ],
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Also run the network, and compare it with what was traced."),
    ] = False,
    trained_on: Annotated[
        str | None,
        typer.Option(
            metavar="128,128,128",
            help="Patches that the network was trained on, where its card does not say.",
        ),
    ] = None,
    *,
    network: ModelOptions,
    output: OutputOptions,
) -> None:
    """Tell whether a network can be stitched exactly, and what it needs. Exit code 1: it cannot."""
    with conversation(output) as session:
        patch = parse_shape(trained_on, "--trained-on") if trained_on else None
        verdict = stitchsafe.check(
            model, probe=probe, trained_on=patch, events=session.events, **network.keywords()
        )
        session.answer(verdict, ok=verdict.safe)


@accepts_groups
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="What predict wrote.")],
    volume: Annotated[
        str | None, typer.Option(metavar="VOLUME", help="The volume, if it has been moved.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The model, if it has been moved."),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="MASK", help="The mask, if it has been moved.")
    ] = None,
    *,
    network: ModelOptions,
    output: OutputOptions,
) -> None:
    """Compare a result with its ledger and with the network. Exit code 1: it does not hold."""
    with conversation(output) as session:
        verification = stitchsafe.verify(
            out,
            volume=volume,
            model=model,
            mask=mask,
            events=session.events,
            **network.keywords(),
        )
        session.answer(verification, ok=verification.ok)


@accepts_groups
def evaluate(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="Labels to judge.")],
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="Labels to judge them by.")],
    thresholds: Annotated[
        str | None,
        typer.Option(metavar="0.5,0.75", help="IoU thresholds of the average precision."),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Score labels: adapted Rand error, variation of information (bits), average precision."""
    with conversation(output) as session:
        given = (
            {}
            if thresholds is None
            else {"thresholds": parse_numbers(thresholds, "--thresholds", "0.5,0.75")}
        )
        session.answer(stitchsafe.evaluate(labels, truth, **given))
