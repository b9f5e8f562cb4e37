"""The answer of seams, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity._faces import FaceTable
from stitchsafe.discontinuity._judge import CONFIDENCE
from stitchsafe.discontinuity._statistics import Ratio

__all__ = ["TOLERANCE", "SeamReport", "tells"]

TOLERANCE = 0.01
"""By how much a ratio's interval may lie off 1 before it speaks of seams."""

_WORST = 10
_FEWEST_PLANES = 3


@dataclass(frozen=True)
class SeamReport:
    """What can be seen at the seams of a result.

    Parameters
    ----------
    out
        What was measured, as it was named.
    axes
        Letters of its axes.
    grids
        Cell shape by family, the coarser first; empty where no grid was found.
    origin
        Where a cell begins.
    guessed
        Whether the grid was found from the data.
    region
        What was looked at.
    field, labels
        What they are called; None where there are none.
    scale
        At which a field's jumps are given; the one at which seams stand out most surely.
    ratios
        Seam ÷ control by measure, of all seams under ``("", "")``, of one family or axis or both
        under (family, letter of the axis). All intervals together hold with 99 %.
    faces
        One row each.
    measures
        Names of the measures, which `FaceTable.because` numbers.
    threshold
        Score above which a face is bad: of faces of right results chance lifts one above it in one
        of a thousand results, or, of many faces above it, one in twenty may be right.
    recomputed
        What fields differ by from what other tiles give, where that was asked for.
    notes
        What the reader should know.
    """

    out: str
    axes: str
    grids: Mapping[str, tuple[int, ...]]
    origin: tuple[int, ...]
    guessed: bool
    region: Roi
    field: str | None
    labels: str | None
    scale: int | None
    ratios: Mapping[tuple[str, str], Mapping[str, Ratio]]
    faces: FaceTable
    measures: tuple[str, ...]
    threshold: float
    recomputed: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def jump_ratio(self) -> float | None:
        """Of the jumps at all seams and at controls, at the report's scale."""
        return None if (found := self._jump) is None else found.value

    @property
    def jump_interval(self) -> tuple[float, float] | None:
        return None if (found := self._jump) is None else found.interval

    @property
    def split_ratio(self) -> float | None:
        """Of the rates of split pairs."""
        return None if (found := self._together.get("splits")) is None else found.value

    @property
    def split_interval(self) -> tuple[float, float] | None:
        return None if (found := self._together.get("splits")) is None else found.interval

    @property
    def per_axis(self) -> dict[str, Mapping[str, Ratio]]:
        """Ratios of each axis, by its letter and the measure."""
        return {axis: found for (family, axis), found in self.ratios.items() if axis and not family}

    @property
    def per_family(self) -> dict[str, Mapping[str, Ratio]]:
        """Ratios of each family, by its name and the measure."""
        return {
            family: found for (family, axis), found in self.ratios.items() if family and not axis
        }

    @property
    def _together(self) -> Mapping[str, Ratio]:
        return self.ratios.get(("", ""), {})

    @property
    def _jump(self) -> Ratio | None:
        return self._together.get(f"jump@{self.scale}")

    @property
    def bad(self) -> int:
        """How many faces lie above the threshold."""
        return int(np.count_nonzero(self.faces.score > self.threshold))

    @property
    def telling(self) -> dict[tuple[str, str], dict[str, Ratio]]:
        """The ratios that speak of seams; see `tells`."""
        found = {
            key: {name: ratio for name, ratio in each.items() if tells(name, ratio)}
            for key, each in self.ratios.items()
        }
        return {key: each for key, each in found.items() if each}

    @property
    def ok(self) -> bool:
        """Whether no seam shows: no ratio tells of one, and no face is bad."""
        return not self.bad and not self.telling

    @property
    def compared(self) -> bool:
        """Whether any seam could be held against a control; if not, nothing is known."""
        return bool(self._together)

    def to_json(self) -> dict[str, Any]:
        """The object of ``stitchsafe seams --json``."""
        faces = self.faces
        return {
            "ok": self.ok,
            "out": self.out,
            "axes": self.axes,
            "field": self.field,
            "labels": self.labels,
            "grid": {name: list(cell) for name, cell in self.grids.items()} or None,
            "origin": list(self.origin),
            "guessed": self.guessed,
            "region": [list(self.region.offset), list(self.region.end)],
            "faces": len(faces),
            "bad_faces": self.bad,
            "threshold": self.threshold,
            "confidence": CONFIDENCE,
            "tolerance": TOLERANCE,
            "scale": self.scale,
            "jump_ratio": self.jump_ratio,
            "jump_interval": self.jump_interval,
            "split_ratio": self.split_ratio,
            "split_interval": self.split_interval,
            "measures": _jsonable(self._together),
            "families": {name: _jsonable(found) for name, found in self.per_family.items()},
            "per_axis": {axis: _jsonable(found) for axis, found in self.per_axis.items()},
            "recomputed": self.recomputed,
            "worst": [self.face(int(row)) for row in faces.ranked()[:_WORST] if faces.score[row]],
            "notes": list(self.notes),
        }

    def face(self, row: int) -> dict[str, Any]:
        """One face, by names."""
        faces = self.faces
        because = int(faces.because[row])
        return {
            "axis": self.axes[faces.axis[row]],
            "position": int(faces.position[row]),
            "score": round(float(faces.score[row]), 3),
            "because": self.measures[because] if because >= 0 else None,
            "family": list(self.grids)[faces.family[row]],
            "corner": faces.corner[row].tolist(),
            "shape": faces.shape[row].tolist(),
            "control": int(faces.control[row]),
            "jump": float(faces.jump[row]),
            "control_jump": float(faces.control_jump[row]),
            "pairs": int(faces.pairs[row]),
            "splits": int(faces.splits[row]),
            "ends": int(faces.ends[row]),
            "merges": int(faces.merges[row]),
        }

    def describe(self) -> str:
        """The answer for people."""
        if not self.grids:
            return "\n".join([*self.notes, "no grid found: nothing repeats that would be a seam"])
        lines = [*self.notes]
        for name, cell in self.grids.items():
            lines.append(f"{name:<10} {' x '.join(map(str, cell))} voxels from {self.origin}")
        lines.append(f"{'faces':<10} {len(self.faces):,}, of which {self.bad:,} stand out")
        for name, ratio in self._together.items():
            lines.append(
                f"{name:<10} {ratio.value:.3g} times that of controls ({ratio.low:.3g} to "
                f"{ratio.high:.3g})"
            )
        for row in self.faces.ranked()[:_WORST]:
            if self.faces.score[row] > self.threshold:
                face = self.face(int(row))
                lines.append(
                    f"  {face['axis']} = {face['position']}, from "
                    f"{','.join(map(str, face['corner']))}: score {face['score']:.1f} "
                    f"({face['because']}, {face['family']})"
                )
        if not self.ok:
            return "\n".join([*lines, "SEAMS found"])
        return "\n".join([*lines, "no seams found" if self.compared else "nothing to compare"])


def tells(measure: str, ratio: Ratio) -> bool:
    """Whether a ratio's interval lies so far from 1 that it speaks of seams.

    More at seams does; less does of jumps: where tiles are averaged a field is too smooth. Of fewer
    than three seams none does, as a slice of a volume may be odd by itself: faces speak for them.
    """
    if ratio.planes < _FEWEST_PLANES:
        return False
    less = measure.startswith("jump") and ratio.high < 1 - TOLERANCE
    return ratio.low > 1 + TOLERANCE or less


def _jsonable(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    return {name: ratio.to_json() for name, ratio in ratios.items()}
