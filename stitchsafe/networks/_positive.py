"""Generic positive weights: a network in which no dependence cancels.

Products and sums of positive numbers are positive, a rectifier passes them, and a maximum over
what rises rises as well. So an element of such a network responds to a voxel exactly when its
operators connect the two.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["positive_weights"]


def positive_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 with random positive weights, no biases, and neutral statistics."""
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(module).to(device="cpu", dtype=torch.float64).eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name.rpartition(".")[2].endswith("bias"):
                parameter.zero_()
                continue
            fan = parameter[0].numel() if parameter.dim() > 1 else 1
            drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((0.5 + drawn / 2) / max(1, fan))
        for part in twin.modules():
            if isinstance(part, _NormBase) and part.running_mean is not None:
                part.running_mean.zero_()
                if part.running_var is not None:
                    part.running_var.fill_(1)
    return twin.requires_grad_(False)
