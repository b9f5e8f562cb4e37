"""The report of seams as one file for a browser.

Nothing in it points elsewhere: styles and drawings are inline, pictures are data. All text that
comes from files of others is escaped, and a policy in the page forbids scripts and the network.
"""

from __future__ import annotations

import html
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.discontinuity._pictures import Picture, Views, pictures_of
from stitchsafe.discontinuity._report import TOLERANCE, SeamReport, tells
from stitchsafe.discontinuity._statistics import Ratio
from stitchsafe.legible import legible

__all__ = ["write_html"]

_WORST, _TYPICAL = 4, 2
_MOST_MAPS, _MOST_CELLS, _MOST_NAMED, _LEVELS = 12, 40, 40, 8
_MAP, _LEAST_SQUARE, _LARGEST_SQUARE = 240, 6, 14  # pixels

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --card: #f6f8fa;
  --line: #d1d9e0; --seam: #b3430a; --control: #2f6fb0; --bad: #b3261e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117;
  --card: #161b22; --line: #30363d; --seam: #f5a15b; --control: #6cb0f5; --bad: #ff8a80;
  --good: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin-bottom: 0; } h3 + p { margin-top: 0; } figure { margin: 0; }
.verdict { border-left: .4rem solid; padding: .5rem 1rem; background: var(--card); }
.verdict.open { border-color: var(--soft); }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict strong { font-size: 1.2rem; } .soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left;
  vertical-align: top; overflow-wrap: normal; }
td.raised { color: var(--bad); font-weight: 600; }
svg { max-width: 100%; height: auto; display: block; }
svg.plot { width: 36rem; } svg text { fill: var(--soft); font-size: 10px; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; }
.crop { position: relative; } .crop img { width: 100%; display: block; image-rendering: pixelated; }
.crop i { position: absolute; width: 0; border-left: 2px dashed #fff; mix-blend-mode: difference;
  height: 8%; } .crop i.top { top: 0; } .crop i.bottom { bottom: 0; }
article { background: var(--card); padding: .8rem; margin: 1rem 0; }
article h3 { margin: 0 0 .4rem; font-size: 1rem; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .1rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; }
"""

_WORDS = {
    "innovation": "what cannot be foretold",
    "splits": "labels split",
    "ends": "labels ended",
    "merges": "labels merged",
}

_DOES = {
    "innovation": "The field does what could not be foretold",
    "splits": "Labels are split",
    "ends": "Labels end",
    "merges": "Labels are merged",
}


def write_html(
    report: SeamReport, views: Views | None = None, provenance: Mapping[str, Any] | None = None
) -> str:
    """The report as the text of an HTML file.

    Parameters
    ----------
    report
        The measures.
    views
        What pictures are made of; without any there are none.
    provenance
        How the result was made, by heading; nested.

    Returns
    -------
    str
    """
    title = f"Seams of {report.out}"
    body = [
        f"<h1>{_text(title)}</h1>",
        *_verdict(report),
        *(_figures(report) if report.grids else ()),
        *_histogram(report),
        *_maps(report),
        *_faces(report, views or Views()),
        *_origin(report, provenance or {}),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _text(value: object) -> str:
    """Text of anybody's that is shown, and does nothing else."""
    return html.escape(legible(str(value)))


def _verdict(report: SeamReport) -> Iterator[str]:
    kind, words = ("good", "No seams found") if report.ok else ("bad", "Seams found")
    sign = "✓" if report.ok else "✗"
    if report.ok and not report.compared:
        kind, sign = "open", "–"
        words = "Nothing to compare" if report.grids else "No grid found"
    yield f'<div class="verdict {kind}"><strong>{sign} {words}</strong><br>'
    if not report.grids:
        yield "Nothing repeats along any axis that would be a seam.</div>"
        return
    reasons = np.unique(report.faces.because[report.faces.score > report.threshold])
    why = ", ".join(_name(report.measures[each]) for each in reasons)
    yield f"{report.bad:,} of {len(report.faces):,} faces stand out{why and f' by {_text(why)}'}. "
    yield from _findings(report)
    if report.recomputed:
        again = report.recomputed
        yield (
            f"Computed again by other tiles, {again['elements']:,} elements at "
            f"{again['seams']:,} seams differ by up to {again['max_abs_diff']:.2g}."
        )
    yield "</div>"
    for note in report.notes:
        yield f'<p class="soft">{_text(note)}</p>'
    found = " (found from the data)" if report.guessed else ""
    cells = "; ".join(f"{name} {' × '.join(map(str, c))}" for name, c in report.grids.items())
    yield (
        f"<p>{_text(cells)} voxels ({_text(','.join(report.axes))}), from "
        f"{_text(', '.join(map(str, report.origin)))}{found}.</p>"
    )


