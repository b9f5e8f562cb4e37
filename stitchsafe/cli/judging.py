"""``check``, ``verify``, ``seams`` and ``evaluate``: questions about networks and results."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stitchsafe
from stitchsafe.cli.options import MODEL_HELP, ModelOptions, OutputOptions, accepts_groups
from stitchsafe.cli.parsing import (
    parse_bytes,
    parse_numbers,
    parse_origin,
    parse_roi,
    parse_shape,
)
from stitchsafe.cli.session import by_key, conversation
from stitchsafe.errors import InputError, StoreError

if TYPE_CHECKING:
    from stitchsafe.discontinuity import SeamReport

__all__ = ["check", "evaluate", "seams", "verify"]


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


@accepts_groups
def seams(
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="What predict wrote; or labels, or a field, of any program."
        ),
    ],
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="96,96,96|auto",
            help="How it was tiled (known for what predict wrote); auto finds it in the data.",
        ),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(metavar="0,16,16", help="Where a cell of the grid begins.")
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Which field of a result (the first by default), or the field of these labels.",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="LABELS", help="The labels of a field.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(metavar="czyx", help="Axes of a field whose file does not name them."),
    ] = None,
    time: Annotated[
        int | None, typer.Option(metavar="T", help="Which time point, where there are several.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option(metavar="0:64,:,:", help="The only region to look at.")
    ] = None,
    period: Annotated[
        str | None,
        typer.Option(metavar="9,9,9", help="Of the network, where it is no power of two."),
    ] = None,
    recompute: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Compute N seams of a result across each axis again, by other tiles.",
        ),
    ] = 0,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a report that a browser shows.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="VOLUME", help="The image in the report (a result's own by default)."),
    ] = None,
    faces: Annotated[
        str | None,
        typer.Option(metavar="FILE.npz", help="Write all faces, one row each, as NumPy arrays."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="1GB", help="Memory that data may take at a time.")
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Tell whether seams show, and where. Exit code 1: they do."""
    with conversation(output) as session:
        given: dict[str, Any] = {}
        if grid is not None:
            given["grid"] = "auto" if grid.strip() == "auto" else parse_shape(grid, "--grid")
        if origin is not None:
            given["origin"] = parse_origin(origin, "--origin")
        if roi is not None:
            given["roi"] = parse_roi(roi, "--roi")
        if period is not None:
            given["period"] = parse_shape(period, "--period")
        if max_memory is not None:
            given["max_memory"] = parse_bytes(max_memory, "--max-memory")
        if faces is not None:
            _refuse_place(Path(faces))
            if html is not None and Path(html).absolute() == Path(faces).absolute():
                raise InputError(
                    f"--html and --faces both name {html}, and one would replace the other; give "
                    "each a file of its own"
                )
        report = stitchsafe.seams(
            out,
            time=time,
            field=field,
            labels=labels,
            axes=axes,
            recompute=recompute,
            html=html,
            image=image,
            events=session.events,
            **given,
        )
        if faces is not None:
            _save_faces(report, faces)
        session.answer(report, ok=report.ok)


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


def _save_faces(report: SeamReport, path: str) -> None:
    """The columns of the table of faces, and the names that their numbers stand for."""
    import numpy as np

    from stitchsafe.engine import save_bytes

    columns: dict[str, Any] = {
        **vars(report.faces),
        "axes": report.axes,
        "families": list(report.grids),
        "measures": list(report.measures),
        "threshold": report.threshold,
    }
    content = io.BytesIO()
    np.savez(content, **columns)
    try:
        save_bytes(Path(path), content.getvalue())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}; choose another place for --faces"
        ) from error


def _refuse_place(path: Path) -> None:
    """Only a table of faces is ever replaced, so that a slip of the hand costs no data."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"the folder {parent} does not exist; create it, or change --faces")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, and the table is a file; change --faces")
    if path.exists() and not _is_table(path):
        raise StoreError(
            f"{path} is there already and is no table of faces, so it is left alone; change --faces"
        )


def _is_table(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return {"score.npy", "because.npy", "threshold.npy"} <= set(file.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
