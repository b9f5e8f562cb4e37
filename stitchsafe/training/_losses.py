"""What is minimised: the discriminative loss, foreground and affinities.

For one sample with clusters c = 1..C, C > 1, of n_c voxels with embeddings x and mean μ_c::

    pull     mean over c of mean over its voxels of  max(0, |x - μ_c| - δ_v)²
    push     mean over ordered pairs c ≠ c' of       max(0, 2 δ_d - |μ_c - μ_c'|)²
    regular  mean over c of                          |μ_c|
    loss     α pull + β push + γ regular

Every instance weighs the same, however large. Defaults are those of Rumberger et al. (2021):
δ_v = 0, δ_d = 3, weights 1, 1 and 1e-4; the background is an ordinary cluster. In dense tissue it
is enough, and far easier for a network with a small receptive field, that instances that *touch*
differ: connected parts of one cluster are separate instances anyhow. So the pairs to push may be
restricted to the touching ones. Distances are Euclidean, or sums of absolute differences.

References
----------
De Brabandere, B., Neven, D., Van Gool, L. (2017). Semantic Instance Segmentation with a
Discriminative Loss Function.
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "DiscriminativeTerms",
    "affinity_loss",
    "discriminative_loss",
    "foreground_loss",
    "touching_pairs",
]

_EPSILON = 1e-12


class DiscriminativeTerms(NamedTuple):
    """The weighted sum and its unweighted parts, scalars averaged over the batch."""

    total: Tensor
    pull: Tensor
    push: Tensor
    regular: Tensor


def touching_pairs(labels: Tensor, reach: int = 1) -> Tensor:
    """Pairs of different labels that come within `reach` voxels of each other along an axis.

    Parameters
    ----------
    labels
        ``(*spatial)``, integers 0..K-1; negative ones are ignored.
    reach
        In voxels.

    Returns
    -------
    Tensor
        ``(K, K)`` boolean, symmetric, false on the diagonal.
    """
    count = int(labels.max()) + 1 if labels.numel() else 0
    pairs = torch.zeros((max(count, 0),) * 2, dtype=torch.bool, device=labels.device)
    for axis, size in enumerate(labels.shape):
        for distance in range(1, min(reach, size - 1) + 1):
            a = labels.narrow(axis, 0, size - distance)
            b = labels.narrow(axis, distance, size - distance)
            differ = (a != b) & (a >= 0) & (b >= 0)
            pairs[a[differ], b[differ]] = True
    return pairs | pairs.T


def discriminative_loss(
    embedding: Tensor,
    labels: Tensor,
    *,
    delta_pull: float = 0.0,
    delta_push: float = 3.0,
    weights: tuple[float, float, float] = (1.0, 1.0, 1e-4),
    norm: Literal[1, 2] = 2,
    pairs: Literal["all", "touching"] = "all",
    reach: int = 1,
    neighbourhood: Tensor | None = None,
) -> DiscriminativeTerms:
    """The discriminative loss of a batch; gradients flow to `embedding`.

    Parameters
    ----------
    embedding
        ``(batch, dimensions, *spatial)``.
    labels
        ``(batch, *spatial)`` integers. Each value is one cluster, 0 too; negative voxels take no
        part.
    delta_pull, delta_push
        δ_v and δ_d, in units of the embedding.
    weights
        Of pull, push and regularisation.
    norm
        In which distances are measured: 2 is Euclidean.
    pairs
        Push all pairs of clusters, or those alone that touch in `neighbourhood`.
    reach
        How many voxels apart two clusters may be and still touch.
    neighbourhood
        ``(batch, *spatial)``: labels from which touching pairs are found (the uneroded ones, where
        `labels` leaves out the borders). By default `labels`.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    if labels.shape != embedding.shape[:1] + embedding.shape[2:]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not match embeddings {tuple(embedding.shape)}"
        )
    near = labels if neighbourhood is None else neighbourhood
    samples = []
    for x, ids, surroundings in zip(embedding, labels, near, strict=True):
        touching = None
        if pairs == "touching":
            touching = (surroundings, reach)
        samples.append(
            _one_sample(x.flatten(1), ids.flatten(), delta_pull, delta_push, norm, touching)
        )
    pull, push, regular = (torch.stack(terms).mean() for terms in zip(*samples, strict=True))
    total = weights[0] * pull + weights[1] * push + weights[2] * regular
    return DiscriminativeTerms(total, pull, push, regular)


