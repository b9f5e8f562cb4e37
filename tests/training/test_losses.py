from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.training import (
    affinity_loss,
    discriminative_loss,
    foreground_loss,
    touching_pairs,
)


def by_the_book(
    x: np.ndarray, ids: np.ndarray, delta_pull: float, delta_push: float, norm: int = 2
):
    """De Brabandere's three terms, in plain loops."""
    clusters = [c for c in np.unique(ids) if c >= 0]
    means = {c: x[:, ids == c].mean(1) for c in clusters}
    pull = np.mean(
        [
            np.mean(
                [
                    max(0, np.linalg.norm(v - means[c], norm) - delta_pull) ** 2
                    for v in x[:, ids == c].T
                ]
            )
            for c in clusters
        ]
    )
    pairs = [(a, b) for a in clusters for b in clusters if a != b]
    push = np.mean(
        [max(0, 2 * delta_push - np.linalg.norm(means[a] - means[b], norm)) ** 2 for a, b in pairs]
    ) if pairs else 0.0  # fmt: skip
    regular = np.mean([np.linalg.norm(means[c], norm) for c in clusters])
    return pull, push, regular


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    clusters=st.integers(1, 5),
    delta_pull=st.sampled_from([0.0, 0.5]),
    delta_push=st.sampled_from([0.5, 3.0]),
    norm=st.sampled_from([1, 2]),
)
def test_the_loss_is_that_of_the_book(seed, clusters, delta_pull, delta_push, norm):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(3, 6, 7))
    ids = generator.integers(-1, clusters, (6, 7))
    ids[0, 0] = 0
    terms = discriminative_loss(
        torch.from_numpy(x)[None],
        torch.from_numpy(ids)[None],
        delta_pull=delta_pull,
        delta_push=delta_push,
        norm=norm,
        weights=(1.0, 2.0, 0.5),
    )
    pull, push, regular = by_the_book(x.reshape(3, -1), ids.ravel(), delta_pull, delta_push, norm)
    assert terms.pull.item() == pytest.approx(pull, abs=1e-5)
    assert terms.push.item() == pytest.approx(push, abs=1e-5)
    assert terms.regular.item() == pytest.approx(regular, abs=1e-5)
    assert terms.total.item() == pytest.approx(pull + 2 * push + 0.5 * regular, abs=1e-4)


def test_touching_pairs_come_within_reach_along_an_axis():
    labels = torch.tensor([[0, 0, 1, 1], [2, -1, 1, 3]])
    assert {tuple(p) for p in touching_pairs(labels).nonzero().tolist()} == {
        (0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1),
    }  # fmt: skip
    assert touching_pairs(labels, reach=2)[2, 1]
    assert not touching_pairs(labels, reach=2)[2, 3]


def test_only_touching_pairs_are_pushed():
    labels = torch.tensor([[[0, 1, 2]]])
    x = torch.tensor([[[[0.0, 10.0, 0.0]]]])  # 0 and 2 are alike, and do not touch
    assert discriminative_loss(x, labels, pairs="touching").push.item() == 0
    assert discriminative_loss(x, labels, pairs="all").push.item() == pytest.approx(36 * 2 / 6)


def test_touching_is_seen_in_the_neighbourhood_where_labels_are_thinned():
    thinned = torch.tensor([[[0, -1, -1, 2]]])
    whole = torch.tensor([[[0, 0, 2, 2]]])
    x = torch.zeros(1, 2, 1, 4)
    assert discriminative_loss(x, thinned, pairs="touching").push.item() == 0
    pushed = discriminative_loss(x, thinned, pairs="touching", neighbourhood=whole).push
    assert pushed.item() == pytest.approx(36, rel=1e-4)


def test_gradients_are_finite_where_embeddings_coincide():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    labels = torch.arange(16).reshape(1, 4, 4) % 3
    discriminative_loss(x, labels, delta_pull=0.1).total.backward()
    assert torch.isfinite(x.grad).all()


def test_a_sample_without_clusters_costs_nothing_and_keeps_the_graph():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    total = discriminative_loss(x, torch.full((1, 4, 4), -1)).total
    total.backward()
    assert total.item() == 0
    assert not x.grad.any()


