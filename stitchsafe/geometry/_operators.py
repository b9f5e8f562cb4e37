"""One small handler per ATen operator: what it does to each spatial axis.

A handler takes the call and returns a :class:`Step`, or raises :class:`Breaking` (never exact) or
:class:`SizeRefusal` (not at this size). What has no handler is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stitchsafe.geometry._axis import Taps, drops_remainder
from stitchsafe.geometry._graph import AxisStep, Kind

__all__ = ["Breaking", "Call", "HANDLERS", "SizeRefusal", "Step"]


class Breaking(Exception):  # noqa: N818
    """The operator breaks locality."""

    def __init__(self, reason: str, fix: str, *, keeps_shape: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.fix, self.keeps_shape = reason, fix, keeps_shape


class SizeRefusal(Exception):  # noqa: N818
    """The network does not take an input of this size."""


@dataclass(frozen=True)
class Call:
    """One ATen call, its arguments by name, after it ran."""

    arguments: dict[str, Any]
    derived: tuple[torch.Tensor, ...]
    output: torch.Tensor
    layer: torch.nn.Module

    @property
    def ndim(self) -> int:
        return self.derived[0].dim() - 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.derived[0].shape[2:])

    def ints(self, name: str, default: int) -> tuple[int, ...]:
        value = self.arguments.get(name)
        if value is None or value == []:
            return (default,) * self.ndim
        if isinstance(value, int):
            return (value,) * self.ndim
        return tuple(value) * (self.ndim if len(value) == 1 else 1)


@dataclass(frozen=True)
class Step:
    kind: Kind
    axes: tuple[AxisStep, ...] = ()
    flops: int = 0
    workspace: int = 0


Handler = Callable[[Call], Step]
HANDLERS: dict[str, Handler] = {}


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def _windows(
    call: Call,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[AxisStep, ...]:
    return tuple(
        AxisStep(Taps.window(k, s, p, d), out, p > 0, drops_remainder(size, out, k, s, p, d))
        for k, s, p, d, size, out in zip(
            kernel, stride, padding, dilation, call.sizes, call.output.shape[2:], strict=True
        )
    )


@_handles("convolution")
def _convolution(call: Call) -> Step:
    a = call.arguments
    weight = a["weight"]
    if call.derived[0] is not a["input"] or len(call.derived) > 1:
        raise Breaking(
            "its weights depend on the input", "use weights that are parameters of the network"
        )
    kernel = tuple(weight.shape[2:])
    stride, padding, dilation = (
        call.ints("stride", 1),
        call.ints("padding", 0),
        call.ints("dilation", 1),
    )
    flops = 2 * math.prod(kernel)
    if not a["transposed"]:
        flops *= call.output.numel() * weight.shape[1]
        axes = _windows(call, kernel, stride, padding, dilation)
        return Step("conv", axes, flops, _columns(call, weight.shape[1], kernel))
    flops *= a["input"].numel() * weight.shape[1]
    axes = tuple(
        AxisStep(Taps.transposed(k, s, p, d), out)
        for k, s, p, d, out in zip(
            kernel, stride, padding, dilation, call.output.shape[2:], strict=True
        )
    )
    return Step("transposed conv", axes, flops)


def _columns(call: Call, channels: int, kernel: tuple[int, ...]) -> int:
    """Elements that torch's own convolution on the CPU unfolds its input into.

    The fast kernels, which unfold nothing, take float32 in two dimensions, and in three with more
    than two channels (measured, torch 2.13).
    """
    output = call.output
    if output.dtype == torch.float32 and (len(kernel) == 2 or channels > 2):
        return 0
    return channels * math.prod(kernel) * math.prod(output.shape[2:])


@_handles(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"
)
def _pool(call: Call) -> Step:
    kernel = call.ints("kernel_size", 1)
    stride = call.ints("stride", 1) if call.arguments.get("stride") else kernel
    return Step(
        "pool",
        _windows(call, kernel, stride, call.ints("padding", 0), call.ints("dilation", 1)),
    )


def _nearest_is_integer(size: int, out: int) -> bool:
    """Whether float32 index arithmetic picks what integer arithmetic would."""
    index = torch.arange(out, dtype=torch.float32, device="cpu")
    picked = torch.floor(index * torch.tensor(size / out, dtype=torch.float32)).long()
    true = torch.arange(out, device="cpu") * size // out
    return bool(torch.equal(picked, true))


@_handles("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(call: Call) -> Step:
    names = ("scales",) if call.ndim == 1 else ("scales_d", "scales_h", "scales_w")[-call.ndim :]
    axes = []
    for name, size, out in zip(names, call.sizes, call.output.shape[2:], strict=True):
        scale = call.arguments.get(name)
        if scale is not None and not float(scale).is_integer() and not (1 / scale).is_integer():
            raise Breaking(
                f"it resizes by {scale}, which is no whole factor",
                "use a whole factor, such as scale_factor=2",
            )
        whole = out % size == 0 or size % out == 0
        if not whole or (scale is not None and out != size * scale):
            raise SizeRefusal(f"a resize from {size} to {out} elements has no whole factor")
        from torch.utils._python_dispatch import _disable_current_modes

        with _disable_current_modes():
            if not _nearest_is_integer(size, out):
                raise SizeRefusal(f"a resize from {size} to {out} elements rounds its indices")
        taps = Taps.repeat(out // size) if out >= size else Taps.window(1, size // out)
        axes.append(AxisStep(taps, out))
    return Step("resize", tuple(axes))


def _padding(call: Call, pad: list[int], reflecting: int | None) -> Step:
    axes = []
    for axis, (size, out) in enumerate(zip(call.sizes, call.output.shape[2:], strict=True)):
        where = 2 * (call.ndim - 1 - axis)
        before, after = (pad[where], pad[where + 1]) if where < len(pad) else (0, 0)
        depth = 0 if reflecting is None else max(before, after) * reflecting
        axes.append(AxisStep(Taps.window(1, 1, before), out, before > 0 or after > 0, False, depth))
        if size + before + after != out:
            raise SizeRefusal(f"padding {size} elements by {before} and {after} gave {out}")
    return Step("pad", tuple(axes))


@_handles("constant_pad_nd")
def _constant_pad(call: Call) -> Step:
    pad = list(call.arguments["pad"])
    if any(pad[2 * call.ndim :]):
        raise Breaking("it pads channels or batch", "pad only along space")
    return _padding(call, pad, None)


@_handles("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(call: Call) -> Step:
    return _padding(call, list(call.arguments["padding"]), 1)


@_handles("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(call: Call) -> Step:
    return _padding(call, list(call.arguments["padding"]), 0)


@_handles("slice")
def _slice(call: Call) -> Step:
    a = call.arguments
    dim = a["dim"] % call.derived[0].dim()
    if dim < 2:
        return Step("pointwise")
    size = call.derived[0].shape[dim]
    start, _, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(size)
    axes = tuple(
        AxisStep(Taps.window(1, step, -start) if axis + 2 == dim else Taps.window(1), out)
        for axis, out in enumerate(call.output.shape[2:])
    )
    return Step("crop", axes)


@_handles("split", "split_with_sizes")
def _split(call: Call) -> Step:
    if call.arguments.get("dim", 0) % call.derived[0].dim() != 1:
        raise Breaking("it splits along space, which is not analysed", "crop by slices instead")
    return Step("pointwise")


@_handles("cat")
def _cat(call: Call) -> Step:
    if call.arguments.get("dim", 0) % call.output.dim() != 1:
        raise Breaking(
            "it joins tensors along space or batch, which is not analysed",
            "join along channels only",
        )
    return Step("concat")


@_handles("view", "_unsafe_view", "expand", "reshape", "permute")
def _layout(call: Call) -> Step:
    same = call.output.shape == call.derived[0].shape
    dims = call.arguments.get("dims")
    if not same or (dims is not None and list(dims) != sorted(dims)):
        raise Breaking(
            "it changes the layout of the tensor, which is not analysed",
            "keep (batch, channels, *space) throughout",
        )
    return Step("pointwise")


@_handles("_softmax", "_log_softmax", "mean", "sum", "amax", "amin", "cumsum", "max", "min", "glu")
def _over_channels(call: Call) -> Step:
    dims = call.arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    rank = call.derived[0].dim()
    if not dims or {d % rank for d in dims} - {1}:
        raise Breaking(
            "it mixes the whole of space (a reduction or normalisation over space)",
            "replace it by an operator with a bounded window, or reduce over channels only",
        )
    if call.output.dim() != rank:
        raise Breaking("it drops the channel axis, which is not analysed", "use keepdim=True")
    return Step("pointwise")


@_handles(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update",
)  # fmt: skip
def _batch_norm(call: Call) -> Step:
    trained = call.arguments.get("running_mean") is None or call.arguments.get("training", False)
    if trained and "running_mean" in call.arguments:
        name = type(call.layer).__name__
        what = "instance normalisation" if "Instance" in name else "normalisation"
        raise Breaking(
            f"{what} takes its statistics from the whole input, so each tile would have its own",
            "use batch normalisation with stored statistics, or no normalisation",
            keeps_shape=True,
        )
    return Step("pointwise")


@_handles("native_group_norm")
def _group_norm(call: Call) -> Step:
    raise Breaking(
        "group normalisation takes its statistics from the whole input, so each tile would have "
        "its own",
        "use batch normalisation with stored statistics, or no normalisation",
        keeps_shape=True,
    )


@_handles("native_layer_norm")
def _layer_norm(call: Call) -> Step:
    raise Breaking(
        "layer normalisation over space takes its statistics from the whole row",
        "normalise over channels only",
        keeps_shape=True,
    )


@_handles("roll", "flip")
def _moves(call: Call) -> Step:
    raise Breaking(
        "it moves voxels across the whole input (a roll or flip)", "leave it out of the network"
    )


@_handles(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"
)
def _adaptive(call: Call) -> Step:
    raise Breaking(
        "adaptive pooling makes its windows depend on the size of the input",
        "use pooling with a fixed kernel",
    )


@_handles("mm", "bmm", "addmm", "matmul", "_scaled_dot_product_flash_attention_for_cpu")
def _matrix(call: Call) -> Step:
    raise Breaking(
        "a matrix product or attention over space mixes the whole input",
        "use a convolution with kernel 1 along channels",
    )


@_handles("upsample_bilinear2d", "upsample_trilinear3d", "upsample_linear1d", "upsample_bicubic2d")
def _linear_resize(call: Call) -> Step:
    if call.arguments.get("align_corners"):
        raise Breaking(
            "align_corners makes the sampling depend on the size of the input",
            "use nearest resizing by a whole factor and a convolution",
        )
    raise Breaking(
        "linear and cubic resizing are not analysed",
        "use nearest resizing by a whole factor and a convolution",
    )


@_handles("copy_")
def _copy(call: Call) -> Step:
    raise Breaking(
        "it writes into part of a tensor (as circular padding does), which is not analysed",
        "use zero, reflection or replication padding, and build tensors with cat",
    )


@_handles(
    "clone", "_to_copy", "detach", "alias", "_prelu_kernel", "hardswish", "hardswish_",
    "lift_fresh", "log_sigmoid_forward", "rsub", "masked_fill", "where",
)  # fmt: skip
def pointwise(call: Call) -> Step:
    return Step("pointwise")