def _one_sample(
    x: Tensor,
    ids: Tensor,
    delta_pull: float,
    delta_push: float,
    norm: int,
    touching: tuple[Tensor, int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    used = ids >= 0
    values, inverse = torch.unique(ids[used], return_inverse=True)
    zero = x.sum() * 0.0
    if not len(values):
        return zero, zero, zero
    points = x[:, used].T
    count = torch.bincount(inverse, minlength=len(values)).to(points.dtype)
    means = points.new_zeros(len(values), points.shape[1]).index_add(0, inverse, points)
    means = means / count[:, None]

    away = points - means[inverse]
    if norm == 2 and delta_pull == 0:
        excess = away.square().sum(1)
    else:
        excess = functional.relu(_length(away, norm) - delta_pull).square()
    pull = (points.new_zeros(len(values)).index_add(0, inverse, excess) / count).mean()

    if touching is None:
        distance = functional.pdist(means, p=float(norm))  # not a vector for each pair
    else:
        first, second = _touching_rows(values, *touching)
        distance = _length(means[first] - means[second], norm)
    push = functional.relu(2 * delta_push - distance).square().mean() if len(distance) else zero
    return pull, push, _length(means, norm).mean()


def _length(vectors: Tensor, norm: int) -> Tensor:
    """Of each row; with a gradient at 0."""
    if norm == 1:
        return vectors.abs().sum(1)
    return (vectors.square().sum(1) + _EPSILON).sqrt()


def _touching_rows(values: Tensor, surroundings: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Of clusters, given by their labels, those that touch: places in `values`, pair by pair."""
    most = int(max(surroundings.max(), values.max()))
    slots = torch.full((most + 1,), -1, dtype=torch.long, device=values.device)
    slots[values] = torch.arange(len(values), device=values.device)
    near = touching_pairs(torch.where(surroundings >= 0, slots[surroundings], -1), reach)
    first, second = near.nonzero(as_tuple=True)
    return first, second


def foreground_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    dice: float = 0.0,
    share: float = 1.0,
) -> Tensor:
    """Binary cross-entropy of a foreground head, with the soft Dice loss where asked.

    Parameters
    ----------
    logits
        ``(batch, 1, *spatial)``, what the head returns.
    target
        ``(batch, *spatial)``, 1 in the foreground.
    weight
        ``(batch, *spatial)`` or none: how much each voxel counts; 0 leaves it out.
    dice
        Share of the Dice loss ``1 - 2 Σ w p t / (Σ w p + Σ w t)``, a mean over the samples, which
        does not care how rare the foreground is; 0 to 1. Where there is no foreground at all, and
        none is seen, it is 0.
    share
        Factor of the entropy, where this is one of several batches whose weights differ.
    """
    wanted = target.to(logits.dtype)
    counts = torch.ones_like(wanted) if weight is None else weight
    loss = functional.binary_cross_entropy_with_logits(
        logits[:, 0], wanted, weight=weight, reduction="sum"
    )
    entropy = share * loss / counts.sum().clamp_min(1.0)
    if not dice:
        return entropy
    seen = logits[:, 0].sigmoid()
    both = (counts * seen * wanted).flatten(1).sum(1)
    either = (counts * (seen + wanted)).flatten(1).sum(1)
    unlike = 1 - (2 * both + _EPSILON) / (either + _EPSILON)
    return (1 - dice) * entropy + dice * unlike.mean()


def affinity_loss(logits: Tensor, labels: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
    """Binary cross-entropy of affinities: whether a voxel is of one instance with another.

    Both must be instances, the same one, for a 1. Background with background is 0. Each sample
    counts the same.

    Parameters
    ----------
    logits
        ``(batch, offsets, *spatial)``, what the head returns.
    labels
        ``(batch, *spatial)`` integers, 0 background; where one of the two is negative, or lies
        outside, the pair takes no part.
    offsets
        In voxels, one per axis for each channel.

    Raises
    ------
    ValueError
        If there are not as many channels as offsets.
    """
    if logits.shape[1] != len(offsets):
        raise ValueError(f"{logits.shape[1]} channels of affinities for {len(offsets)} offsets")
    total = logits.flatten(1).sum(1) * 0.0
    count = torch.zeros_like(total)
    for channel, offset in enumerate(offsets):
        here = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
        there = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
        one, other = labels[(slice(None), *here)], labels[(slice(None), *there)]
        known = (one >= 0) & (other >= 0)
        same = ((one == other) & (one > 0)).to(logits.dtype)
        values = logits[(slice(None), channel, *here)]
        loss = functional.binary_cross_entropy_with_logits(values, same, reduction="none")
        total = total + torch.where(known, loss, 0.0).flatten(1).sum(1)
        count += known.flatten(1).sum(1)
    return (total / count.clamp_min(1)).mean()
