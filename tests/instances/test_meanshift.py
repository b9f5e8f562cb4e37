"""Mean shift: scikit-learn's definition, and a sketch that order and partition cannot change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score

from stitchsafe.errors import InputError
from stitchsafe.instances import (
    Modes,
    Sketch,
    exact_mean_shift,
    find_modes,
    mean_shift,
    nearest_mode,
    to_units,
)


def blobs(seed: int, *, clusters: int, dims: int, points: int, spread: float) -> np.ndarray:
    """Points around centres that lie at least 4 apart."""
    rng = np.random.default_rng(seed)
    centers: list[np.ndarray] = []
    while len(centers) < clusters:
        new = rng.uniform(-10, 10, dims)
        if all(np.linalg.norm(new - old) > 4 for old in centers):
            centers.append(new)
    own = rng.integers(clusters, size=points)
    return np.asarray(centers)[own] + spread * rng.standard_normal((points, dims))


@pytest.mark.parametrize(("dims", "seed"), [(1, 0), (2, 1), (3, 2), (8, 3)])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_exact_mode_is_scikit_learns(dims: int, seed: int, spread: float) -> None:
    points = blobs(seed, clusters=3, dims=dims, points=150, spread=spread)
    reference = MeanShift(bandwidth=1.5).fit(points)
    centers, labels = exact_mean_shift(points, 1.5)
    np.testing.assert_allclose(centers, reference.cluster_centers_, atol=1e-12)
    np.testing.assert_array_equal(labels, reference.labels_)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 6, 8, 12])
def test_separated_blobs_give_the_exact_partition(dims: int) -> None:
    points = blobs(dims, clusters=4, dims=dims, points=300, spread=0.5 / np.sqrt(dims))
    _, expected = exact_mean_shift(points, 2.0)
    centers, labels = mean_shift(points.astype(np.float32), 2.0)
    assert len(centers) == 4
    assert adjusted_rand_score(expected, labels) == 1.0


def test_no_other_mode_within_a_bandwidth() -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (3000, 3))
    centers, labels = mean_shift(points, 1.0)
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=2) + 9 * np.eye(len(centers))
    assert apart.min() > 1.0
    nearest = np.linalg.norm(points[:, None] - centers[None], axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.999  # rounding to 1/4096 bandwidth


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9).flatmap(
        lambda dims: arrays(
            np.float32,
            st.tuples(st.integers(1, 60), st.just(dims)),
            elements=st.floats(-100, 100, width=32),
        )
    ),
    st.randoms(use_true_random=False),
)
def test_order_and_partition_do_not_matter(points: np.ndarray, random: object) -> None:
    units = to_units(points, 1.5)
    whole = Sketch.of_units(units)
    order = np.random.default_rng(random.randrange(2**32)).permutation(len(units))  # type: ignore[attr-defined]
    cut = random.randrange(len(units) + 1)  # type: ignore[attr-defined]
    first, second = Sketch.of_units(units[order[:cut]]), Sketch.of_units(units[order[cut:]])
    for parts in (Sketch.union([first, second]), Sketch.union([second, first])):
        for name in ("cells", "counts", "sums"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    _, labels = mean_shift(points, 1.5)
    _, shuffled = mean_shift(points[order], 1.5)
    np.testing.assert_array_equal(labels[order], shuffled)


def test_positions_that_span_far_more_than_a_key_holds() -> None:
    points = np.random.default_rng(0).uniform(-2000, 2000, (500, 16))
    sketch = Sketch.of_units(to_units(points, 1.0))
    assert len(sketch.counts) == 500
    rows = [tuple(row) for row in sketch.cells.tolist()]
    assert rows == sorted(rows)


def test_weak_modes_give_their_points_away() -> None:
    points = np.concatenate([np.zeros((50, 2)), np.full((3, 2), 9.0), np.full((20, 2), 5.0)])
    assert len(mean_shift(points, 1.0)[0]) == 3
    centers, labels = mean_shift(points, 1.0, min_support=4)
    np.testing.assert_array_equal(centers, [[0, 0], [5, 5]])
    np.testing.assert_array_equal(labels[50:53], 1)
    assert len(mean_shift(points, 1.0, min_support=1000)[0]) == 1


def test_degenerate_inputs() -> None:
    centers, labels = mean_shift(np.zeros((0, 3)), 1.0)
    assert centers.shape == (0, 3)
    assert labels.shape == (0,)
    centers, labels = mean_shift(np.full((7, 3), 2.5), 1.0)
    np.testing.assert_array_equal(centers, [[2.5] * 3])
    np.testing.assert_array_equal(labels, 0)


def test_equally_near_modes_give_the_first() -> None:
    points = np.asarray([[0.0], [0.0], [4.0], [2.0]])
    modes = find_modes(Sketch.of_units(to_units(points[:3], 1.0)), 1.0)
    assert nearest_mode(to_units(points, 1.0), modes).tolist() == [0, 0, 1, 0]
    assert nearest_mode(to_units(points[:0], 1.0), modes).tolist() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_values_out_of_reach_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="bandwidth"):
        mean_shift(np.asarray([[0.0, value]]), 1.0)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.inf, np.nan])
def test_bandwidths_that_are_no_length_are_refused(bandwidth: float) -> None:
    with pytest.raises(InputError, match="bandwidth"):
        mean_shift(np.zeros((1, 2)), bandwidth)


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="65 dimensions"):
        mean_shift(np.zeros((1, 65)), 1.0)


@pytest.mark.parametrize("mirror", [1, -1])
def test_the_kernel_reaches_one_bandwidth_on_either_side(mirror: int) -> None:
    points = mirror * np.asarray([[0.0], [0.0], [1.0], [1.25], [-3.0], [-4.0], [-4.0], [-5.25]])
    centers, labels = mean_shift(points, 1.0)
    expected = sorted(exact_mean_shift(points, 1.0)[0].ravel())
    np.testing.assert_allclose(sorted(centers.ravel()), expected, atol=1e-3)
    assert len({*labels[:4].tolist()}) == 1


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.integers(1, 4),
    count=st.sampled_from([2, 3, 30]),
    width=st.sampled_from([300, 2000]),
    offset=st.sampled_from([0, 8_000_000]),
)
def test_labels_by_cell_are_those_of_each_position(
    seed: int, dims: int, count: int, width: int, offset: int
) -> None:
    """Many positions to a cell, and modes about and among them, some as near as others."""
    rng = np.random.default_rng(seed)
    units = offset + rng.integers(-width, width, (3000, dims))
    modes = Modes(
        offset + np.round(rng.integers(-2 * width, 2 * width, (count, dims)), -2).astype(float),
        np.ones(count, np.int64),
        1.0,
    )
    squares = ((units[:, None] - modes.units.astype(np.int64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_mode(units, modes), squares.argmin(axis=1))


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 12])
def test_sketches_counted_out_are_those_sorted(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units = np.random.default_rng(dims).integers(-5000, 5000, (4000, dims))
    counted = [Sketch.of_units(units), Sketch.union([Sketch.of_units(units)] * 2)]
    monkeypatch.setattr("stitchsafe.instances._sketch._DENSE", 0)
    by_sorting = [Sketch.of_units(units), Sketch.union([Sketch.of_units(units)] * 2)]
    for one, other in zip(counted, by_sorting, strict=True):
        for name in ("cells", "counts", "sums"):
            assert getattr(one, name).dtype == np.int64
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
