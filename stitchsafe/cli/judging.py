"""``check``, ``verify`` and ``evaluate``: questions about a network, a result, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import stitchsafe
from stitchsafe.cli.options import MODEL_HELP, ModelOptions, OutputOptions, accepts_groups
from stitchsafe.cli.parsing import parse_numbers, parse_shape
from stitchsafe.cli.session import by_key, conversation

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
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="96,96,96|auto",
            help="Score the seams of this grid too; auto: the cells and tiles of a result.",
        ),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Score labels: adapted Rand error, variation of information (bits), average precision."""
    with conversation(output) as session:
        given: dict[str, Any] = {}
        if thresholds is not None:
            given["thresholds"] = parse_numbers(thresholds, "--thresholds", "0.5,0.75")
        if grid is not None:
            given["grid"] = "auto" if grid.strip() == "auto" else parse_shape(grid, "--grid")
        scores = stitchsafe.evaluate(labels, truth, events=session.events, **given)
        session.answer(scores, text=_scores(scores.to_json()))


def _scores(values: Mapping[str, Any]) -> str:
    """Scores for people, with a table of what happens at seams and between them."""
    seams = values.get("seams")
    plain = by_key({key: value for key, value in values.items() if key != "seams"})
    if seams is None:
        return plain
    rows = [("at seams of", "pairs inside", "split falsely", "pairs between", "merged falsely")]
    named = {
        **{
            f"{name} {' x '.join(map(str, family['grid']))}": family
            for name, family in seams["families"].items()
        },
        **({"all": seams["all"]} if len(seams["families"]) > 1 else {}),
        "(half-way between)": seams["control"],
    }
    for name, pairs in named.items():
        rows.append(
            (
                name,
                f"{pairs['inside']:,}",
                _with_rate(pairs["false_splits"], pairs["split_rate"]),
                f"{pairs['between']:,}",
                _with_rate(pairs["false_merges"], pairs["merge_rate"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(
            f"{cell:<{width}}" if at == 0 else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    worst = [
        f"  {face['axis']} = {face['position']}, from {','.join(map(str, face['corner']))}: "
        f"{face['false_splits']:,} split, {face['false_merges']:,} merged"
        for face in seams["worst"]
    ]
    return "\n".join([plain, "", *table, *(["worst faces:", *worst] if worst else [])])


def _with_rate(count: int, rate: float | None) -> str:
    return f"{count:,}" if rate is None else f"{count:,} ({100 * rate:.3g} %)"
