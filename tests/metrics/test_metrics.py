"""The scores against scikit-image, against brute force, and against every way to cut the volume."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as reference

import stitchsafe
import stitchsafe.metrics as room
from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.errors import VolumeError
from stitchsafe.metrics import (
    Contingency,
    PairCounter,
    adapted_rand_error,
    average_precision,
    evaluate_volumes,
    variation_of_information,
)
from stitchsafe.metrics._scores import _sum_of_squares


@st.composite
def label_pairs(draw, highest=6):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    made = [rng.integers(0, draw(st.integers(1, highest)) + 1, shape) for _ in range(2)]
    types = draw(st.tuples(*[st.sampled_from(["uint8", "int32", "uint64"])] * 2))
    return made[0].astype(types[0]), made[1].astype(types[1])


@dataclass
class InMemory:
    array: np.ndarray
    channels_first: bool = False

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, roi):
        part = self.array[roi.slices]
        return part[None] if self.channels_first else part


@given(label_pairs())
@settings(deadline=None, max_examples=150)
def test_rand_error_equals_scikit_image(pair):
    predicted, truth = pair
    table = Contingency.of(predicted, truth)
    with np.errstate(all="ignore"):
        # scikit-image 0.26 divides its "precision" by the pairs of the truth and its "recall" by
        # those of the prediction, the other way round than it documents and than the paper.
        error, recall, precision = reference.adapted_rand_error(
            truth.astype(int), predicted.astype(int), ignore_labels=(0,)
        )
    expected = (error, precision, recall)
    found = adapted_rand_error(table)
    for mine, theirs in zip(found, expected, strict=True):
        if np.isfinite(theirs):
            assert mine == pytest.approx(float(theirs), abs=1e-12)


@given(label_pairs())
@settings(deadline=None, max_examples=60)
def test_rand_error_with_background_as_a_label_equals_scikit_image(pair):
    predicted, truth = (each.astype(int) for each in pair)
    with np.errstate(all="ignore"):
        error, *_ = reference.adapted_rand_error(truth, predicted, ignore_labels=())
    found = adapted_rand_error(Contingency.of(predicted, truth), ignore_background=False)
    if np.isfinite(error):
        assert found.error == pytest.approx(float(error), abs=1e-12)


@given(label_pairs(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_voi_equals_scikit_image(pair, ignore):
    predicted, truth = pair
    table = Contingency.of(predicted, truth)
    if ignore and not truth.any():
        assert variation_of_information(table, ignore_background=True) == (0, 0)
        return
    split, merge = reference.variation_of_information(
        truth.astype(int), predicted.astype(int), ignore_labels=(0,) if ignore else ()
    )
    found = variation_of_information(table, ignore_background=ignore)
    assert found.split == pytest.approx(float(split), abs=1e-12)
    assert found.merge == pytest.approx(float(merge), abs=1e-12)


def test_voi_tells_splits_from_merges():
    whole, halves = np.ones((2, 8), int), np.repeat([[1], [2]], 8, axis=1)
    assert variation_of_information(Contingency.of(halves, whole)) == (1.0, 0.0)
    assert variation_of_information(Contingency.of(whole, halves)) == (0.0, 1.0)


@given(label_pairs(highest=4), st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.75, 1.0]))
@settings(deadline=None, max_examples=100)
def test_average_precision_equals_brute_force(pair, threshold):
    predicted, truth = pair
    found = average_precision(Contingency.of(predicted, truth), [threshold])[threshold]
    p_ids, t_ids = (sorted(set(np.unique(a)) - {0}) for a in (predicted, truth))
    good = {
        (t, p)
        for t in t_ids
        for p in p_ids
        if ((truth == t) & (predicted == p)).sum() / ((truth == t) | (predicted == p)).sum()
        >= threshold
    }
    padded = [*p_ids, *[None] * len(t_ids)]
    matched = max(
        sum((t, p) in good for t, p in zip(t_ids, order, strict=True))
        for order in set(itertools.permutations(padded, len(t_ids)))
    )
    either = len(t_ids) + len(p_ids) - matched
    assert found == pytest.approx(matched / either if either else 1.0)


@given(label_pairs(), st.randoms(use_true_random=False), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_blocks_in_any_order_give_the_same_table(pair, random, side):
    predicted, truth = pair
    cells = list(grid_cells(Roi.whole(truth.shape), (side,) * truth.ndim))
    random.shuffle(cells)
    table = Contingency.empty()
    for cell in cells:
        table = table.add(predicted[cell.slices], truth[cell.slices])
    whole = Contingency.of(predicted, truth)
    for name in ("predicted", "truth", "voxels"):
        np.testing.assert_array_equal(getattr(table, name), getattr(whole, name))


@given(label_pairs(), st.sampled_from([2**32, 2**53, 2**63]))
@settings(deadline=None, max_examples=40)
def test_scores_do_not_depend_on_how_large_ids_are(pair, high):
    small = [each.astype(np.uint64) for each in pair]
    large = [np.where(each, each + np.uint64(high), 0) for each in small]
    assert len(np.unique(large[0])) == len(np.unique(small[0]))
    expected, found = (
        evaluate_volumes(InMemory(labels), InMemory(truth), block_shape=(3,) * labels.ndim)
        for labels, truth in (small, large)
    )
    assert found == expected


def test_counting_many_blocks_moves_no_pair_often(monkeypatch):
    moved, original = [], Contingency.merge

    def counted(self, other):
        moved.append(len(self.voxels) + len(other.voxels))
        return original(self, other)

    monkeypatch.setattr(Contingency, "merge", counted)
    counter, blocks, each = PairCounter(), 256, 50
    for block in range(blocks):
        ids = np.arange(each) + block * each
        counter.add(ids, ids)
    assert len(counter.table().voxels) == blocks * each
    assert sum(moved) <= 2 * blocks * each * np.log2(blocks)  # each pair anew: 64 times as many


def test_sums_of_squares_are_exact():
    counts = np.array([2**40 + 1, 3, 2**23 - 1, *[2**22] * 70000], np.int64)
    assert _sum_of_squares(counts) == sum(count**2 for count in counts.tolist())


def test_large_ids_are_not_mixed_up():
    truth = np.array([2**63 + 1, 2**63 + 2, 2**40], np.uint64)
    table = Contingency.of(truth[::-1], truth)
    assert set(table.truth.tolist()) == set(truth.tolist())
    assert table.total == 3


def test_perfect_and_empty():
    labels = np.arange(12).reshape(3, 4) // 3
    scores = evaluate_volumes(InMemory(labels), InMemory(labels))
    assert scores.to_json() == {
        "adapted_rand_error": 0.0,
        "voi_split": 0.0,
        "voi_merge": 0.0,
        "ap": {f"{t:g}": 1.0 for t in room.THRESHOLDS},
        "n_true": 3,
        "n_pred": 3,
        "seams": None,
    }
    nothing = np.zeros((3, 4), int)
    assert evaluate_volumes(InMemory(nothing), InMemory(nothing)).ap[0.5] == 1.0
    assert evaluate_volumes(InMemory(nothing), InMemory(labels)).ap[0.5] == 0.0


@pytest.mark.parametrize("block", [(64, 64, 64), (7, 100, 31), None])
def test_streamed_evaluation_of_a_real_volume(shared_data, block):
    with h5py.File(shared_data / "plantseg_ovule_cells.h5") as file:
        truth = file["labels"][...]
    predicted = np.roll(truth, 2, axis=1)
    scores = evaluate_volumes(InMemory(predicted, True), InMemory(truth), block_shape=block)
    error = reference.adapted_rand_error(truth.astype(int), predicted.astype(int))[0]
    assert scores.adapted_rand_error == pytest.approx(float(error), abs=1e-12)
    assert scores.n_true == scores.n_pred == len(np.unique(truth[truth > 0]))
    assert 0 < scores.ap[0.5] <= 1


@pytest.mark.parametrize(
    ("labels", "truth", "words"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "the truth"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "not whole numbers"),
        (np.full((2, 3), -1), np.zeros((2, 3), int), "negative"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels, truth, words):
    with pytest.raises(VolumeError, match=words):
        evaluate_volumes(InMemory(labels), InMemory(truth))


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match=r"IoU threshold 1\.5"):
        average_precision(Contingency.empty(), [1.5])


def test_room_exports_what_it_lists():
    assert all(hasattr(room, name) for name in room.__all__)


def test_a_truth_without_objects_is_no_perfect_score() -> None:
    labels = np.ones((4, 5), np.uint8)
    with pytest.raises(VolumeError, match="holds no object in all of it"):
        stitchsafe.evaluate(labels, np.zeros_like(labels))
