"""Closed-form pooling: the eigenproblem, its definitions, streaming, and the layer."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from stitchsafe.nn import ClosedFormFit, ClosedFormPool

torch.set_num_threads(1)


def samples(
    counts: tuple[int, ...] = (30, 30, 30), shape: tuple[int, ...] = (8, 8), channels: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Feature maps about random class means, shuffled."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    means = generator.normal(size=(len(counts), channels, *shape))
    maps = means[labels] + generator.normal(size=(len(labels), channels, *shape))
    scale = np.array([1.0, 5.0, 0.2, 3.0])[:channels].reshape(1, -1, *(1,) * len(shape))
    return scale * maps + 2, labels


def by_loops(
    maps: np.ndarray, labels: np.ndarray, centre: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised samples (places, channels), and A and B, sample by sample from Eq. 11 and 12."""
    axes = (0, *range(2, maps.ndim))
    maps = (maps - maps.mean(axes, keepdims=True)) / maps.std(axes, keepdims=True)
    x = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
    means = {q: x[labels == q].mean(0) for q in np.unique(labels)}
    mean = x.mean(0) if centre == "samples" else sum(means.values()) / len(means)
    between = sum((m - mean) @ (m - mean).T for m in means.values())
    within = sum(
        sum((k - means[q]) @ (k - means[q]).T for k in x[labels == q]) / (labels == q).sum()
        for q in means
    )
    return x, between, within


@pytest.mark.parametrize("centre", ["classes", "samples"])
def test_the_matrices_are_those_of_plain_loops(centre: str) -> None:
    maps, labels = samples((10, 40, 90))
    _, between, within = by_loops(maps, labels, centre)
    found = ClosedFormFit(centre=centre).fit(maps, labels).matrices()
    for own, expected in zip(found, (between, within), strict=True):
        assert np.abs(own - expected).max() <= 1e-12 * np.abs(expected).max()


def test_the_separation_reached_is_the_top_eigenvalue() -> None:
    maps, labels = samples()
    fit = ClosedFormFit(alpha=0, components=1).fit(maps, labels)
    x, between, _ = by_loops(maps, labels, "classes")
    for m in (0, 7):  # without a penalty all places find the same
        p = fit.pooling_[0, m]
        pooled = x.transpose(0, 2, 1) @ p
        means = np.stack([pooled[labels == q].mean(0) for q in range(3)])
        apart = ((means - means.mean(0)) ** 2).sum(1).mean()
        spread = np.mean([((pooled[labels == q] - means[q]) ** 2).sum(1).mean() for q in range(3)])
        assert apart / spread == pytest.approx(fit.eigenvalues_[0, m], rel=1e-8)
        assert p @ between @ p / 3 == pytest.approx(apart, rel=1e-10)
    assert np.ptp(fit.eigenvalues_) <= 1e-8 * fit.eigenvalues_.max()


