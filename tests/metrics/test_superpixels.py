"""Measures of superpixels against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stitchsafe.metrics import achievable_segmentation_accuracy, boundary_recall


def squares(side: int, size: int = 12) -> np.ndarray:
    rows = np.arange(size) // side
    return rows[:, None] * 100 + rows


def test_superpixels_within_segments_reach_all() -> None:
    assert achievable_segmentation_accuracy(squares(2), squares(4)) == 1
    assert achievable_segmentation_accuracy(squares(4), squares(2)) == pytest.approx(1 / 4)


def test_the_accuracy_is_what_the_best_labels_reach() -> None:
    generator = np.random.default_rng(0)
    found = generator.integers(0, 20, (6, 9, 10))
    truth = generator.integers(0, 4, found.shape)
    best = np.zeros_like(truth)
    for label in np.unique(found):
        best[found == label] = np.bincount(truth[found == label]).argmax()
    expected = (best == truth).mean()
    assert achievable_segmentation_accuracy(found, truth) == pytest.approx(expected)


def recall_by_loops(found: np.ndarray, truth: np.ndarray, tolerance: int) -> float:
    def boundary(labels: np.ndarray) -> set[tuple[int, int]]:
        marked = set()
        for y, x in np.ndindex(*labels.shape):
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
                if inside and labels[v, u] != labels[y, x]:
                    marked.add((y, x))
        return marked

    own, wanted = boundary(found), boundary(truth)
    hit = [
        any(max(abs(y - v), abs(x - u)) <= tolerance for v, u in own) for y, x in wanted
    ]  # fmt: skip
    return sum(hit) / len(hit)


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_recall_is_that_of_plain_loops(tolerance: int) -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros((14, 17), int)
    truth[3:9, 4:12] = 1
    truth[7:, 10:] = 2
    found = np.zeros_like(truth)
    found[generator.integers(0, 14, 6), generator.integers(0, 17, 6)] = 1
    expected = recall_by_loops(found, truth, tolerance)
    assert 0 < expected < 1
    assert boundary_recall(found, truth, tolerance=tolerance) == pytest.approx(expected)


def test_recall_by_hand() -> None:
    truth, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[:, 10:], found[:, 12:] = 1, 1
    recalls = [boundary_recall(found, truth, tolerance=t) for t in (0, 1, 2, 3)]
    assert recalls == [0, 0.5, 1, 1]
    assert boundary_recall(found, truth) == 0  # 0.0025 of the diagonal is less than half a pixel
    assert boundary_recall(truth, truth) == 1
    assert math.isnan(boundary_recall(found, np.ones_like(found)))
    wide = np.repeat(np.repeat(found, 20, 0), 20, 1)  # 566 along the diagonal: 1 pixel
    assert boundary_recall(np.roll(wide, 2, 1), wide) == 0.5
    assert boundary_recall(np.stack([found] * 3), np.stack([truth] * 3), tolerance=2) == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: boundary_recall(np.ones((2, 2)), np.ones((2, 3))), "one shape"),
        (lambda: boundary_recall(squares(2), squares(2), tolerance=-1), "tolerance -1"),
        (lambda: achievable_segmentation_accuracy(np.ones((0, 2)), np.ones((0, 2))), "at least"),
    ],
)
def test_what_cannot_be_compared_is_refused(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()
