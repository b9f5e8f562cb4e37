"""Faces between cells as a table that Qt shows: made row by row, for the rows that are in view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt

__all__ = ["FaceModel", "Faces"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Faces:
    """The columns of `stitchsafe.seams`, one row per face.

    Parameters
    ----------
    axes, families, measures
        Names of axes, grids and measures.
    threshold
        Score above which a face is bad.
    axis, family, because
        Numbers of axes, grids, and of the measures that scores are by; shape (faces,).
    corner, shape
        First voxel behind the seam, and size, in voxels; shape (faces, axes).
    control
        Position of the plane that a face is held against.
    jump, control_jump
        Mean jump of the field across both.
    pairs, splits, ends, boundaries, merges, and the same of controls
        Counts of labels across both.
    score
        Larger is worse.
    """

    axes: str
    families: tuple[str, ...]
    measures: tuple[str, ...]
    threshold: float
    axis: Array
    family: Array
    corner: Array
    shape: Array
    control: Array
    jump: Array
    control_jump: Array
    pairs: Array
    splits: Array
    ends: Array
    boundaries: Array
    merges: Array
    control_pairs: Array
    control_splits: Array
    control_ends: Array
    control_boundaries: Array
    control_merges: Array
    score: Array
    because: Array

    @classmethod
    def load(cls, path: str | Path) -> Faces:
        """From a file of ``stitchsafe seams --faces``."""
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        columns["axes"] = str(columns["axes"])
        columns["threshold"] = float(columns["threshold"])
        for names in ("families", "measures"):
            columns[names] = tuple(str(name) for name in columns[names])
        columns["score"] = np.nan_to_num(columns["score"].astype(np.float64))
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.score)

    def as_shown(self, score: Any) -> Any:
        """Scores from 0 to 1, as they are coloured: the threshold in the middle, the worst at 1."""
        middle = max(self.threshold, 1e-6)
        worst = max(2 * middle, float(self.score.max(initial=0)))
        return np.interp(score, (0, middle, worst), (0, 0.5, 1))

    @property
    def shown(self) -> Array:
        """`as_shown` of all faces."""
        return np.asarray(self.as_shown(self.score), np.float32)


def _ratio(faces: Faces, row: int) -> str:
    jump, control = float(faces.jump[row]), float(faces.control_jump[row])
    if not np.isfinite(jump):
        return "–"
    return f"{jump:.3g} / {control:.3g}"


def _cut(faces: Faces, row: int, control: str = "") -> str:
    """Pairs that are cut, and boundaries that end at the face."""
    counts = [getattr(faces, f"{control}{name}")[row] for name in ("splits", "ends", "merges")]
    return " / ".join(map(str, counts))


def _because(faces: Faces, row: int) -> str:
    number = int(faces.because[row])
    return faces.measures[number] if number >= 0 else "–"


def _position(faces: Faces) -> Array:
    return faces.corner[np.arange(len(faces)), faces.axis]


_COLUMNS: tuple[tuple[str, Callable[[Faces, int], str], Callable[[Faces], Array]], ...] = (
    ("score", lambda f, r: f"{f.score[r]:.1f}", lambda f: f.score),
    ("because", _because, lambda f: f.because),
    ("axis", lambda f, r: f.axes[f.axis[r]], lambda f: f.axis),
    ("position", lambda f, r: str(f.corner[r, f.axis[r]]), _position),
    ("from", lambda f, r: ", ".join(map(str, f.corner[r])), lambda f: f.corner[:, -1]),
    ("grid", lambda f, r: f.families[f.family[r]], lambda f: f.family),
    ("jump / control", _ratio, lambda f: np.nan_to_num(f.jump)),
    ("split / ended / merged", _cut, lambda f: f.splits + f.ends + f.merges),
    ("at controls", lambda f, r: _cut(f, r, "control_"), lambda f: f.control_splits),
)


class FaceModel(QAbstractTableModel):
    """Faces at or above a threshold, sorted by any column; the worst first to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self._faces: Faces | None = None
        self._rows: Array = np.zeros(0, np.intp)
        self._threshold, self._column, self._rising = 0.0, 0, False

    def show(self, faces: Faces | None) -> None:
        """Show other faces."""
        self.beginResetModel()
        self._faces = faces
        self._arrange()
        self.endResetModel()

    def set_threshold(self, threshold: float) -> None:
        """Show the faces whose score is at least so large."""
        self.beginResetModel()
        self._threshold = threshold
        self._arrange()
        self.endResetModel()

    def face(self, row: int) -> int:
        """Which face a row shows."""
        return int(self._rows[row])

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        del parent
        return len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        del parent
        return len(_COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role != Qt.ItemDataRole.DisplayRole or self._faces is None or not index.isValid():
            return None
        return _COLUMNS[index.column()][1](self._faces, self.face(index.row()))

    def headerData(  # noqa: N802
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return _COLUMNS[section][0] if orientation == Qt.Orientation.Horizontal else section + 1

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        self.layoutAboutToBeChanged.emit()
        self._column, self._rising = column, order == Qt.SortOrder.AscendingOrder
        self._arrange()
        self.layoutChanged.emit()

    def _arrange(self) -> None:
        if self._faces is None:
            self._rows = np.zeros(0, np.intp)
            return
        values = _COLUMNS[self._column][2](self._faces)
        keys = values if self._rising else -values.astype(np.float64)
        order = np.argsort(keys, kind="stable")
        self._rows = order[self._faces.score[order] >= self._threshold]