@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_a_numerical_maximiser_finds_the_same(alpha: float) -> None:
    maps, labels = samples()
    fit = ClosedFormFit(alpha=alpha, components=1).fit(maps, labels)
    between, within = fit.matrices()
    metric = within + alpha * np.diag(fit.penalty((1, 2)))

    def lost(p: np.ndarray) -> tuple[float, np.ndarray]:
        top, below = p @ between @ p, p @ metric @ p
        return -top / below, -2 * (between @ p - top / below * (metric @ p)) / below

    start = np.random.default_rng(1).normal(size=64)
    found = minimize(lost, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x
    own = fit.pooling_[0, 1 * 4 + 2]
    cosine = abs(own @ found) / np.linalg.norm(own) / np.linalg.norm(found)
    assert cosine == pytest.approx(1, abs=1e-6)
    assert -lost(found)[0] == pytest.approx(fit.eigenvalues_[0, 6], rel=1e-7)


def test_a_fixed_alpha_stands_for_a_penalty_of_alpha_times_mu() -> None:
    maps, labels = samples()
    fit = ClosedFormFit(alpha=10, components=1).fit(maps, labels)
    between, within = fit.matrices()
    place, m = (2, 1), 9
    p, mu = fit.pooling_[0, m], fit.eigenvalues_[0, m]
    penalty = fit.penalty(place)
    assert (fit.eigenvalues_ >= 0).all()
    # The gradient of Eq. 20 vanishes for lambda = -mu and rho = alpha mu.
    terms = [between @ p, -mu * within @ p, -10 * mu * penalty * p]
    assert np.abs(sum(terms)).max() <= 1e-8 * max(np.abs(each).max() for each in terms)


def test_the_two_definitions_of_the_mean_differ_for_unbalanced_classes() -> None:
    apart, traces = {}, {}
    for counts in ((10, 40, 90), (30, 30, 30)):
        maps, labels = samples(counts, channels=4)
        by_class, by_sample = (
            ClosedFormFit(centre=centre).fit(maps, labels).matrices()[0]
            for centre in ("classes", "samples")
        )
        apart[counts] = np.linalg.norm(by_sample - by_class) / np.linalg.norm(by_class)
        traces[counts] = np.trace(by_sample - by_class) / np.trace(by_class)
    assert apart[(30, 30, 30)] < 1e-12
    # FACTS has 23 %. Independent class means: trace 2 of 3 between them, and 3 |1/3 - share|^2
    # more, which is a quarter.
    assert traces[(10, 40, 90)] == pytest.approx(0.25, abs=0.03)
    assert traces[(10, 40, 90)] == pytest.approx(0.23, abs=0.03)


def test_what_is_near_counts_more_as_alpha_grows() -> None:
    maps, labels = samples()
    reach = []
    for alpha in (0, 5, 65, 1e6):
        fit = ClosedFormFit(alpha=alpha, components=1).fit(maps, labels)
        weight = fit.pooling_[0, 6] ** 2
        reach.append((weight * fit.penalty((1, 2))).sum() / weight.sum())
    assert reach == sorted(reach, reverse=True)
    assert reach[-1] < 1e-3
    # The centre of output place (1, 2) is (4, 6), counted from 1.
    assert fit.pooling_[0, 6].argmax() == 3 * 8 + 5


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_norm_sign_and_order_of_the_weights(norm: str) -> None:
    fit = ClosedFormFit(norm=norm, components=2).fit(*samples())
    size = np.abs(fit.pooling_).sum(-1) if norm == "l1" else (fit.pooling_**2).sum(-1)
    assert np.abs(size - 1).max() < 1e-12
    assert (fit.pooling_.sum(-1) >= 0).all()
    assert (fit.eigenvalues_[0] >= fit.eigenvalues_[1]).all()
    assert fit.pooling_.shape == (2, 16, 64)


def test_where_weights_sum_to_nothing_the_largest_decides_the_sign() -> None:
    # Mirrored classes: what separates them is odd, and sums to 0.
    generator = np.random.default_rng(0)
    ramp = np.array([-3.0, -1.0, 1.0, 3.0])
    labels = np.arange(200) % 2
    maps = (2 * labels - 1)[:, None, None, None] * ramp[:, None] * np.ones((1, 1, 4, 4))
    maps = np.concatenate([maps + generator.normal(size=maps.shape)] * 2)
    maps[200:] = -maps[200:, :, ::-1] * -1
    maps = maps - maps[:, :, ::-1]  # exactly odd
    fit = ClosedFormFit(alpha=0, components=1, normalise=False, epsilon=1e-3)
    fit.fit(maps, np.concatenate([labels, labels]))
    for row in fit.pooling_[0]:
        assert abs(row.sum()) < 1e-6
        assert row[np.abs(row).argmax()] > 0 or row.sum() > 1e-9


def test_column_major_places_give_the_same_weights() -> None:
    maps, labels = samples(shape=(4, 6))
    fit = ClosedFormFit(alpha=5, components=1).fit(maps, labels)
    turned = ClosedFormFit(alpha=5, components=1).fit(maps.swapaxes(2, 3), labels)
    rows = fit.pooling_.reshape(2, 3, 4, 6)
    columns = turned.pooling_.reshape(3, 2, 6, 4)
    assert np.abs(rows - columns.transpose(1, 0, 3, 2)).max() < 1e-8


def test_batches_of_any_size_give_the_same() -> None:
    maps, labels = samples((10, 40, 90))
    whole = ClosedFormFit().fit(maps, labels)
    parts = ClosedFormFit()
    cuts = list(itertools.pairwise((0, 1, 20, 21, 90, 140)))
    for a, b in cuts:
        parts.observe(torch.from_numpy(maps[a:b]))
    for a, b in cuts:
        parts.partial_fit(torch.from_numpy(maps[a:b]), torch.from_numpy(labels[a:b]))
    parts.solve()
    for own, expected in zip(parts.matrices(), whole.matrices(), strict=True):
        assert np.abs(own - expected).max() <= 1e-13 * np.abs(expected).max()
    assert np.abs(parts.pooling_ - whole.pooling_).max() < 1e-8
    assert parts.mean_ == pytest.approx(maps.mean((0, 2, 3)))
    assert parts.variance_ == pytest.approx(maps.var((0, 2, 3)))


def test_sums_lose_no_digits_to_a_large_mean() -> None:
    maps, labels = samples()
    near = ClosedFormFit(normalise=False).fit(maps, labels)
    far = ClosedFormFit(normalise=False).fit(maps + 1e6, labels)
    for own, expected in zip(far.matrices(), near.matrices(), strict=True):
        assert np.abs(own - expected).max() <= 1e-8 * np.abs(expected).max()


def test_a_class_gives_so_many_samples_and_no_more() -> None:
    maps, labels = samples((10, 40, 90))
    first = np.concatenate([np.flatnonzero(labels == q)[:20] for q in range(3)])
    limited = ClosedFormFit(max_per_class=20, normalise=False)
    limited.fit_batches([(maps[:50], labels[:50]), (maps[50:], labels[50:])])
    chosen = ClosedFormFit(normalise=False).fit(maps[first], labels[first])
    assert np.abs(limited.matrices()[1] - chosen.matrices()[1]).max() < 1e-10


def test_a_channel_without_variance_and_few_samples_are_no_matter() -> None:
    maps, labels = samples((3, 3))
    maps[:, 1] = 7
    fit = ClosedFormFit(alpha=5).fit(maps, labels)
    assert np.isfinite(fit.pooling_).all()
    made = fit.module().double()(torch.from_numpy(maps))
    torch.testing.assert_close(made[:, 1], torch.full_like(made[:, 1], 7), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 6)])
