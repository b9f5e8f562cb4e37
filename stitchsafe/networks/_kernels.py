"""Which kernels compute convolutions on a processor: chosen by rule, never by timing.

Left alone, torch sends a 3-D convolution in float32 to its fast kernels (oneDNN) only where
channels and the first two axes multiply to more than 20,480, and else unfolds the input into
columns, which takes several times as long and up to 27 times the memory. So the first layer, with
its one channel, and all layers at the coarse levels of a U-Net are slow; and which ones depends on
the tile. Here all of them take the fast ones, but for kernels of a single voxel, for which columns
are no detour.

What the fast kernels give lies channels last, as the whole network runs. A tensor of one channel is
both channels first and last, and its strides must say the latter, or the result is laid out anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["FastConvolutions", "Watch", "channels_last"]

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor of (n, channels, *space) in the layout of the fast kernels."""
    if tensor.shape[1] != 1:
        return tensor.contiguous(memory_format=_FORMATS[tensor.ndim])
    space = tensor.shape[2:]
    strides = [math.prod(space[axis + 1 :]) for axis in range(len(space))]
    return tensor.contiguous().as_strided(tensor.shape, (math.prod(space), 1, *strides))


class FastConvolutions(TorchFunctionMode):
    """While it is entered, convolutions in three dimensions take the fast kernels."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if func is torch.conv3d or func is torch.ops.aten.conv3d.default:
            given = {**dict(zip(_PARAMETERS, args, strict=False)), **(kwargs or {})}
            if _gains(given):
                return _fast(**given)
        return func(*args, **(kwargs or {}))


def _gains(given: Mapping[str, Any]) -> bool:
    tensor, weight = given["input"], given["weight"]
    return (
        tensor.dtype == weight.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.ndim == 5
        and math.prod(weight.shape[2:]) > 1
        and not isinstance(given.get("padding", 0), str)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _fast(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    result: Tensor = torch.ops.aten.mkldnn_convolution(
        channels_last(input),
        channels_last(weight),
        bias,
        _each_axis(padding),
        _each_axis(stride),
        _each_axis(dilation),
        groups,
    )
    return result


def _each_axis(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 3 if len(values) == 1 else values


class Watch(TorchFunctionMode):
    """While it is entered, every result is looked at: whether sums left the range of float16.

    Layers that follow can hide it, since of minus infinity a ReLU makes a plain 0. The verdict
    stays where the tensors are until it is marked in the outputs, so that no device is waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._overflowed: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "").partition(".")[0] not in _STAYS_IN_RANGE:
            for each in result if isinstance(result, tuple | list) else (result,):
                if isinstance(each, Tensor) and each.dtype == torch.float16 and each.numel():
                    low, high = each.aminmax()
                    wrong = ~(low.isfinite() & high.isfinite())
                    known = self._overflowed
                    self._overflowed = wrong if known is None else known | wrong
        return result

    def marked(self, field: Tensor) -> Tensor:
        """A field as it is; or if anything overflowed on the way, no number at all."""
        if self._overflowed is None:
            return field
        return torch.where(self._overflowed, math.nan, field)


_STAYS_IN_RANGE = {
    "relu", "relu_", "max_pool2d", "max_pool3d", "cat", "narrow", "pad", "interpolate", "sigmoid",
    "sigmoid_", "tanh", "softmax", "view", "reshape", "permute", "split", "chunk", "__getitem__",
    "dropout", "contiguous", "crop", "size", "clone", "detach", "leaky_relu", "clamp",
}  # fmt: skip
"""Functions whose results lie within the range of their inputs, or of 0 and 1."""
