"""Grids and faces that are drawn without being stored."""

from __future__ import annotations

import numpy as np
import pytest

from stitchsafe.coordinates import Roi
from stitchsafe.napari_plugin._planes import (
    FAINT,
    NO_SCORE,
    STRONG,
    FaceScores,
    grid_levels,
    heat_levels,
)

SHAPE, REGION = (20, 30, 40), Roi((0, 2, 0), (20, 28, 40))


def test_lines_of_a_slice_are_the_seams() -> None:
    (level,) = grid_levels(SHAPE, REGION, [(10, 20, 20), (10, 10, 10)])
    drawn = np.asarray(level[7])
    expected = np.zeros(SHAPE[1:], np.uint8)
    expected[[10, 20]] = FAINT
    expected[:, [10, 30]] = FAINT
    expected[20] = expected[:, 20] = STRONG
    expected[:2] = 0
    assert np.array_equal(drawn, expected)


def test_in_3d_only_edges_of_boxes_are_drawn() -> None:
    (level,) = grid_levels(SHAPE, REGION, [(10, 10, 10)])
    drawn = np.asarray(level)
    assert drawn[10, 10, 5]
    assert drawn[10, 5, 10]
    assert not drawn[10, 5, 5]
    assert not drawn[5, 5, 5]


@pytest.mark.parametrize("origin", [(0, 3), (5, 9)])
def test_a_grid_that_begins_elsewhere(origin: tuple[int, int]) -> None:
    (level,) = grid_levels((30, 40), Roi.whole((30, 40)), [(10, 20)], origin)
    rows = {y for y in range(1, 30) if (y - origin[0]) % 10 == 0}
    columns = {x for x in range(1, 40) if (x - origin[1]) % 20 == 0}
    drawn = np.asarray(level)
    assert set(np.flatnonzero(drawn.all(axis=1))) == rows
    assert set(np.flatnonzero(drawn.all(axis=0))) == columns


def test_far_off_a_line_is_as_thick_as_a_voxel_there() -> None:
    levels = grid_levels((4000, 4000), Roi.whole((4000, 4000)), [(100, 100)])
    assert [level.shape[0] for level in levels] == [4000, 2000, 1000, 500, 250, 125]
    drawn = np.asarray(levels[-1])
    assert set(np.flatnonzero(drawn.all(axis=1))) == {y // 32 for y in range(100, 4000, 100)}


def faces() -> FaceScores:
    """Two faces across y at 10, and one across z at 8, of which one is bad."""
    axis = np.array([1, 1, 0])
    corner = np.array([[0, 10, 0], [0, 10, 20], [8, 0, 0]])
    shape = np.array([[8, 1, 20], [8, 1, 20], [1, 10, 20]])
    return FaceScores(axis, corner, shape, np.array([0.0, 1.0, 0.5]))


def test_faces_have_the_colour_of_their_score() -> None:
    (level,) = heat_levels(SHAPE, faces())
    drawn = np.asarray(level)
    expected = np.zeros(SHAPE, np.float32)
    expected[8, :10, :20] = NO_SCORE + (1 - NO_SCORE) * 0.5
    expected[:8, 10, :20] = NO_SCORE
    expected[:8, 10, 20:40] = 1
    assert np.allclose(drawn, expected)
    assert np.allclose(np.asarray(level[3]), expected[3])


def test_faces_below_the_threshold_are_not_drawn() -> None:
    found = faces()
    (level,) = heat_levels(SHAPE, found)
    found.least = 0.7
    drawn = np.asarray(level)
    assert drawn[:8, 10, 20:40].all()
    assert np.count_nonzero(drawn) == 8 * 20


def test_a_bad_face_and_a_worse_one_differ_in_colour() -> None:
    pytest.importorskip("qtpy.QtCore", exc_type=ImportError)
    from stitchsafe.napari_plugin._faces import Faces

    columns = dict.fromkeys(Faces.__dataclass_fields__, np.zeros(4))
    faces = Faces(**{**columns, "threshold": 3.0, "score": np.array([0.0, 3.0, 20.0, 37.0])})
    assert np.allclose(faces.shown, [0, 0.5, 0.75, 1])
    few = Faces(**{**columns, "threshold": 3.0, "score": np.array([0.0, 1.5, 3.0, 4.5])})
    assert np.allclose(few.shown, [0, 0.25, 0.5, 0.75])