def test_the_layer_pools_what_was_normalised(shape: tuple[int, ...]) -> None:
    maps, labels = samples(shape=shape)
    fit = ClosedFormFit(alpha=5).fit(maps, labels)
    layer = fit.module().double()
    found = layer(torch.from_numpy(maps)).numpy()
    mean, deviation = (v.reshape(1, -1, 1) for v in (fit.mean_, np.sqrt(fit.variance_)))
    flat = (maps.reshape(*maps.shape[:2], -1) - mean) / deviation
    for e in range(2):
        expected = (flat @ fit.pooling_[e].T) * deviation + mean
        own = found[:, 4 * e : 4 * e + 4].reshape(expected.shape)
        assert np.abs(own - expected).max() < 1e-5 * np.abs(expected).max()
    assert found.shape[2:] == tuple(n // 2 for n in shape)


def test_average_pooling_is_a_special_case() -> None:
    pooling = torch.zeros(1, 4, 16, dtype=torch.float64)
    for m, n in itertools.product(range(4), range(16)):
        if (n // 4 // 2, n % 4 // 2) == (m // 2, m % 2):
            pooling[0, m, n] = 0.25
    layer = ClosedFormPool(pooling, (4, 4), (2, 2), torch.zeros(1, dtype=torch.float64))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.avg_pool2d(x, 2), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
    assert layer(x[:0]).shape == (0, 3, 2, 2)


def test_mixed_precision_and_types() -> None:
    maps, labels = samples()
    layer = ClosedFormFit().fit(maps, labels).module()
    x = torch.from_numpy(maps).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()
    assert (half - layer(x)).abs().max() < 0.05 * layer(x).abs().max()
    again = ClosedFormFit().fit(torch.from_numpy(maps).bfloat16(), torch.from_numpy(labels))
    assert np.isfinite(again.pooling_).all()


def test_it_is_kept_with_a_network_s_weights() -> None:
    maps, labels = samples()
    layer = ClosedFormFit().fit(maps, labels).module()
    other = ClosedFormFit(alpha=1).fit(maps, labels).module()
    x = torch.from_numpy(maps).float()
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))
    assert not list(layer.parameters())


