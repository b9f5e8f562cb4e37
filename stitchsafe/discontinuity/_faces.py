"""Faces, one row each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FaceTable"]


@dataclass(frozen=True)
class FaceTable:
    """The n faces of all seams in a volume of d axes, one row each, by axis and corner.

    Parameters
    ----------
    axis
        That the seam lies across, int8, shape (n,).
    family
        Which of the report's grids the seam belongs to, int8, shape (n,).
    corner
        First voxel behind the seam, int64, shape (n, d); ``corner[axis]`` is the seam's position.
    shape
        Of the face, int64, shape (n, d); 1 along the axis.
    control
        Position along the axis of a control plane beside the seam, int64, shape (n,); -1 where
        there is none. Figures of controls are of those on both sides together.
    jump, control_jump
        Geometric mean of the field's jumps across the face and its controls, at the report's
        scale, float32, shape (n,); NaN where none was measured.
    pairs, splits, ends, boundaries, merges
        Counts of labels across the face, int64, shape (n,).
    control_pairs, control_splits, control_ends, control_boundaries, control_merges
        The same across its controls.
    score
        −log10 of the chance of so much at a control; larger is worse, 0 is nothing to see. float32,
        shape (n,).
    because
        Which of the report's measures gives the score, int8, shape (n,); -1 where it is 0.
    """

    axis: NDArray[np.int8]
    family: NDArray[np.int8]
    corner: NDArray[np.int64]
    shape: NDArray[np.int64]
    control: NDArray[np.int64]
    jump: NDArray[np.float32]
    control_jump: NDArray[np.float32]
    pairs: NDArray[np.int64]
    splits: NDArray[np.int64]
    ends: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    merges: NDArray[np.int64]
    control_pairs: NDArray[np.int64]
    control_splits: NDArray[np.int64]
    control_ends: NDArray[np.int64]
    control_boundaries: NDArray[np.int64]
    control_merges: NDArray[np.int64]
    score: NDArray[np.float32]
    because: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.axis)

    @property
    def position(self) -> NDArray[np.int64]:
        """Of each face's seam along its axis, shape (n,)."""
        return np.take_along_axis(self.corner, self.axis.astype(np.int64)[:, None], 1)[:, 0]

    def ranked(self) -> NDArray[np.intp]:
        """Rows, worst first; among equals as they stand."""
        return np.argsort(-self.score, kind="stable")