def _findings(report: SeamReport) -> Iterator[str]:
    """The ratios that speak of seams, as sentences."""
    telling = report.telling
    together = telling.get(("", ""), {})
    jump = f"jump@{report.scale}"
    jumps = {jump: together[jump]} if jump in together else _jumps(together)
    for name, ratio in {**jumps, **{k: v for k, v in together.items() if k in _DOES}}.items():
        does = _DOES.get(name, "The field jumps")
        value, low, high = map(_short, (ratio.value, ratio.low, ratio.high))
        yield f"{does} {value} times ({low} to {high}) as much at seams as between them. "
    elsewhere = {name for each in telling.values() for name in each if name not in together}
    if elsewhere and not _jumps(together):
        yield f"Across some axes or families: {_text(', '.join(sorted(map(_name, elsewhere))))}. "
    if report.compared and report.ok:
        yield "Seams look like what lies between them. "


def _jumps(ratios: Mapping[str, Ratio]) -> dict[str, Ratio]:
    """The one of jumps that lies farthest from 1, if any."""
    found = {name: ratio for name, ratio in ratios.items() if name.startswith("jump")}
    if not found:
        return {}
    name = max(found, key=lambda each: abs(math.log(found[each].value)))
    return {name: found[name]}


def _name(measure: str) -> str:
    if measure.startswith("jump@"):
        return f"jump at scale {measure.removeprefix('jump@')}"
    return _WORDS.get(measure, measure)


def _figures(report: SeamReport) -> Iterator[str]:
    columns: dict[str, Mapping[str, Ratio]] = {"all": report.ratios.get(("", ""), {})}
    if len(report.per_family) > 1:
        columns.update(report.per_family)
    columns.update({f"across {axis}": found for axis, found in report.per_axis.items()})
    yield "<h2>Seam ÷ control</h2>"
    yield (
        '<p class="soft">1: as between seams. In brackets what it may be, for all intervals of the '
        f"table together with 99 %; ▲ and ▼ where all of it lies off 1 by more than {TOLERANCE:g} "
        "in a way that speaks of seams, of three planes at least.</p>"
    )
    yield '<div class="wide"><table>'
    heads = "".join(f"<th scope=col>{_text(name)}</th>" for name in columns)
    yield f"<thead><tr><th scope=col>measure</th>{heads}</tr></thead><tbody>"
    for measure in report.measures:
        if not any(measure in found for found in columns.values()):
            continue
        cells = "".join(_cell(measure, found.get(measure)) for found in columns.values())
        yield f"<tr><th scope=row>{_text(_name(measure))}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _cell(measure: str, ratio: Ratio | None) -> str:
    if ratio is None:
        return "<td>–</td>"
    shown = f"{_short(ratio.value)} ({_short(ratio.low)} to {_short(ratio.high)})"
    if not tells(measure, ratio):
        return f"<td>{shown}</td>"
    return f'<td class="raised">{shown} {"▲" if ratio.value > 1 else "▼"}</td>'


def _short(value: float) -> str:
    """Three digits, as people write them."""
    if math.isinf(value):
        return "∞"
    if 0 < value < 0.001:
        return "&lt; 0.001"
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def _histogram(report: SeamReport) -> Iterator[str]:
    """How the faces' jumps are spread, and those of their controls, on a logarithmic axis."""
    pairs = [
        np.log10(values[np.isfinite(values) & (values > 0)].astype(np.float64))
        for values in (report.faces.jump, report.faces.control_jump)
    ]
    if min(map(len, pairs)) == 0:
        return
    low, high = min(p.min() for p in pairs), max(p.max() for p in pairs)
    edges = np.linspace(low - 1e-6, max(high, low + 0.1) + 1e-6, 33)
    shares = [np.histogram(p, edges)[0] / len(p) for p in pairs]
    top = max(share.max() for share in shares)
    yield "<h2>Jumps of the field</h2><figure>"
    yield (
        '<svg class="plot" viewBox="0 0 360 190" role="img" aria-label="Histogram of the mean jump '
        'of faces, at seams and at controls">'
    )
    yield '<path d="M38 8V150H352" fill="none" stroke="var(--soft)"/>'
    for share, colour, dash in zip(shares, ("seam", "control"), ("", "5 3"), strict=True):
        heights = 150 - 136 * share / top
        steps = "".join(f"H{38 + 312 * k / 32:.1f}V{y:.1f}H{38 + 312 * (k + 1) / 32:.1f}"
                        for k, y in enumerate(heights))  # fmt: skip
        yield (
            f'<path d="M38 150{steps}V150" fill="var(--{colour})" fill-opacity=".18" '
            f'stroke="var(--{colour})" stroke-width="1.5" stroke-dasharray="{dash}"/>'
        )
    for k in range(5):
        value = 10 ** (edges[0] + (edges[-1] - edges[0]) * k / 4)
        anchor = ("start", "middle", "middle", "middle", "end")[k]
        yield f'<text x="{38 + 78 * k}" y="163" text-anchor="{anchor}">{value:.2g}</text>'
    for part in (0, 0.5, 1):
        at = 153 - 136 * part
        yield f'<text x="34" y="{at:.0f}" text-anchor="end">{100 * top * part:.2g} %</text>'
    yield '<text x="195" y="182" text-anchor="middle">mean jump of a face, in units of the field'
    yield "</text></svg><figcaption>Share of faces by their jump at scale "
    yield (
        f'{report.scale}: <span style="color:var(--seam)">━ seams</span>, '
        '<span style="color:var(--control)">╍ controls</span>.</figcaption></figure>'
    )


