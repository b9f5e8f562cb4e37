"""Programs that torch.export saved (``.pt2``): to load one runs code, so it needs trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stitchsafe.errors import ModelError
from stitchsafe.networks._damage import one_line
from stitchsafe.networks._quiet import quietly
from stitchsafe.networks._torch import TorchNetwork

__all__ = ["load_exported"]


def load_exported(path: Path) -> TorchNetwork:
    """Load a program; whoever calls this trusts it.

    Raises
    ------
    ModelError
        If it is damaged, or takes or gives something other than images.
    """
    try:
        with quietly():
            program = torch.export.load(path)
            module = program.module()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        if "warnings above" in reason:  # which are not shown
            reason = "its parts cannot be read"
        raise ModelError(
            f"{path} cannot be loaded as a program of torch.export ({reason}): it is damaged, or "
            "of another torch; export it again with this one"
        ) from error
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [values.get(str(name)) for name in signature.user_inputs]
    outputs = [values.get(str(name)) for name in signature.user_outputs]
    if not inputs or not all(_is_image(value) for value in (*inputs, *outputs)):
        raise ModelError(
            f"{path} takes or gives something other than tensors (batch, channels, *space) with "
            "two or three axes of space; export a network that does"
        )
    first: Any = inputs[0]
    space = "zyx"[-(first.ndim - 2) :]
    # A size that was not exported as dynamic is the only one that the program takes.
    fixed = [size if isinstance(size, int) else None for size in first.shape[2:]]
    channels = [int(value.shape[1]) for value in inputs if value is not None]
    return TorchNetwork(module, name=path.stem, ndim=len(space), channels=channels, fixed=fixed)


def _is_image(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim in (4, 5)
