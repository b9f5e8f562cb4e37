"""What a bare module takes: how many tensors, of how many channels and spatial axes.

A module says it nowhere. Its convolutions do, where it takes one tensor; else it has to be stated,
and what is stated is tried on fake tensors, so that a mistake is found here and not by an operator.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

from torch import nn

from stitchsafe.errors import ModelError
from stitchsafe.geometry import SizeRefusal, trace

__all__ = ["inputs_of_module"]

_CONVOLUTIONS = {
    nn.Conv2d: 2,
    nn.ConvTranspose2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose3d: 3,
}
_TRIED = 64
"""Voxels per axis."""


def inputs_of_module(
    module: nn.Module, name: str, *, ndim: int | None, channels: int | Sequence[int] | None
) -> tuple[int, tuple[int, ...]]:
    """Spatial axes of a module, and the channels of each tensor that it takes.

    Parameters
    ----------
    module, name
        The module, and what to call it in messages.
    ndim, channels
        What is stated; None is to be found out.

    Raises
    ------
    ModelError
        If it cannot be found out, or the module does not take what is stated.
    """
    if channels is not None and ndim is not None:
        return ndim, _each(channels)
    if channels is not None:
        return _space_for(module, name, _each(channels)), _each(channels)
    needed, _ = _parameters(module)
    if len(needed) > 1:
        raise ModelError(
            f"{name} takes {len(needed)} inputs ({', '.join(needed)}), and nothing says how many "
            "channels each has; give them in that order with --input-channels, such as "
            f"--input-channels {','.join('1' * len(needed))}"
        )
    found = [each for each in _convolutions(module) if ndim in (None, each[0])]
    if not found:
        raise ModelError(
            f"{name} holds no 2-D or 3-D convolution to read its channels from; give them with "
            "--input-channels, such as --input-channels 1"
        )
    # Modules come in the order of their registration, which need not be that of their calls.
    fitting = (each for each in found if _refusal(module, each[0], (each[1],)) is None)
    space, only = next(fitting, found[0])
    return space, (only,)


def _each(channels: int | Sequence[int]) -> tuple[int, ...]:
    return (channels,) if isinstance(channels, int) else tuple(channels)


def _space_for(module: nn.Module, name: str, channels: tuple[int, ...]) -> int:
    """Spatial axes of a module whose channels are stated."""
    given = ",".join(map(str, channels))
    needed, most = _parameters(module)
    if not len(needed) <= len(channels) <= most:
        many = f"{len(needed)}" if len(needed) == most else f"{len(needed)} or more"
        raise ModelError(
            f"{name} takes {many} inputs ({', '.join(needed)}), and --input-channels {given} "
            f"states {len(channels)}; give one number for each"
        )
    known = tuple(dict.fromkeys(space for space, _ in _convolutions(module)))
    refusals = {space: _refusal(module, space, channels) for space in known or (2, 3)}
    fitting = [space for space, refusal in refusals.items() if refusal is None]
    if not fitting:
        raise ModelError(
            f"{name} does not take inputs of {given} channels ({next(iter(refusals.values()))}); "
            "give others with --input-channels"
        )
    if len(fitting) > 1 and not known:
        raise ModelError(
            f"{name} holds no convolution, and takes images of two and of three spatial axes; say "
            f"which from Python, as stitchsafe.networks.TorchNetwork(module, ndim=2, channels="
            f"({given},))"
        )
    return fitting[0]


def _parameters(module: nn.Module) -> tuple[list[str], float]:
    """Names of the tensors that a module must be given, and how many it can be given at most."""
    positional = [
        each
        for each in inspect.signature(module.forward).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.VAR_POSITIONAL)
    ]
    single = [each for each in positional if each.kind != each.VAR_POSITIONAL]
    most = len(single) if len(single) == len(positional) else math.inf
    return [each.name for each in single if each.default is each.empty], most


def _convolutions(module: nn.Module) -> list[tuple[int, int]]:
    """(Spatial axes, channels) that convolutions of a module take, each once."""
    found = (
        (ndim, part.in_channels)
        for part in module.modules()
        for kind, ndim in _CONVOLUTIONS.items()
        if isinstance(part, kind) and isinstance(part.in_channels, int) and part.in_channels
    )
    return list(dict.fromkeys(found))


def _refusal(module: nn.Module, ndim: int, channels: tuple[int, ...]) -> str | None:
    """Why a module does not take such inputs; that it takes none of the size tried is no reason."""
    try:
        trace(module, (_TRIED,) * ndim, channels)
    except SizeRefusal as error:
        text = " ".join(str(error).split())
        return text[:200] if "channels" in text or "dimensions" in text else None
    return None