def test_it_exports_to_onnx(tmp_path: object) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")
    pytest.importorskip("onnxscript", reason="onnxscript comes with the extra dev")
    maps, labels = samples()
    layer, x = ClosedFormFit().fit(maps, labels).module().eval(), torch.from_numpy(maps).float()
    path = str(tmp_path / "layer.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(found - layer(x).numpy()).max() <= 1e-5 * np.abs(found).max()


def generator() -> object:
    yield samples()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ClosedFormFit(norm="l3"), "'l3'; choose"),
        (lambda: ClosedFormFit(centre="median"), "'median'; choose"),
        (lambda: ClosedFormFit(alpha=-1), "alpha -1"),
        (lambda: ClosedFormFit(alpha=math.nan), "alpha nan"),
        (lambda: ClosedFormFit(scale=3).fit(*samples()), "scale 3 does not divide"),
        (lambda: ClosedFormFit(scale=(2, 2, 2)).fit(*samples()), "one per axis"),
        (lambda: ClosedFormFit().fit(samples()[0][0], [0]), "not a batch"),
        (lambda: ClosedFormFit().fit(samples()[0], samples()[1][:3]), "one whole number for each"),
        (lambda: ClosedFormFit().fit(samples()[0], samples()[1] / 2), "one whole number for each"),
        (lambda: ClosedFormFit().fit(samples()[0] * math.nan, samples()[1]), "NaN"),
        (lambda: ClosedFormFit().fit(samples()[0], 0 * samples()[1]), "at least 2"),
        (lambda: ClosedFormFit(components=65).fit(*samples()), "65 components"),
        (lambda: ClosedFormFit().fit_batches(generator()), "only once"),
        (lambda: ClosedFormFit().partial_fit(*samples()), "none were observed"),
        (lambda: ClosedFormFit().fit(*samples()).observe(samples()[0]), "begin anew"),
        (lambda: ClosedFormFit().fit(*samples()).partial_fit(samples()[0][:, :2], samples()[1]),
         "2 channels do not fit those before, of 4"),
        (lambda: ClosedFormFit().observe(np.ones((1, 1, 4, 4))).observe(np.ones((1, 1, 8, 8))),
         "of one size"),
        (lambda: ClosedFormFit().module(), "nothing was fitted"),
        (lambda: ClosedFormFit().mean_, "no channels were observed"),
        (lambda: ClosedFormFit().fit(*samples()).module()(torch.ones(1, 4, 9, 9)), "does not fit"),
        (lambda: ClosedFormFit().fit(*samples()).module()(torch.ones(1, 3, 8, 8)), "does not fit"),
        (lambda: ClosedFormPool(torch.ones(1, 4, 9), (4, 4), (2, 2), torch.zeros(1)), "does not"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        made()
    assert "\n" not in str(refused.value)