def _maps(report: SeamReport) -> Iterator[str]:
    """For each axis, the planes with the worst faces; each a heat map of its faces."""
    faces = report.faces
    if not len(faces):
        return
    yield "<h2>Where</h2>"
    yield (
        f'<p class="soft">Each square is a face; the fuller, the rarer at a control. Framed: score '
        f"above {report.threshold:.1f}, which few controls reach, if any.</p>"
    )
    for axis in np.unique(faces.axis):
        rows = np.flatnonzero(faces.axis == axis)
        positions, plane = np.unique(faces.position[rows], return_inverse=True)
        worst = np.zeros(len(positions))
        np.maximum.at(worst, plane, faces.score[rows])
        chosen = np.argsort(-worst, kind="stable")[:_MOST_MAPS]
        letter = _text(report.axes[axis])
        others = [_text(each) for k, each in enumerate(report.axes) if k != axis]
        ways = ", ".join(
            f"{each} {way}"
            for each, way in zip(others, ("downwards", "to the right")[-len(others) :], strict=True)
        )
        count = f"{len(chosen)} of {len(positions):,} planes"
        yield f'<h3>Across {letter}</h3><p class="soft">{count}, worst first; {ways}.</p>'
        yield '<div class="maps">'
        for at in chosen:
            yield "<figure>"
            several = yield from _map(report, rows[plane == at], int(axis))
            yield f"<figcaption>{letter} = {positions[at]}{several}</figcaption></figure>"
        yield "</div>"