def test_every_instance_weighs_the_same():
    labels = torch.zeros(1, 1, 101, dtype=torch.long)
    labels[..., 99:] = 1
    x = torch.zeros(1, 1, 1, 101)
    x[..., 99], x[..., 100] = 1.0, -1.0
    assert discriminative_loss(x, labels).pull.item() == pytest.approx(0.5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        discriminative_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5, dtype=torch.long))


def test_the_foreground_loss_is_a_weighted_mean():
    logits = torch.tensor([[[[0.0, 2.0, 50.0]]]])
    target = torch.tensor([[[True, False, False]]])
    weight = torch.tensor([[[1.0, 3.0, 0.0]]])
    expected = (np.log(2) + 3 * np.log1p(np.exp(2))) / 4
    assert foreground_loss(logits, target, weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("pairs", ["all", "touching"])
@pytest.mark.parametrize("case", ["nothing", "one", "each voxel"])
def test_losses_and_gradients_are_finite_whatever_a_window_holds(case, pairs, norm):
    """No instance, a single one, and thousands; embeddings that coincide."""
    shape = (1, 60, 60)
    labels = torch.full(shape, -1 if case == "nothing" else 0)
    if case == "each voxel":
        labels = torch.arange(3600).reshape(shape)
    x = torch.zeros(1, 3, *shape[1:], requires_grad=True)
    terms = discriminative_loss(x, labels, delta_pull=0.1, norm=norm, pairs=pairs)
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert torch.isfinite(x.grad).all()
    assert terms.push.item() == pytest.approx(36 if case == "each voxel" else 0, abs=1e-4)


def test_dice_does_not_care_how_rare_foreground_is():
    logits = torch.full((1, 1, 10, 10), -4.0)
    logits[..., 0, 0] = 4.0
    target = torch.zeros(1, 10, 10, dtype=torch.bool)
    target[..., 0, :2] = True
    p, q = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))
    dice = 1 - 2 * (p + q) / (p + 99 * q + 2)
    assert foreground_loss(logits, target, dice=1.0).item() == pytest.approx(dice, rel=1e-5)
    entropy = foreground_loss(logits, target).item()
    both = foreground_loss(logits, target, dice=0.25).item()
    assert both == pytest.approx(0.75 * entropy + 0.25 * dice, rel=1e-5)
    unseen = torch.ones(1, 10, 10)
    unseen[..., 0, 1] = 0  # the voxel that is missed does not count
    seen = 1 - 2 * p / (p + 98 * q + 1)
    assert foreground_loss(logits, target, unseen, dice=1.0).item() == pytest.approx(seen, rel=1e-5)


def test_dice_of_nothing_in_nothing_is_zero_with_a_gradient():
    logits = torch.full((1, 1, 4, 4), -200.0, requires_grad=True)
    loss = foreground_loss(logits, torch.zeros(1, 4, 4), dice=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("ndim", [2, 3])
def test_affinities_are_those_of_pairs_counted_one_by_one(ndim):
    generator = np.random.default_rng(ndim)
    shape = (5, 6, 4)[:ndim]
    labels = generator.integers(-1, 3, (2, *shape))
    offsets = [(1, 0, 0), (0, -2, 1), (0, 0, 3)] if ndim == 3 else [(1, 0), (0, -2), (-1, 3)]
    logits = generator.normal(size=(2, len(offsets), *shape))
    losses: tuple[list[float], list[float]] = ([], [])
    for sample, channel in np.ndindex(2, len(offsets)):
        for place in np.ndindex(shape):
            other = tuple(np.add(place, offsets[channel]))
            if not all(0 <= n < size for n, size in zip(other, shape, strict=True)):
                continue
            a, b = labels[sample][place], labels[sample][other]
            if a >= 0 and b >= 0:
                value = logits[(sample, channel, *place)]
                losses[sample].append(np.logaddexp(0, -value if a == b > 0 else value))
    found = affinity_loss(torch.from_numpy(logits), torch.from_numpy(labels), offsets)
    assert found.item() == pytest.approx(np.mean([np.mean(each) for each in losses]), rel=1e-6)


def test_affinities_of_nothing_known_cost_nothing():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = affinity_loss(logits, torch.full((1, 4, 4), -1), [(0, 1)])
    loss.backward()
    assert loss.item() == 0
    with pytest.raises(ValueError, match="1 channels of affinities for 2 offsets"):
        affinity_loss(logits, torch.zeros(1, 4, 4), [(0, 1), (1, 0)])
