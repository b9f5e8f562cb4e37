"""The discriminative loss and the foreground loss.

For one sample with clusters c = 1..C, C > 1, of n_c voxels with embeddings x and mean μ_c::

    pull     mean over c of mean over its voxels of  max(0, |x - μ_c| - δ_v)²
    push     mean over ordered pairs c ≠ c' of       max(0, 2 δ_d - |μ_c - μ_c'|)²
    regular  mean over c of                          |μ_c|
    loss     α pull + β push + γ regular

Every instance weighs the same, however large. Defaults are those of Rumberger et al. (2021):
δ_v = 0, δ_d = 3, weights 1, 1 and 1e-4; the background is an ordinary cluster. In dense tissue it
is enough, and far easier for a network with a small receptive field, that instances that *touch*
differ: connected parts of one cluster are separate instances anyhow. So the pairs to push may be
restricted to the touching ones.

References
----------
De Brabandere, B., Neven, D., Van Gool, L. (2017). Semantic Instance Segmentation with a
Discriminative Loss Function.
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DiscriminativeTerms", "discriminative_loss", "foreground_loss", "touching_pairs"]

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
    pairs = torch.zeros((max(count, 0),) * 2, dtype=torch.bool)
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
        samples.append(_one_sample(x.flatten(1), ids.flatten(), delta_pull, delta_push, touching))
    pull, push, regular = (torch.stack(terms).mean() for terms in zip(*samples, strict=True))
    total = weights[0] * pull + weights[1] * push + weights[2] * regular
    return DiscriminativeTerms(total, pull, push, regular)


def _one_sample(
    x: Tensor,
    ids: Tensor,
    delta_pull: float,
    delta_push: float,
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

    squared = (points - means[inverse]).square().sum(1)
    if delta_pull > 0:
        squared = functional.relu((squared + _EPSILON).sqrt() - delta_pull).square()
    pull = (points.new_zeros(len(values)).index_add(0, inverse, squared) / count).mean()

    wanted = ~torch.eye(len(values), dtype=torch.bool, device=x.device)
    if touching is not None:
        surroundings, reach = touching
        slots = torch.full((int(surroundings.max()) + 2,), -1, dtype=torch.long)
        slots[values.cpu()] = torch.arange(len(values))
        local = torch.where(surroundings >= 0, slots[surroundings], -1)
        near = touching_pairs(local, reach)
        wanted[: len(near), : len(near)] &= near.to(x.device)
        wanted[len(near) :] = False
        wanted[:, len(near) :] = False
    first, second = wanted.nonzero(as_tuple=True)
    distance = ((means[first] - means[second]).square().sum(1) + _EPSILON).sqrt()
    push = functional.relu(2 * delta_push - distance).square().mean() if len(first) else zero
    regular = (means.square().sum(1) + _EPSILON).sqrt().mean()
    return pull, push, regular


def foreground_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a foreground head.

    Parameters
    ----------
    logits
        ``(batch, 1, *spatial)``, what the head returns.
    target
        ``(batch, *spatial)``, 1 in the foreground.
    weight
        ``(batch, *spatial)`` or none: how much each voxel counts; 0 leaves it out.
    """
    loss = functional.binary_cross_entropy_with_logits(
        logits[:, 0], target.to(logits.dtype), weight=weight, reduction="sum"
    )
    return loss / (weight.sum().clamp_min(1.0) if weight is not None else target.numel())