def _map(report: SeamReport, rows: NDArray[np.intp], axis: int) -> Generator[str, None, str]:
    """One plane's faces; where they are many, a square is the worst of several, which it says.

    Quiet squares are drawn together, level by level, so that a map of any plane is small.
    """
    faces = report.faces
    others = [k for k in range(len(report.axes)) if k != axis]
    places = [np.unique(faces.corner[rows, k], return_inverse=True)[1] for k in others]
    if len(places) == 1:
        places.insert(0, np.zeros(len(rows), int))
    strides = [max(1, -(-(int(p.max()) + 1) // _MOST_CELLS)) for p in places]
    height, width = (int(p.max()) // s + 1 for p, s in zip(places, strides, strict=True))
    square = places[0] // strides[0] * width + places[1] // strides[1]
    order = np.lexsort((-faces.score[rows], square))
    first = np.unique(square[order], return_index=True)[1]
    rows, square = rows[order][first], square[order][first]
    scores = faces.score[rows].astype(np.float64)
    bad = scores > report.threshold
    level = np.ceil(_LEVELS * np.minimum(1, scores / max(report.threshold, 1e-9))).astype(int)
    size = max(_LEAST_SQUARE, min(_LARGEST_SQUARE, _MAP // max(width, height)))
    x, y = square % width * size + 1, square // width * size + 1
    outline = f"h{size - 2}v{size - 2}h{2 - size}z"

    def squares(which: NDArray[np.bool_]) -> str:
        return "".join(f"M{a} {b}{outline}" for a, b in zip(x[which], y[which], strict=True))

    yield f'<svg width="{width * size + 2}" height="{height * size + 2}" role="img">'
    for value in np.unique(level):
        strength = 0.08 + 0.8 * value / _LEVELS
        yield (
            f'<path d="{squares(level == value)}" fill="var(--seam)" '
            f'fill-opacity="{strength:.2f}" stroke="var(--line)" stroke-width="{size / 14:.1f}"/>'
        )
    yield (
        f'<path d="{squares(bad)}" fill="none" stroke="var(--ink)" stroke-width="{size / 9:.1f}"/>'
    )
    for at in np.flatnonzero(bad)[np.argsort(-scores[bad], kind="stable")][:_MOST_NAMED]:
        corner = ",".join(map(str, faces.corner[rows[at]]))
        yield (
            f'<rect x="{x[at]}" y="{y[at]}" width="{size - 2}" height="{size - 2}" '
            f'fill-opacity="0"><title>from {corner}: score {scores[at]:.1f}</title></rect>'
        )
    yield "</svg>"
    each = strides[0] * strides[1]
    return "" if each == 1 else f", each square the worst of {each:,}"


def _faces(report: SeamReport, views: Views) -> Iterator[str]:
    faces = report.faces
    if not len(faces):
        return
    ranked = faces.ranked()
    worst = [int(row) for row in ranked[:_WORST]]
    middle = ranked[len(ranked) // 2 :]
    typical = [int(row) for row in middle[:_TYPICAL] if int(row) not in worst]
    pictures = pictures_of(faces, [*worst, *typical], report.region, views)
    for title, rows in (("Worst faces", worst), ("Typical faces", typical)):
        if rows:
            yield f"<h2>{title}</h2>"
        for row in rows:
            yield from _face(report, row, pictures[row])


def _face(report: SeamReport, row: int, pictures: Sequence[Picture]) -> Iterator[str]:
    face = report.face(row)
    corner = ",".join(map(str, face["corner"]))
    why = f", by {_name(face['because'])}" if face["because"] else ""
    yield "<article>"
    yield (
        f"<h3>{_text(face['axis'])} = {face['position']}, from {corner} "
        f"<span class=soft>({_text(face['family'])}; score {face['score']:.1f}{_text(why)})"
        "</span></h3>"
    )
    figures = []
    if report.field is not None:
        figures.append(f"jump {_known(face['jump'])}, beside it {_known(face['control_jump'])}")
    if report.labels is not None:
        figures.append(
            f"{face['pairs']:,} pairs: {face['splits']:,} split, {face['ends']:,} ended, "
            f"{face['merges']:,} merged"
        )
    yield f'<p class="soft">{_text("; ".join(figures))}</p>'
    if pictures:
        yield f'<p class="soft">{_text(_extent(report, row, pictures[0]))}</p>'
        yield '<div class="pair">'
        for each in pictures:
            place = face["position"] if each.at == "seam" else face["control"]
            words = (
                f"{each.what}, {each.at} {face['axis']}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{place}"
            )
            mark = f'style="left:calc({100 * each.plane:.2f}% - 1px)"'
            yield (
                f'<figure><div class="crop"><img src="{each.data}" alt="{_text(words)}">'
                f'<i class="top" {mark}></i><i class="bottom" {mark}></i></div>'
                f"<figcaption>{_text(words)}</figcaption></figure>"
            )
        yield "</div>"
    yield "</article>"


def _known(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _extent(report: SeamReport, row: int, picture: Picture) -> str:
    """What a face's pictures show, in voxels."""
    axis, box = int(report.faces.axis[row]), picture.box
    across = f"{report.axes[axis]} {box.offset[axis]} to {box.end[axis]} from left to right"
    down = f"{report.axes[picture.along]} {box.offset[picture.along]} to {box.end[picture.along]}"
    at = [
        f"at {letter} = {box.offset[k]}"
        for k, letter in enumerate(report.axes)
        if k not in (axis, picture.along)
    ]
    return f"Pictures of voxels: {', '.join([across, f'{down} downwards', *at])}."


def _origin(report: SeamReport, provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>What was measured, and how it was made</h2>"
    yield from _list(
        {
            "result": report.out,
            "field": report.field or "–",
            "labels": report.labels or "–",
            "region": str(report.region),
        }
    )
    for heading, content in provenance.items():
        if content:
            yield f"<details><summary>{_text(heading)}</summary>"
            yield from _list(content)
            yield "</details>"


def _list(content: Mapping[str, Any]) -> Iterator[str]:
    yield "<dl>"
    for key, value in content.items():
        yield f"<dt>{_text(key)}</dt><dd>"
        if isinstance(value, Mapping):
            yield from _list(value)
        else:
            yield _text(value)
        yield "</dd>"
    yield "</dl>"
