"""The mean shift estimator: scikit-learn's conventions, order and partition, kernels, backends."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import cluster
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import stitchsafe
from stitchsafe.errors import ClusteringError
from stitchsafe.instances import MeanShift, PointSample, estimate_bandwidth

VARIANTS = [
    {},
    {"bandwidth": 1.0},
    {"kernel": "gaussian"},
    {"exact": True},
    {"backend": "torch"},
    {"bandwidth": 1.5, "min_support": 2},
]

# float32 values are exact in every variant; a few equal ones, so that points repeat.
point_sets = st.sampled_from([1, 2, 3, 4, 8, 20]).flatmap(
    lambda dims: arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.just(dims)),
        elements=st.floats(-30, 30, width=32) | st.sampled_from([0.0, 0.5, -1.0, 1.25]),
    )
)
seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int, *, clusters: int, dims: int, points: int, spread: float) -> np.ndarray:
    """Points around centres that lie at least 6 apart, `spread` away on average."""
    rng = np.random.default_rng(seed)
    centers: list[np.ndarray] = []
    while len(centers) < clusters:
        new = rng.uniform(-12, 12, dims)
        if all(np.linalg.norm(new - old) > 6 for old in centers):
            centers.append(new)
    own = rng.integers(clusters, size=points)
    return np.asarray(centers)[own] + spread / np.sqrt(dims) * rng.standard_normal((points, dims))


def cut(points: np.ndarray, seed: int) -> list[np.ndarray]:
    """The points in another order, in one to five parts."""
    rng = np.random.default_rng(seed)
    shuffled = points[rng.permutation(len(points))]
    places = np.sort(rng.integers(1, max(2, len(points)), size=rng.integers(0, 5)))
    return [part for part in np.split(shuffled, places) if len(part)]


def gaussian_reference(points: np.ndarray, width: float) -> np.ndarray:
    """Where climbs from every point end: no lattice, no cut, and many more steps."""
    ends = points.copy()
    for _ in range(500):
        squares = ((ends[:, None] - points[None]) ** 2).sum(axis=2)
        weights = np.exp(-squares / (2 * width**2))
        ends = weights @ points / weights.sum(axis=1, keepdims=True)
    return ends


@parametrize_with_checks([MeanShift(**variant) for variant in VARIANTS])
def test_scikit_learns_own_checks(estimator: MeanShift, check: Callable[[MeanShift], None]) -> None:
    """All of them hold, so none is expected to fail."""
    check(estimator)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@settings(deadline=None, max_examples=15)
@given(points=point_sets, seed=seeds)
def test_order_and_partition_change_nothing(
    variant: dict[str, object], points: np.ndarray, seed: int
) -> None:
    whole = MeanShift(**variant).fit(points)
    shuffled = MeanShift(**variant).fit(np.concatenate(cut(points, seed)))
    streamed = MeanShift(**variant)
    for part in cut(points, seed):
        streamed.partial_fit(part)
    merged, *others = (MeanShift(**variant).partial_fit(part) for part in cut(points, seed + 1))
    for other in others:
        merged.merge(other)
    for alike in (shuffled, streamed, merged):
        assert alike.bandwidth_ == whole.bandwidth_
        np.testing.assert_array_equal(alike.cluster_centers_, whole.cluster_centers_)
        np.testing.assert_array_equal(alike.predict(points), whole.labels_)


@settings(deadline=None, max_examples=40)
@given(points=point_sets, seed=seeds)
def test_merging_is_associative_and_commutative(points: np.ndarray, seed: int) -> None:
    parts = [MeanShift(1.5).partial_fit(part) for part in (cut(points, seed) * 3)[:3]]
    first, second, third = (lambda n=n: pickle.loads(pickle.dumps(parts[n])) for n in range(3))
    left = first().merge(second()).merge(third())
    right = third().merge(second().merge(first()))
    for name in ("cells", "counts", "sums"):
        np.testing.assert_array_equal(getattr(left.sketch_, name), getattr(right.sketch_, name))


@settings(deadline=None, max_examples=40)
@given(points=point_sets, bandwidth=st.sampled_from([0.5, 1.5, 7.0]), seed=seeds)
@example(points=np.full((9, 2), 2.5, np.float32), bandwidth=1.0, seed=0)
@example(points=np.asarray([[0], [2], [4]], np.float32), bandwidth=0.5, seed=0)
@example(points=30 * np.eye(20, dtype=np.float32)[::-1], bandwidth=0.5, seed=0)
def test_torch_is_numpy_bit_for_bit(points: np.ndarray, bandwidth: float, seed: int) -> None:
    ours = MeanShift(bandwidth).fit(points)
    torchs = MeanShift(bandwidth, backend="torch").fit(points)
    for name in ("cells", "counts", "sums"):
        np.testing.assert_array_equal(getattr(torchs.sketch_, name), getattr(ours.sketch_, name))
    np.testing.assert_array_equal(torchs.cluster_centers_, ours.cluster_centers_)
    np.testing.assert_array_equal(torchs.labels_, ours.labels_)
    between = (points + np.random.default_rng(seed).permutation(points)) / 2
    np.testing.assert_array_equal(torchs.predict(between), ours.predict(between))


@pytest.mark.parametrize("dims", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_ties_go_to_the_first_mode_in_every_backend(dims: int, backend: str) -> None:
    points = np.zeros((5, dims))
    points[2:, 0] = 4
    model = MeanShift(1.0, backend=backend).fit(points)
    assert model.labels_.tolist() == [1, 1, 0, 0, 0]
    halfway = np.zeros((1000, dims))
    halfway[:, 0] = 2
    assert not model.predict(halfway).any()


def test_torch_climbs_the_gaussian_kernel_alike() -> None:
    points = blobs(0, clusters=5, dims=3, points=2000, spread=1.0)
    ours = MeanShift(1.0, kernel="gaussian").fit(points)
    torchs = MeanShift(1.0, kernel="gaussian", backend="torch").fit(points)
    np.testing.assert_allclose(torchs.cluster_centers_, ours.cluster_centers_, atol=1 / 4096)
    np.testing.assert_array_equal(torchs.labels_, ours.labels_)


@settings(deadline=None, max_examples=25)
@given(
    seed=seeds,
    clusters=st.integers(1, 4),
    dims=st.sampled_from([1, 2, 3, 8, 20]),
    count=st.integers(1, 80),
    spread=st.sampled_from([0.1, 0.7, 2.0]),
)
def test_exact_is_scikit_learns(
    seed: int, clusters: int, dims: int, count: int, spread: float
) -> None:
    clusters = min(clusters, 2) if dims == 1 else clusters  # more find no room
    points = blobs(seed, clusters=clusters, dims=dims, points=count, spread=spread)
    reference = cluster.MeanShift(bandwidth=1.5).fit(points)
    model = MeanShift(1.5, exact=True).fit(points)
    assert model.cluster_centers_.shape == reference.cluster_centers_.shape
    apart = ((model.cluster_centers_[:, None] - reference.cluster_centers_) ** 2).sum(axis=2)
    same = apart.argmin(axis=1)
    np.testing.assert_allclose(
        model.cluster_centers_, reference.cluster_centers_[same], rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(same[model.labels_], reference.labels_)
    np.testing.assert_array_equal(same[model.predict(points)], reference.predict(points))


@pytest.mark.parametrize("kernel", ["flat", "gaussian"])
@settings(deadline=None, max_examples=15)
@given(seed=seeds, dims=st.sampled_from([1, 2, 3, 4, 8, 20]), clusters=st.integers(1, 3))
def test_separated_blobs_are_found(kernel: str, seed: int, dims: int, clusters: int) -> None:
    clusters = min(clusters, 2) if dims == 1 else clusters
    points = blobs(seed, clusters=clusters, dims=dims, points=300, spread=0.5)
    truth = MeanShift(2.0, exact=True).fit(points)
    model = MeanShift(2.0 if kernel == "flat" else 1.0, kernel=kernel).fit(points)
    assert len(model.cluster_centers_) == len(truth.cluster_centers_)
    assert adjusted_rand_score(truth.labels_, model.labels_) == 1.0


@pytest.mark.parametrize(("dims", "seed"), [(1, 0), (2, 1), (3, 2), (8, 3)])
def test_the_gaussian_kernel_finds_modes_of_the_density(dims: int, seed: int) -> None:
    clusters = 2 if dims == 1 else 3
    points = blobs(seed, clusters=clusters, dims=dims, points=400, spread=1.2)
    model = MeanShift(1.0, kernel="gaussian").fit(points)
    ends = gaussian_reference(points, 1.0)
    apart = np.linalg.norm(ends[:, None] - model.cluster_centers_, axis=2)
    assert len(model.cluster_centers_) == clusters
    assert apart.min(axis=1).max() < 0.05  # a cell's side is 1/8 to 1/2
    np.testing.assert_array_equal(apart.argmin(axis=1), model.labels_)


def test_the_gaussian_kernel_sees_beyond_the_bandwidth() -> None:
    points = np.asarray([[0.0]] * 6 + [[1.6]])  # one mode: less than 2 bandwidths apart
    assert len(MeanShift(1.0).fit(points).cluster_centers_) == 2
    assert len(MeanShift(1.0, kernel="gaussian").fit(points).cluster_centers_) == 1


@settings(deadline=None, max_examples=40)
@given(points=point_sets, seed=seeds, quantile=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_the_estimate_is_the_same_in_any_order(
    points: np.ndarray, seed: int, quantile: float
) -> None:
    value = estimate_bandwidth(points, quantile=quantile)
    assert estimate_bandwidth(np.concatenate(cut(points, seed)), quantile=quantile) == value
    assert value > 0
    reference = cluster.estimate_bandwidth(points.astype(float), quantile=quantile)
    least = np.abs(points).max() / 1024 or 1.0
    assert value == pytest.approx(max(least, reference), rel=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3, 8, 20])
def test_the_estimate_of_many_points_is_near_scikit_learns(dims: int) -> None:
    points = blobs(dims, clusters=2, dims=dims, points=4000, spread=1.0)
    ratio = estimate_bandwidth(points) / cluster.estimate_bandwidth(points)
    assert 1 / 1.1 < ratio < 1.1
    rng = np.random.default_rng(0)
    assert estimate_bandwidth(points[rng.permutation(4000)]) == estimate_bandwidth(points)


def test_what_fit_estimated_holds_for_what_follows() -> None:
    points = blobs(0, clusters=3, dims=3, points=3000, spread=1.0)
    model = MeanShift().fit(points[:1000])
    before = model.bandwidth_
    model.partial_fit(points[1000:])
    assert model.bandwidth_ == before == estimate_bandwidth(points[:1000])
    whole = MeanShift(before).fit(points)
    np.testing.assert_array_equal(model.cluster_centers_, whole.cluster_centers_)
    assert not hasattr(model, "labels_")
    assert model.fit(points[:10]).labels_.shape == (10,)
    assert model.sketch_.counts.sum() == 10


def test_more_points_than_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    points = blobs(0, clusters=3, dims=3, points=1000, spread=1.0)
    models = {backend: MeanShift(2.0, backend=backend) for backend in ("numpy", "torch")}
    whole = {backend: model.fit(points).labels_.copy() for backend, model in models.items()}
    monkeypatch.setattr("stitchsafe.instances._backends._BATCH", 64)
    monkeypatch.setattr("stitchsafe.instances._backends._PAIRS", 8)
    monkeypatch.setattr("stitchsafe.instances._sketch._HELD", 3)
    monkeypatch.setattr("stitchsafe.instances._bandwidth._BATCH", 64)
    for backend, model in models.items():
        np.testing.assert_array_equal(model.fit(points).labels_, whole[backend])
        assert model.sketch_.counts.sum() == 1000
    estimate = estimate_bandwidth(points)
    monkeypatch.undo()
    assert estimate_bandwidth(points) == estimate


def test_samples_merge() -> None:
    points = blobs(0, clusters=2, dims=2, points=5000, spread=1.0)
    points[:2000] = np.round(points[:2000])  # many alike
    points[-1] = 1e9  # its part alone knows how far the lattice must reach
    whole = PointSample.of_points(points)
    assert whole.bandwidth() == estimate_bandwidth(points) > 9e5
    for seed in range(3):
        merged = PointSample.union([PointSample.of_points(part) for part in cut(points, seed)])
        for name in ("hashes", "points", "counts", "largest"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    with pytest.raises(ClusteringError, match=r"quantile 1\.5"):
        whole.bandwidth(1.5)


def test_exact_sums_in_canonical_order() -> None:
    points = blobs(0, clusters=2, dims=3, points=200, spread=1.0)
    whole = MeanShift(2.0, exact=True).fit(points)
    for seed in range(3):
        other = MeanShift(2.0, exact=True).fit(np.concatenate(cut(points, seed)))
        np.testing.assert_array_equal(other.cluster_centers_, whole.cluster_centers_)


def test_what_is_refused_leaves_nothing_behind() -> None:
    model = MeanShift(1.0)
    for far in ("partial_fit", "fit"):
        with pytest.raises(ClusteringError, match="from 0"):
            getattr(model, far)([[1e9, 0.0]])
        with pytest.raises(NotFittedError):
            model.predict([[0.0, 0.0]])
        assert model.partial_fit([[0.0, 0.0]]).sketch_.counts.tolist() == [1]
    with pytest.raises(ClusteringError, match="from 0"):
        model.partial_fit([[1e9, 0.0]])
    assert model.sketch_.counts.tolist() == [1]
    assert not hasattr(model.set_params(exact=True).fit([[0.0, 1.0]]), "sketch_")


def test_few_points_make_no_cluster() -> None:
    points = np.concatenate([np.zeros((50, 2)), np.full((3, 2), 9.0), np.full((20, 2), 5.0)])
    assert len(MeanShift(1.0).fit(points).cluster_centers_) == 3
    assert len(MeanShift(1.0, min_support=4).fit(points).cluster_centers_) == 2


@pytest.mark.parametrize("value", [0.0, 1e-300, -3.75, 1e12])
@pytest.mark.parametrize("variant", [{}, {"kernel": "gaussian"}, {"exact": True}], ids=str)
def test_points_all_alike_are_one_cluster(value: float, variant: dict[str, object]) -> None:
    points = np.full((7, 3), value)
    model = MeanShift(**variant).fit(points)
    assert model.labels_.tolist() == [0] * 7
    np.testing.assert_allclose(model.cluster_centers_, points[:1], rtol=1e-6)


def test_two_values_that_most_points_share_stay_apart() -> None:
    model = MeanShift().fit(np.repeat([[0.0], [1.0]], 50, axis=0))
    np.testing.assert_array_equal(model.cluster_centers_, [[1.0], [0.0]])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth 0.0"),
        ({"bandwidth": -1.0}, "bandwidth -1.0"),
        ({"bandwidth": np.inf}, "bandwidth inf"),
        ({"bandwidth": np.nan}, "bandwidth nan"),
        ({"kernel": "round"}, "flat, gaussian"),
        ({"min_support": 0}, "min_support is 0"),
        ({"exact": True, "kernel": "gaussian"}, "leave kernel"),
        ({"exact": True, "min_support": 2}, "leave kernel"),
        ({"exact": True, "backend": "torch"}, "leave kernel"),
        ({"backend": "jax"}, "numpy, torch"),
        ({"device": "cuda"}, "backend='torch'"),
        ({"backend": "torch", "device": "nowhere"}, "'nowhere'"),
        ({"backend": "torch", "device": "cuda:77"}, "'cuda:77'"),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_refused(
    parameters: dict[str, object], message: str
) -> None:
    for fit in ("fit", "partial_fit"):
        with pytest.raises(ClusteringError, match=message):
            getattr(MeanShift(**parameters), fit)([[0.0], [1.0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    for model in (MeanShift(), MeanShift(1.0), MeanShift(1.0, backend="torch")):
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.fit([[0.0], [value]])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_what_the_lattice_does_not_serve_is_refused_and_exact_serves_it(backend: str) -> None:
    for points, message in (
        (np.zeros((3, 65)), "65 dimensions"),
        (np.asarray([[0.0], [2049.0]]), "2049 bandwidths from 0"),
        (np.asarray([[0.0], [-2049.0]]), "2049 bandwidths from 0"),
    ):
        with pytest.raises(ClusteringError, match=message):
            MeanShift(1.0, backend=backend).fit(points)
        assert len(MeanShift(1.0, exact=True).fit(points).labels_) == len(points)
    MeanShift(1.0, backend=backend).fit(np.asarray([[-2048.0] * 64, [2048.0] * 64]))
    with pytest.raises(ClusteringError, match="bandwidths from 0"):
        MeanShift(1.0, backend=backend).fit([[0.0]]).predict([[1e9]])


def test_estimators_that_do_not_fit_together_are_not_merged() -> None:
    model = MeanShift(1.0).fit([[0.0], [5.0]])
    for other, message in (
        (MeanShift(2.0).fit([[0.0]]), "bandwidths 1.0 and 2.0"),
        (MeanShift(1.0).fit([[0.0, 1.0]]), "of 2 dimensions"),
        (MeanShift(1.0, exact=True).fit([[0.0]]), "keeps its points"),
    ):
        with pytest.raises(ClusteringError, match=message):
            model.merge(other)
    for pair in ((model, MeanShift()), (MeanShift(), model)):
        with pytest.raises(NotFittedError):
            pair[0].merge(pair[1])
    assert not hasattr(MeanShift(), "cluster_centers_")


def test_it_is_a_public_name() -> None:
    assert stitchsafe.MeanShift is MeanShift


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"bandwidth": "auto"}, "'auto' is no length"),
        ({"bandwidth": True}, "True is no length"),
        ({"bandwidth": 1e-310}, "no length that a lattice can have"),
        ({"bandwidth": 1.0, "min_support": "a"}, "'a', but counts points"),
        ({"bandwidth": 1.0, "min_support": 1.5}, "1.5, but counts points"),
    ],
)
def test_parameters_of_another_kind_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ClusteringError, match=said):
        MeanShift(**parameters).fit(np.zeros((3, 2)))


@pytest.mark.parametrize("parameters", [{"bandwidth": 5.0}, {"exact": True}])
def test_parameters_set_after_points_are_not_ignored(parameters: dict[str, Any]) -> None:
    model = MeanShift(1.0).partial_fit(np.zeros((3, 2)))
    model.set_params(**parameters)
    with pytest.raises(ClusteringError, match="came into a sketch of bandwidth 1"):
        model.partial_fit(np.ones((3, 2)))
    assert len(model.fit(np.ones((3, 2))).cluster_centers_) == 1


def test_only_our_own_estimators_are_merged() -> None:
    points = np.zeros((3, 2))
    with pytest.raises(ClusteringError, match="a KMeans cannot be merged"):
        MeanShift(1.0).fit(points).merge(cluster.KMeans(1).fit(points))
