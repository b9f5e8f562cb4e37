"""Exponential averages of weights, which judge and generalise better than the last ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["averages_of"]


def averages_of(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of a module whose weights are averages from the next update on.

    Each update keeps the share `decay` of the average, and less as long as there is little to keep:
    ``(1 + n) / (10 + n)`` after n updates. Buffers are those of the module.
    """
    return AveragedModel(module, multi_avg_fn=_averaging(decay))


def _averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Any) -> None:
        done = int(count)
        kept = min(decay, (1 + done) / (10 + done))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - kept)

    return update
