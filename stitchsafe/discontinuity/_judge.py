"""From pieces to ratios and faces.

Across one axis every plane has the same pieces and the same faces, so their measures are arrays
over (plane, piece). For a ratio, a seam is held against the controls of the gaps on both sides of
it. For a score, a face is held against the mean of all controls across its axis, and so is every
control's face, to learn what chance does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.discontinuity._across import LABEL_COUNTS
from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._pieces import Layout, Pieces
from stitchsafe.discontinuity._statistics import (
    Ratio,
    count_ratio,
    decoy_threshold,
    mean_ratio,
    rarity,
)

Values = NDArray[Any]

__all__ = ["CHANCE", "CONFIDENCE", "Judged", "judge"]

CONFIDENCE = 0.99
"""That no interval of a report misses, of all that it holds together."""
CHANCE = 0.001
"""Of any face of a right result being taken for a bad one by its score alone."""

_FEWEST_CONTROLS = 8
"""Faces at controls that say how a field's faces are spread."""

_EVENTS = {"splits": "pairs", "ends": "pairs", "merges": "boundaries"}
_COUNT = {name: index for index, name in enumerate(LABEL_COUNTS)}


@dataclass(frozen=True)
class Judged:
    """What the measures say.

    Parameters
    ----------
    ratios
        Seam ÷ control by measure (``jump@1``, …, ``innovation``, ``splits``, ``ends``,
        ``merges``): of all seams under the key ``("", "")``, of one family or axis or both under
        (family, axis's letter).
    faces
        One row each.
    measures
        Names, which `FaceTable.because` numbers.
    scale
        At which the faces' jumps are; None without a field.
    threshold
        Score above which a face is bad.
    """

    ratios: dict[tuple[str, str], dict[str, Ratio]]
    faces: FaceTable
    measures: tuple[str, ...]
    scale: int | None
    threshold: float


