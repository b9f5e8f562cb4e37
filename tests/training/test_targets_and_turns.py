from __future__ import annotations

import numpy as np
import pytest

from stitchsafe.training import Intensity, draw_symmetry, inner_voxels, make_targets, split_parts


def test_inner_voxels_have_no_other_label_within_reach():
    labels = np.array([[1] * 5 + [2] * 5 + [0] * 2] * 5)
    assert "".join("x" if v else "." for v in inner_voxels(labels, 1)[2]) == "xxxx..xxx..."
    assert "".join("x" if v else "." for v in inner_voxels(labels, 2)[2]) == "xxx....x...."
    assert "".join("x" if v else "." for v in inner_voxels(labels, 0)[2]) == "xxxxxxxxxx.."


def test_the_gap_between_instances_weighs_more_and_the_rest_one():
    labels = np.zeros((3, 12), dtype=np.uint16)
    labels[:, :4], labels[:, 5:8] = 7, 9
    targets = make_targets(labels, reach=0, boundary_weight=5.0)
    assert targets.weight[1].tolist() == [1, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1]
    assert targets.inner[1].tolist() == [True] * 4 + [False] + [True] * 3 + [False] * 4


def test_parts_that_meet_only_at_a_corner_are_two():
    labels = np.array([[4, 0], [0, 4]])
    assert sorted(np.unique(split_parts(labels))) == [0, 1, 2]
    assert split_parts(np.array([[4, 4], [0, 5]])).max() == 2


def test_what_is_not_known_costs_nothing_and_leaves_open_what_it_could_decide():
    labels = np.array([[1] * 5 + [2] * 5 + [0] * 3 + [-1] * 3 + [3] * 4] * 5)
    targets = make_targets(labels, reach=1, boundary_weight=5.0)
    shown = "".join("x" if inner else "." for inner in targets.inner[2])
    assert shown == "xxxx..xxx........xxx"
    assert "".join(str(int(w)) for w in targets.weight[2]) == "11115511111110000111"
    assert "".join(str(int(w)) for w in make_targets(labels).weight[2]) == "1" * 13 + "0001111"


def test_a_voxel_that_is_surely_not_inner_is_learnt_though_something_unknown_is_near():
    labels = np.array([[1, 1, 2, -1, 2, 2]] * 3)
    targets = make_targets(labels, reach=1)
    assert targets.weight[1].tolist() == [1, 1, 1, 0, 0, 1]


def test_parts_of_an_instance_with_only_the_unknown_between_remain_one():
    labels = np.array([[5, 5, -1, -1, 5, 0, 5, -1, 7]])
    assert split_parts(labels).tolist() == [[1, 1, -1, -1, 1, 0, 2, -1, 3]]
    assert (split_parts(np.full((3, 3), -1)) == -1).all()


@pytest.mark.parametrize("seed", range(20))
def test_axes_that_differ_are_never_swapped(seed):
    image = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    turn = draw_symmetry(np.random.default_rng(seed), ("z", "yx", "yx"))
    result = turn.apply(image)
    assert result.shape == image.shape
    assert np.array_equal(np.sort(result.ravel()), np.sort(image.ravel()))
    assert turn.order[0] == 0


def test_all_48_symmetries_of_the_cube_come_up():
    generator = np.random.default_rng(0)
    drawn = {draw_symmetry(generator, (1, 1, 1)) for _ in range(1000)}
    cube = np.arange(27).reshape(3, 3, 3)
    assert len(drawn) == 48 == len({turn.apply(cube).tobytes() for turn in drawn})


def test_intensity_changes_stay_in_their_ranges_and_depend_on_the_seed_alone():
    image = np.full((1, 50, 50), 0.5, dtype=np.float32)
    change = Intensity(contrast=0.2, brightness=0.1)
    values = [change.apply(image, np.random.default_rng(s))[0, 0, 0] for s in range(200)]
    assert 0.5 * 0.8 - 0.1 <= min(values) < 0.42
    assert 0.58 < max(values) <= 0.5 * 1.2 + 0.1
    a, b = (Intensity(noise=0.1).apply(image, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(a, b)
    assert a.std() > 0
    assert np.array_equal(Intensity().apply(image, np.random.default_rng(1)), image)
