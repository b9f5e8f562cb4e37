"""``predict``, ``plan`` and ``demo``: a network over a volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

import stitchsafe
from stitchsafe.cli.options import (
    ModelOption,
    ModelOptions,
    OutputOptions,
    PredictOptions,
    VolumeArgument,
    VolumeOptions,
    accepts_groups,
)
from stitchsafe.cli.parsing import parse_choices
from stitchsafe.cli.session import conversation

__all__ = ["demo", "plan", "predict"]

SAVED = ("labels", "fields", "table")

SaveOption = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        help="What to keep, any of labels,fields,table; fields alone makes no labels.",
    ),
]


@accepts_groups
def predict(
    volume: VolumeArgument,
    model: ModelOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="OME-Zarr to write, a path or s3://bucket/key; by default beside the volume.",
        ),
    ] = None,
    save: SaveOption = "labels",
    ngff: Annotated[Literal["0.5", "0.4"], typer.Option(help="OME-Zarr version to write.")] = "0.5",
    image: Annotated[
        Literal["link", "copy", "none"],
        typer.Option(help="What the output holds of the volume itself."),
    ] = "link",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output made by another recipe.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Do again what of an earlier output is damaged or gone."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, as `plan` does, and stop.")
    ] = False,
    *,
    network: ModelOptions,
    run: PredictOptions,
    source: VolumeOptions,
    output: OutputOptions,
) -> None:
    """Label the instances of a volume. The same command resumes a run that was stopped."""
    with conversation(output) as session:
        options: dict[str, Any] = {
            "save": parse_choices(save, "--save", SAVED),
            "ngff": ngff,
            "image": image,
            "overwrite": overwrite,
            **({"repair": True} if repair else {}),
            **network.keywords(),
            **run.keywords(),
            **source.keywords(),
        }
        if dry_run:
            from stitchsafe.pipeline import rehearse  # torch comes with it

            session.answer(rehearse(volume, model, out, events=session.events, **options))
        else:
            prediction = stitchsafe.predict(volume, model, out, events=session.events, **options)
            session.answer(prediction, text=_summary(prediction.to_json()))


def _summary(values: Mapping[str, Any]) -> str:
    """A prediction for people: what came out and where, and what it took."""
    instances, resumed = values["instances"], values["blocks_resumed"]
    what = "fields" if instances is None else f"{instances:,} instances"
    if instances is None and values.get("classes"):
        what = f"a map of {values['classes']} classes"
    if missing := values["missing_blocks"]:
        what = f"a part of a result that lacks {missing} blocks of other parts,"
    before = f", {resumed} more were done before" if resumed else ""
    lines = [
        f"{what} in {values['out']}",
        f"{values['blocks_done']} of {values['blocks_total']} blocks in {values['seconds']:.1f} s"
        f"{before}; {values['peak_memory_bytes'] / 1e9:.2f} GB of memory at most",
    ]
    if missing:
        return "\n".join(lines)
    lines += [
        f"the field {name} is kept in {values['plan']['recipe']['field_type']}, which changes it "
        f"by up to {difference:.2g}"
        for name, difference in values["rounding"].items()
    ]
    if values["exact"]:
        return "\n".join([*lines, "exact: stitched equals whole"])
    breaks = [f"{b['layer']} ({b['op']}): {b['reason']}" for b in values["breaks"]]
    seams = values["seams"]
    measured = (
        f"from other tiles, {seams['elements']:,} elements at {seams['seams']:,} seams differ by "
        f"up to {seams['max_abs_diff']:.2g} (largest value {seams['max_abs_value']:.2g})"
    )
    unmeasured = "no seams to measure: every tile reads the whole, or no other tiles can be laid"
    return "\n".join(
        [
            *lines,
            "NOT exact: this network cannot be stitched exactly",
            *(f"  {each}" for each in breaks),
            f"  {measured if seams['elements'] else unmeasured}",
        ]
    )


@accepts_groups
def plan(
    volume: VolumeArgument,
    model: ModelOption = None,
    save: SaveOption = "labels",
    *,
    network: ModelOptions,
    run: PredictOptions,
    source: VolumeOptions,
    output: OutputOptions,
) -> None:
    """Show what predict would do: tiles, memory, arithmetic, time and bytes. Writes nothing."""
    with conversation(output) as session:
        options: dict[str, Any] = {
            "save": parse_choices(save, "--save", SAVED),
            **network.keywords(),
            **run.keywords(),
            **source.keywords(),
        }
        session.answer(stitchsafe.plan(volume, model, events=session.events, **options))


@accepts_groups
def demo(
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the result and picture go."),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Run the main job on bundled data, and compare with one pass. Exit code 1: they differ."""
    with conversation(output) as session:
        result = stitchsafe.demo(out, events=session.events)
        session.answer(result, ok=result.equal)