@dataclass(frozen=True)
class _Across:
    """Measures of all planes across one axis, as arrays (plane, piece, …)."""

    layout: Layout
    axis: int
    corner: Values  # (piece, d), of the first plane
    shape: Values
    contrasts: Values  # (plane, piece, scale)
    logs: Values
    areas: Values
    labels: Values  # (plane, piece, count)

    @cached_property
    def place(self) -> dict[int, int]:
        """Row of each plane."""
        positions = self.layout.planes[self.axis].positions
        return {position: row for row, position in enumerate(positions)}

    @cached_property
    def seams(self) -> list[int]:
        return [self.place[at] for at in self.layout.planes[self.axis].seams]

    @cached_property
    def controls(self) -> list[int | None]:
        """Rows, one per gap."""
        controls = self.layout.planes[self.axis].controls
        return [None if at is None else self.place[at] for at in controls]

    def beside_seams(self, values: Values) -> Values:
        """Sum over the controls on both sides of each seam."""
        found = np.zeros((len(self.seams), *values.shape[1:]), values.dtype)
        for row, gaps in zip(found, itertools.pairwise(self.controls), strict=True):
            for at in gaps:
                if at is not None:
                    row += values[at]
        return found

    @cached_property
    def owned(self) -> list[int]:
        """Rows of the controls, in order."""
        return [row for row in self.controls if row is not None]

    @cached_property
    def face(self) -> tuple[Values, Values, Values]:
        """Which face each piece belongs to; corners and shapes of the faces, (face, d)."""
        corner, end = self.corner.copy(), self.corner + self.shape
        for axis in range(corner.shape[1]):
            if axis != self.axis:
                bounds = np.asarray(self.layout.grid.bounds(axis))
                at = np.searchsorted(bounds, corner[:, axis], side="right") - 1
                corner[:, axis], end[:, axis] = bounds[at], bounds[at + 1]
        corners, index = np.unique(corner, axis=0, return_inverse=True)
        ends = np.zeros_like(corners)
        ends[index.reshape(-1)] = end
        return index.reshape(-1), corners, ends - corners

    def by_face(self, values: Values) -> Values:
        """Sums over the pieces of each face: (plane, piece, …) to (plane, face, …)."""
        index, corners, _ = self.face
        if len(corners) == len(index):  # each piece is a face
            return values
        found = np.zeros((values.shape[0], len(corners), *values.shape[2:]), values.dtype)
        for at, face in enumerate(index):
            found[:, face] += values[:, at]
        return found

    @cached_property
    def units(self) -> Values:
        """Cube of the volume that a seam's piece lies in, (seam, piece)."""
        positions = np.fromiter(self.layout.planes[self.axis].seams, np.int64)
        found = np.zeros((len(positions), len(self.corner)), np.int64)
        for axis, size in enumerate(self.layout.grid.region.end):
            along = self.corner[None, :, axis] if axis != self.axis else positions[:, None]
            found = found * (size // self.layout.side + 1) + along // self.layout.side
        return found


def judge(layout: Layout, pieces: Sequence[Pieces], axes: str, *, labels: bool) -> Judged:
    """Ratios and faces.

    Parameters
    ----------
    axes
        Letters of the axes.
    labels
        Whether there were any.
    """
    across = [_Across(layout, axis, **vars(each)) for axis, each in enumerate(pieces)]
    measures = (*layout.field_measures, *(_EVENTS if labels else ()))
    ratios = _ratios(layout, across, axes, measures)
    scale = _telling_scale(ratios, layout.scales)
    if not any(each.seams for each in across):
        return Judged(ratios, _no_faces(len(across)), measures, scale, -math.log10(CHANCE))
    scored = [_scores(across, measure) for measure in measures]
    scores, controls = (np.stack(each).astype(np.float32) for each in zip(*scored, strict=True))
    faces = _faces(layout, across, scores, scale)
    alone = math.log10(scores.size / CHANCE)
    seam = faces.corner[np.arange(len(faces)), faces.axis] * len(axes) + faces.axis
    together = decoy_threshold(scores.max(axis=0), controls.max(axis=0), seam)
    return Judged(ratios, faces, measures, scale, min(alone, together))


def _telling_scale(
    ratios: dict[tuple[str, str], dict[str, Ratio]], scales: tuple[int, ...]
) -> int | None:
    """The scale at which seams stand out most surely."""
    together = ratios.get(("", ""), {})
    known = [scale for scale in scales if f"jump@{scale}" in together]
    if not known:
        return scales[0] if scales else None
    return max(known, key=lambda scale: (together[f"jump@{scale}"].low, -scale))


def _groups(layout: Layout, axes: str) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Which (axis, family) pairs each ratio is over."""
    there = [
        (axis, name)
        for axis in range(len(axes))
        for name in dict.fromkeys(layout.planes[axis].seams.values())
    ]
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for axis, name in there:
        for key in {("", ""), (name, ""), ("", axes[axis]), (name, axes[axis])}:
            groups.setdefault(key, []).append((axis, name))
    return dict(sorted(groups.items()))


def _ratios(
    layout: Layout, across: list[_Across], axes: str, measures: tuple[str, ...]
) -> dict[tuple[str, str], dict[str, Ratio]]:
    groups = _groups(layout, axes)
    chance = (1 - CONFIDENCE) / max(1, len(groups) * len(measures))
    found: dict[tuple[str, str], dict[str, Ratio]] = {}
    for key, members in groups.items():
        found[key] = {}
        for measure in measures:
            columns = [_matched(across[axis], name, measure) for axis, name in members]
            planes = sum(
                list(layout.planes[axis].seams.values()).count(name) for axis, name in members
            )
            joined = [np.concatenate(each) for each in zip(*columns, strict=True)]
            if measure not in _EVENTS:
                logs, weights, unit = joined
                ratio = mean_ratio(logs, weights, unit, chance, planes)
            else:
                hits, pairs, control_hits, control_pairs, unit = joined
                ratio = count_ratio(hits, pairs, control_hits, control_pairs, unit, chance, planes)
            if ratio is not None:
                found[key][measure] = ratio
    return found


def _matched(across: _Across, family: str, measure: str) -> Iterator[Values]:
    """Pieces of a family's seams beside their controls, and their units: columns for a ratio."""
    names = list(across.layout.planes[across.axis].seams.values())
    chosen = [row for row, name in enumerate(names) if name == family]
    if measure not in _EVENTS:
        at = across.layout.field_measures.index(measure)
        sums, areas = across.contrasts[..., at], across.areas[..., at]
        other, over = across.beside_seams(sums)[chosen], across.beside_seams(areas)[chosen]
        own, area = sums[across.seams][chosen], areas[across.seams][chosen]
        good = (over > 0) & (area > 0)
        yield own[good] / area[good] - other[good] / over[good]
        yield area[good]
    else:
        hits, pairs = (across.labels[..., _COUNT[k]] for k in (measure, _EVENTS[measure]))
        good = np.ones((len(chosen), hits.shape[1]), bool)
        yield hits[across.seams][chosen].reshape(-1)
        yield pairs[across.seams][chosen].reshape(-1)
        yield across.beside_seams(hits)[chosen].reshape(-1)
        yield across.beside_seams(pairs)[chosen].reshape(-1)
    yield across.units[chosen][good]


def _faces(layout: Layout, across: list[_Across], scores: Values, scale: int | None) -> FaceTable:
    """One row each, from the scores by measure."""
    rows = [_rows(layout, each) for each in across if each.seams]
    columns = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    score = scores.max(axis=0)
    jump = control = np.full(len(score), np.nan)
    if scale is not None:
        at = layout.scales.index(scale)
        jump, control = (_mean(columns, prefix, at) for prefix in ("", "control_"))
    counts = {
        prefix + name: columns[prefix + "labels"][:, index].astype(np.int64)
        for prefix in ("", "control_")
        for index, name in enumerate(LABEL_COUNTS)
    }
    return FaceTable(
        axis=columns["axis"].astype(np.int8),
        family=columns["family"].astype(np.int8),
        corner=columns["corner"],
        shape=columns["shape"],
        control=columns["control"],
        jump=jump.astype(np.float32),
        control_jump=control.astype(np.float32),
        score=score,
        because=np.where(score > 0, scores.argmax(axis=0), -1).astype(np.int8),
        **counts,
    )


def _mean(columns: dict[str, Values], prefix: str, at: int) -> Values:
    return np.exp(_divided(columns[prefix + "logs"][:, at], columns[prefix + "areas"][:, at]))


def _rows(layout: Layout, across: _Across) -> dict[str, Values]:
    """Columns of the faces across one axis, seam by seam."""
    seams = layout.planes[across.axis].seams
    _, corners, shapes = across.face
    count = len(corners)
    corner = np.tile(corners, (len(seams), 1))
    corner[:, across.axis] = np.repeat(list(seams), count)
    names = list(layout.grid.families)
    controls = layout.planes[across.axis].controls
    beside = [
        next((at for at in (after, before) if at is not None), -1)
        for before, after in itertools.pairwise(controls)
    ]
    found = {
        "axis": np.full(len(corner), across.axis),
        "family": np.repeat([names.index(name) for name in seams.values()], count),
        "corner": corner,
        "shape": np.tile(shapes, (len(seams), 1)),
        "control": np.repeat(np.asarray(beside, np.int64), count),
    }
    for name in ("logs", "areas", "labels"):
        values = across.by_face(getattr(across, name))
        found[name] = values[across.seams].reshape(len(corner), -1)
        found[f"control_{name}"] = across.beside_seams(values).reshape(len(corner), -1)
    return found


def _scores(across: list[_Across], measure: str) -> tuple[Values, Values]:
    """How rare each face is among controls, and each of theirs.

    Axes have tails of one form, and spreads of their own.

    An axis with too few controls of its own has the spread of all.
    """
    found = _count_statistic if measure in _EVENTS else _contrast_statistic
    pairs = [found(each, measure) for each in across if each.seams]
    spreads = [
        float(np.sqrt(np.nanmean(c**2))) if _known(c) >= _FEWEST_CONTROLS else np.nan
        for _, c in pairs
    ]
    every = np.concatenate([controls for _, controls in pairs])
    if measure not in _EVENTS and _known(every) < _FEWEST_CONTROLS:
        # They are held against their own mean: of one alone that is no spread at all.
        ours, theirs = zip(*pairs, strict=True)
        return np.zeros(sum(map(np.size, ours))), np.zeros(sum(map(np.size, theirs)))
    common = float(np.sqrt(np.nanmean(every**2))) if _known(every) else 1.0
    least = 1.0 if measure in _EVENTS else 1e-9
    spreads = [max(common if np.isnan(s) else s, least) for s in spreads]
    values = np.concatenate([s / spread for (s, _), spread in zip(pairs, spreads, strict=True)])
    null = np.concatenate([c / spread for (_, c), spread in zip(pairs, spreads, strict=True)])
    if measure.startswith("jump"):  # too smooth is as telling: a blend averages what differs
        values, null = np.abs(values), np.abs(null)
    return rarity(values, null), rarity(null, null)


def _known(values: Values) -> int:
    return int(np.isfinite(values).sum())


def _contrast_statistic(across: _Across, measure: str) -> tuple[Values, Values]:
    """Contrast beyond that of all controls across the axis, of seams' faces and of controls'."""
    at = across.layout.field_measures.index(measure)
    sums, areas = across.by_face(across.contrasts[..., at]), across.by_face(across.areas[..., at])
    own = _divided(sums, areas)
    total = areas[across.owned].sum()
    common = sums[across.owned].sum() / total if total else np.nan
    beyond = (own - common) * _steadiness(areas)
    return beyond[across.seams].reshape(-1), beyond[across.owned].reshape(-1)


def _steadiness(areas: Values) -> Values:
    """By what the means of faces that are smaller than most are less certain.

    By the square root of the area: were neighbours less alike than in fact they are, by so much.
    """
    usual = np.median(areas[areas > 0]) if (areas > 0).any() else 1.0
    found: Values = np.sqrt(np.minimum(1.0, areas / usual))
    return found


def _count_statistic(across: _Across, measure: str) -> tuple[Values, Values]:
    """Events beyond what the controls' rate foretells, in deviations of such counts."""
    hits, pairs = (
        across.by_face(across.labels[..., _COUNT[k]].astype(np.float64))
        for k in (measure, _EVENTS[measure])
    )
    rate = (hits[across.owned].sum() + 0.5) / (pairs[across.owned].sum() + 1)
    expected = np.minimum(rate, 1.0) * pairs
    surplus = hits - expected
    variance = expected * max(1 - rate, 0.0)
    clumped = 1.0
    if variance[across.owned].sum() > 0:  # events come in clumps
        clumped = (surplus[across.owned] ** 2).sum() / variance[across.owned].sum()
    found = surplus / np.sqrt(variance * max(1.0, clumped) + 1)
    return found[across.seams].reshape(-1), found[across.owned].reshape(-1)


def _divided(sums: Values, counts: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def _no_faces(ndim: int) -> FaceTable:
    whole = {name: np.zeros(0, np.int64) for name in LABEL_COUNTS}
    return FaceTable(
        axis=np.zeros(0, np.int8),
        family=np.zeros(0, np.int8),
        corner=np.zeros((0, ndim), np.int64),
        shape=np.zeros((0, ndim), np.int64),
        control=np.zeros(0, np.int64),
        jump=np.zeros(0, np.float32),
        control_jump=np.zeros(0, np.float32),
        score=np.zeros(0, np.float32),
        because=np.zeros(0, np.int8),
        **whole,
        **{f"control_{name}": each for name, each in whole.items()},
    )
