"""Whether a torch module is such that it can be analysed, copied and run."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stitchsafe.errors import ModelError
from stitchsafe.networks._damage import damage_named

__all__ = ["own_copy", "refuse_unready", "refuse_without_values"]


def own_copy(module: nn.Module, name: str) -> nn.Module:
    """A copy in evaluation mode, whose parameters ask for no gradient.

    Raises
    ------
    ModelError
        If there can be none; see also :func:`refuse_unready`.
    """
    refuse_unready(module, name)
    remedy = "keep in it parameters, buffers and plain values, and no results of computation"
    with damage_named(f"{name} cannot be copied, as each run of it is", remedy):
        return copy.deepcopy(module).eval().requires_grad_(False)


def refuse_unready(module: nn.Module, name: str) -> None:
    """Refuse a module whose layers cannot be seen, or have no sizes yet.

    Raises
    ------
    ModelError
        Naming the layer.
    """
    for place, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            layer = f"holds TorchScript (its part {place})" if place else "is TorchScript"
            raise ModelError(
                f"{name} {layer}, whose layers cannot be analysed; give the module that it was "
                "made from, or export it as ONNX or as a .pt2 of torch.export"
            )
        own = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        if any(is_lazy(tensor) for tensor in own):
            layer = f"its {type(part).__name__} {place}" if place else f"a {type(part).__name__}"
            raise ModelError(
                f"{name} has parameters without a size yet ({layer}); run it once on an input "
                "before it is given, or state the sizes of its layers"
            )


def refuse_without_values(module: nn.Module, name: str) -> None:
    """Refuse to run a module whose weights are not there.

    Raises
    ------
    ModelError
        Naming the first.
    """
    for key, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise ModelError(
                f"{name} has no values for its weights ({key} lies on the device meta), and can be "
                "checked but not run; give them with --weights, or make it on the processor"
            )
