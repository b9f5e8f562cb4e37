"""The answer of check for people: tables, a drawing of one tile, and what is wrong in full."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stitchsafe.geometry import AxisGeometry, NetworkGeometry
from stitchsafe.legible import legible
from stitchsafe.pipeline._probing import ProbeReport

__all__ = ["WIDTH", "draw_tile", "least_tile", "report"]

WIDTH = 100
_STYLES = {"safe": "bold green", "safe with consensus": "bold yellow", "unsafe": "bold red"}


def report(
    model: str,
    letters: str,
    geometry: NetworkGeometry,
    warnings: Sequence[str],
    probe: ProbeReport | None,
    skipped: Sequence[str] = (),
    *,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """The whole answer as text.

    Parameters
    ----------
    model, letters, geometry, warnings, probe, skipped
        What check found; `letters` are those of the axes.
    width
        Columns that it may take.
    color
        Whether to mark it up for a terminal.
    """
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=color, no_color=not color, highlight=False,
        color_system="standard" if color else None, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    console.print(
        Text.assemble(f"{legible(model)}: ", (geometry.verdict, _STYLES[geometry.verdict]))
    )
    if geometry.axes:
        console.print()
        console.print(_axes(letters, geometry))
    if geometry.outputs:
        console.print()
        console.print(_outputs(geometry))
    if geometry.axes and geometry.verdict != "unsafe":
        for line in _tile(letters, geometry, width):
            console.print(line)
    _points(
        console, "must be decided once for the whole volume",
        [((layer, "bold"), f": {what}") for layer, what in geometry.consensus],
    )  # fmt: skip
    _points(
        console, "breaks",
        [
            ("layer ", (b.layer, "bold"), f" ({b.op})\n{b.reason}\n", ("fix: ", "bold"), b.fix)
            for b in geometry.breaks
        ],
    )  # fmt: skip
    _points(
        console, "not done: predict refuses it, unless given --skip-postprocessing",
        [(each,) for each in skipped],
    )  # fmt: skip
    if probe is not None:
        _points(console, "probe", [(line,) for line in _probe(probe)])
    _points(console, "warnings", [(text,) for text in warnings])
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _axes(letters: str, geometry: NetworkGeometry) -> Padding:
    table = _table("axis", "period", "context", "receptive field", "input sizes", "offset")
    for letter, axis in zip(letters, geometry.axes, strict=True):
        sizes = (
            f"{axis.input_min} + k·{axis.input_step}" if axis.input_step else f"{axis.input_min}"
        )
        table.add_row(
            letter, str(axis.period), f"{axis.context[0]} before, {axis.context[1]} after",
            str(axis.receptive_field), sizes, str(axis.output_offset),
        )  # fmt: skip
    return Padding(table, (0, 0, 0, 2), expand=False)


def _outputs(geometry: NetworkGeometry) -> Padding:
    table = _table("", "name", "channels", "layout", "scale", "offset")
    for each in geometry.inputs:
        table.add_row("input", legible(each.name), str(each.channels), each.layout, "", "")
    for output in geometry.outputs:
        table.add_row(
            "output", legible(output.name), str(output.channels), output.layout,
            _list(output.scale), _list([axis.offset for axis in output.axes]),
        )  # fmt: skip
    return Padding(table, (0, 0, 0, 2), expand=False)


def _list(values: Sequence[object]) -> str:
    """Values of the axes; one where all are the same."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def least_tile(axis: AxisGeometry) -> tuple[int, int, int] | None:
    """Margin, tile and margin of the smallest valid input that shows a tile; None if none does."""
    before = axis.context[0] + (axis.output_offset - axis.context[0]) % axis.period
    needed = before + axis.period + axis.context[1]
    if axis.input_step == 0:
        tile = (axis.input_min - before - axis.context[1]) // axis.period * axis.period
        return (before, tile, axis.input_min - before - tile) if tile > 0 else None
    over = max(0, -((axis.input_min - needed) // axis.input_step))
    size = axis.input_min + over * axis.input_step
    return before, axis.period, size - before - axis.period


def _tile(letters: str, geometry: NetworkGeometry, width: int) -> Iterator[str]:
    letter, axis = max(
        reversed(list(zip(letters, geometry.axes, strict=True))),
        key=lambda pair: sum(pair[1].context),
    )
    found = least_tile(axis)
    yield ""
    if found is None:
        yield f"  along {letter} no tile has its context inside the only input size"
        return
    before, tile, after = found
    size = before + tile + after
    grows = f"n·{axis.period}" if axis.input_step else str(tile)
    yield f"  the smallest tile along {letter}, {tile} voxels, reads {size}:"
    names = [
        f"context {side}" if halo == context else f"halo, context {context}"
        for side, halo, context in zip(
            ("before", "after"), (before, after), axis.context, strict=True
        )
    ]
    drawn = draw_tile((before, tile, after), (names[0], f"tile: {grows}", names[1]), width - 2)
    yield from (f"  {line}" for line in drawn)
    if axis.padded:
        yield "  (clipped at the volume's border, where the network pads as in the whole pass)"


def draw_tile(sizes: tuple[int, int, int], names: tuple[str, str, str], width: int) -> list[str]:
    """Margins and tile, to scale as far as their labels allow.

    Parameters
    ----------
    sizes
        Voxels before, of the tile, and after.
    names
        What they are: the tile's stands in its arrow, the others' below theirs.
    width
        Columns that the drawing may take.
    """
    labels = (f" {sizes[0]} ", f" {names[1]} ", f" {sizes[2]} ")
    below = (names[0], "", names[2])
    least = [max(len(label) + 4, len(name)) for label, name in zip(labels, below, strict=True)]
    inner = min(width, 76) - 4
    spare = max(0, inner - sum(least))
    wanted = [max(0.0, inner * s / sum(sizes) - low) for s, low in zip(sizes, least, strict=True)]
    total = sum(wanted) or 1
    widths = [low + int(spare * want / total) for low, want in zip(least, wanted, strict=True)]
    arrows = [f"<{label:-^{w - 2}}>" for label, w in zip(labels, widths, strict=True)]
    return [
        "|" + "|".join(arrows) + "|",
        " " + " ".join(f"{n:^{w}}" for n, w in zip(below, widths, strict=True)).rstrip(),
    ]


def _points(
    console: Console, title: str, points: Sequence[Sequence[str | tuple[str, str]]]
) -> None:
    if not points:
        return
    console.print()
    console.print(f"  {title}:", style="bold")
    for point in points:
        pieces = [(each, "") if isinstance(each, str) else each for each in point]
        body = Text.assemble(*((legible(text, keeping="\n"), style) for text, style in pieces))
        for place, line in enumerate(body.split("\n")):
            mark = "  - " if place == 0 else "    "
            table = Table.grid(padding=0)
            table.add_column(width=len(mark))
            table.add_column(overflow="fold")
            table.add_row(mark, line)
            console.print(table)


def _probe(found: ProbeReport) -> Iterator[str]:
    if found.contradictions:
        yield f"contradicts the trace in {len(found.contradictions)} points, see breaks"
    elif found.own.axes:
        yield (
            f"{found.passes} passes: nothing that the running network does goes beyond the trace"
        )
        if found.positive is None and found.own.equal:
            yield "with its own weights, what was measured equals the trace"
        elif found.positive is None:
            yield "with its own weights less was seen than traced, as some weigh next to nothing"
    if found.equal:
        yield "with generic positive weights, what was measured equals the trace"
    elif found.positive is not None and not found.contradictions:
        yield (
            "with generic positive weights less was seen than traced, so that margins may be "
            "larger than needed (never too small)"
        )
        yield from found.positive.wider[:3]
    yield from found.skipped
