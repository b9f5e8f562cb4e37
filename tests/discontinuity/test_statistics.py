"""When a face is called bad, by itself and among many."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stitchsafe.discontinuity._guess import _between_twins
from stitchsafe.discontinuity._statistics import decoy_threshold, rarity


def scores(*, bad: int, right: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of faces, the first of which are bad, and of controls."""
    generator = np.random.default_rng(seed)
    drawn = generator.exponential(0.5, size=(2, bad + right))
    drawn[0, :bad] += 4
    return drawn[0], drawn[1]


class TestDecoys:
    def test_many_bad_faces_are_told_from_right_ones(self) -> None:
        ours, controls = scores(bad=60)
        found = decoy_threshold(ours, controls, np.arange(len(ours)) % 7)
        above = ours > found
        assert above[:60].all()
        assert above[60:].sum() <= 3

    @pytest.mark.parametrize("seed", range(20))
    def test_right_faces_are_not_called_bad(self, seed: int) -> None:
        ours, controls = scores(bad=0, right=300, seed=seed)
        assert decoy_threshold(ours, controls, np.arange(len(ours)) % 7) == math.inf

    def test_few_are_not_enough_nor_are_those_of_one_slice(self) -> None:
        ours, controls = scores(bad=15)
        assert decoy_threshold(ours, controls, np.arange(len(ours)) % 7) == math.inf
        ours, controls = scores(bad=60)
        slices = np.where(np.arange(len(ours)) < 60, np.arange(len(ours)) % 2, 5)
        found = decoy_threshold(ours, controls, slices)
        assert found == math.inf or (ours > found).sum() > 60  # one face of another slice, at least

    def test_many_seams_to_a_control_count_as_so_many_decoys(self) -> None:
        ours, _ = scores(bad=40, right=0)
        one = np.append(np.zeros(3), ours.min() + 0.01)
        assert decoy_threshold(ours, np.zeros(4), np.arange(40) % 4) < ours.min()
        assert decoy_threshold(ours, one, np.arange(40) % 4) > ours.min()

    def test_without_controls_nothing_is_known(self) -> None:
        assert decoy_threshold(np.ones(50), np.zeros(0), np.arange(50)) == math.inf


class TestRarity:
    def test_it_is_a_chance_among_controls(self) -> None:
        controls = np.random.default_rng(0).exponential(1.0, 100_000)
        values = np.array([1.0, 5.0, 10.0])
        assert rarity(values, controls) == pytest.approx(values / math.log(10), rel=0.05)
        assert rarity(np.array([np.nan, 0.0]), controls).tolist() == [0, 0]

    def test_a_tail_is_as_heavy_as_its_farthest_control(self) -> None:
        controls = np.append(np.random.default_rng(0).exponential(1.0, 100), 60.0)
        assert rarity(np.array([60.0]), controls)[0] < 4


def test_a_seam_lies_between_two_planes_that_stand_out_alike() -> None:
    heights = np.zeros(200)
    heights[29::40] = heights[31::40] = 5.0
    assert _between_twins(heights, 40, 29) == 30
    assert _between_twins(heights, 40, 31) == 30
    heights[31::40] = 0
    heights[28::40] = heights[30::40] = 2.5  # a step, and half of it beside
    assert _between_twins(heights, 40, 29) == 29
