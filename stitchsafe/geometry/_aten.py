"""What each ATen operator does, told to a :class:`~stitchsafe.geometry._flow.Flow`.

A handler takes the call and returns the value of its result (or one per result), or raises
:class:`Breaking` (never exact) or :class:`SizeRefusal` (not at this size). What has no handler is
refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stitchsafe.geometry._flow import Breaking, Flow, Value
from stitchsafe.geometry._graph import AxisStep, Kind
from stitchsafe.geometry._windows import (
    SizeRefusal,
    linear_resize,
    nearest_resize,
    padding,
    strided,
    transposed,
    window,
)

__all__ = ["HANDLERS", "REDUCTIONS", "SIZED", "Call", "SizeRefusal", "cost", "pointwise"]

Result = Value | list[Value]


@dataclass(frozen=True)
class Call:
    """One ATen call, its arguments by name, after it ran.

    Parameters
    ----------
    flow
        Where to write.
    name
        Of the operator, without overload.
    arguments
        By name, defaults filled in.
    values
        Of the arguments that depend on the input, by identity of the tensor, in order.
    results
        What it returned.
    layer
        The module that called it.
    given
        All tensors among its arguments.
    constant
        Admits tensors that are constants to a value: that value, or one told apart by its place.
    """

    flow: Flow
    name: str
    arguments: Mapping[str, Any]
    values: Mapping[int, Value]
    results: Sequence[torch.Tensor]
    layer: torch.nn.Module
    given: Sequence[torch.Tensor]
    constant: Callable[[Value, Sequence[torch.Tensor]], Value]

    @property
    def first(self) -> Value:
        """The first argument that depends on the input."""
        return next(iter(self.values.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.results[0].shape)

    def value(self, name: str) -> Value | None:
        """The value of an argument, None where it is a constant."""
        return self.values.get(id(self.arguments.get(name)))

    @property
    def only(self) -> Value:
        """The value of the main argument, where no other depends on the input."""
        main = self.value("input") or self.value("self")
        if main is None or len(self.values) > 1:
            raise Breaking(
                "its weights depend on the input", "use weights that are parameters of the network"
            )
        return main

    def dimension(self, name: str = "dim", default: int = 0) -> int:
        return int(self.arguments.get(name, default)) % max(1, self.first.rank)

    def dimensions(self, name: str = "dim") -> list[int]:
        """Those named, all where none is."""
        given = self.arguments.get(name)
        given = [given] if isinstance(given, int) else given
        rank = self.first.rank
        return sorted(d % rank for d in given) if given else list(range(rank))

    def ints(self, name: str, count: int, default: int) -> tuple[int, ...]:
        given = self.arguments.get(name)
        if given is None or given == []:
            return (default,) * count
        if isinstance(given, int):
            return (given,) * count
        return tuple(given) * (count if len(given) == 1 else 1)


Handler = Callable[[Call], Result]
HANDLERS: dict[str, Handler] = {}

REDUCTIONS = (
    "mean", "sum", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "prod", "norm",
    "linalg_vector_norm", "logsumexp", "any", "all", "var_mean", "std_mean", "median", "nansum",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip
"""Operators that make one element of several."""

SIZED = {
    "native_group_norm", "native_layer_norm", "slice", "select", "split", "split_with_sizes",
    "unbind", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "permute", "transpose",
    "repeat", "squeeze", "unsqueeze", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d",
}  # fmt: skip
"""Operators whose numbers follow the input's size; the lattice map speaks for them."""


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def pointwise(call: Call) -> Value:
    """Elements of the same place combined."""
    made = call.flow.pointwise(list(call.values.values()), call.shape)
    return call.constant(made, call.given)


_handles(
    "clone", "_to_copy", "detach", "alias", "_prelu_kernel", "hardswish", "hardswish_",
    "lift_fresh", "log_sigmoid_forward", "rsub", "masked_fill", "where", "expand", "to",
)(pointwise)  # fmt: skip


def cost(name: str, arguments: Mapping[str, Any], output: torch.Tensor) -> tuple[int, int]:
    """Floating-point operations of a call, and elements of its workspace."""
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left = next(arguments[key] for key in ("mat1", "batch1", "self") if key in arguments)
        return 2 * output.numel() * left.shape[-1], 0
    if name != "convolution":
        return 0, 0
    weight = arguments["weight"]
    flops = 2 * math.prod(weight.shape[2:]) * weight.shape[1]
    if arguments["transposed"]:
        return flops * arguments["input"].numel(), 0
    return flops * output.numel(), _columns(output, weight.shape[1], tuple(weight.shape[2:]))


def _columns(output: torch.Tensor, channels: int, kernel: tuple[int, ...]) -> int:
    """Elements that torch's own convolution on the CPU unfolds its input into.

    The fast kernels, which unfold nothing, take float32 in two dimensions, and in three with more
    than two channels (measured, torch 2.13).
    """
    if output.dtype == torch.float32 and (len(kernel) == 2 or channels > 2):
        return 0
    return channels * math.prod(kernel) * math.prod(output.shape[2:])


# windows


@_handles("convolution")
def _convolution(call: Call) -> Value:
    value, weight = call.only, call.arguments["weight"]
    kernel = tuple(weight.shape[2:])
    n = len(kernel)
    stride, pad, dilation = (
        call.ints("stride", n, 1), call.ints("padding", n, 0), call.ints("dilation", n, 1),
    )  # fmt: skip
    steps = {}
    for axis, (k, s, p, d) in enumerate(zip(kernel, stride, pad, dilation, strict=True)):
        size, out = value.shape[2 + axis], call.shape[2 + axis]
        steps[2 + axis] = (
            transposed(out, k, s, p, d)
            if call.arguments["transposed"]
            else strided(size, out, k, s, p, d)
        )
    kind: Kind = "transposed conv" if call.arguments["transposed"] else "conv"
    return call.flow.local(kind, value, steps, call.shape, mixes=[1])


@_handles(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"
)
def _pool(call: Call) -> Value:
    value, n = call.only, int(call.name[call.name.index("d") - 1])
    kernel = call.ints("kernel_size", n, 1)
    stride = call.ints("stride", n, 1) if call.arguments.get("stride") else kernel
    pad, dilation = call.ints("padding", n, 0), call.ints("dilation", n, 1)
    at = range(value.rank - n, value.rank)
    steps = {
        d: strided(value.shape[d], call.shape[d], *numbers)
        for d, *numbers in zip(at, kernel, stride, pad, dilation, strict=True)
    }
    return call.flow.local("pool", value, steps, call.shape)


def _scales(call: Call, n: int) -> list[float | None]:
    names = ("scales",) if n == 1 else ("scales_d", "scales_h", "scales_w")[-n:]
    return [call.arguments.get(name) for name in names]


def _resized(call: Call, step: Callable[[int, int, float | None], AxisStep]) -> Value:
    value = call.only
    n = int(call.name[-2])
    at = range(value.rank - n, value.rank)
    steps = {
        d: step(value.shape[d], call.shape[d], scale)
        for d, scale in zip(at, _scales(call, n), strict=True)
    }
    return call.flow.local("resize", value, steps, call.shape)


@_handles("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(call: Call) -> Value:
    return _resized(call, nearest_resize)


@_handles("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def _nearest_exact(call: Call) -> Value:
    return _resized(call, lambda size, out, scale: nearest_resize(size, out, scale, centred=True))


@_handles("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _linear(call: Call) -> Value:
    if call.arguments.get("align_corners"):
        raise Breaking(
            "align_corners makes the sampling depend on the size of the input",
            "use align_corners=False with a factor of 2, or nearest resizing",
            keeps=_resized(call, linear_resize),
        )
    return _resized(call, linear_resize)


@_handles("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Value:
    flow, value, r = call.flow, call.only, call.arguments["upscale_factor"]
    *batch, channels, height, width = value.shape
    n = len(batch)
    value = flow.view(value, (*batch, channels // r**2, r, r, height, width))
    value = flow.permute(value, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return flow.settled(flow.view(value, call.shape))


@_handles("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Value:
    flow, value, r = call.flow, call.only, call.arguments["downscale_factor"]
    *batch, channels, height, width = value.shape
    n = len(batch)
    value = flow.view(value, (*batch, channels, height // r, r, width // r, r))
    value = flow.permute(value, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return flow.view(value, call.shape)


# ends


def _padded(call: Call, pad: Sequence[int], depth: int | None) -> Value:
    value = call.only
    steps = {}
    for place in range(len(pad) // 2):
        d = value.rank - 1 - place
        before, after = pad[2 * place], pad[2 * place + 1]
        if before or after:
            steps[d] = padding(value.shape[d], call.shape[d], before, after, depth)
    return call.flow.local("pad", value, steps, call.shape)


@_handles("constant_pad_nd")
def _constant_pad(call: Call) -> Value:
    return _padded(call, list(call.arguments["pad"]), None)


@_handles("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(call: Call) -> Value:
    return _padded(call, list(call.arguments["padding"]), 1)


@_handles("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(call: Call) -> Value:
    return _padded(call, list(call.arguments["padding"]), 0)


def _cut(call: Call, d: int, start: int, step: int, shape: Sequence[int]) -> Value:
    value, flow = call.first, call.flow
    steps = {d: AxisStep(window(1, step, -start), shape[d])}
    if value.space([d]):
        return flow.local("crop", value, steps, shape)
    # Which channels are taken could follow the size of the input, and no map would tell.
    made = flow.local("view", value, steps, shape)
    flow.nodes[made.index] = replace(flow.nodes[made.index], constants=f"from {start} by {step}")
    return made


@_handles("slice")
def _slice(call: Call) -> Value:
    a, d = call.arguments, call.dimension()
    start, _, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(
        call.first.shape[d]
    )
    return _cut(call, d, start, step, call.shape)


@_handles("split", "split_with_sizes")
def _split(call: Call) -> list[Value]:
    d, found, start = call.dimension(), [], 0
    for result in call.results:
        found.append(_cut(call, d, start, 1, tuple(result.shape)))
        start += result.shape[d]
    return found


@_handles("select", "unbind")
def _select(call: Call) -> Value:
    d = call.dimension()
    value = call.flow.mix(
        call.first, [d], "it takes one position out of the whole of space",
        "index along channels only", drop=True,
    )  # fmt: skip
    made = _without(call.flow, value, [d])
    place = f"at {call.arguments.get('index', 'each')}"
    call.flow.nodes[made.index] = replace(call.flow.nodes[made.index], constants=place)
    return made


def _without(flow: Flow, value: Value, dimensions: Sequence[int]) -> Value:
    cleared = tuple(() if d in dimensions else f for d, f in enumerate(value.layout))
    return flow.permute(
        Value(value.index, cleared), [d for d in range(value.rank) if d not in dimensions]
    )


@_handles("cat")
def _cat(call: Call) -> Value:
    made = call.flow.concat(list(call.values.values()), call.dimension(), call.shape)
    return call.constant(made, call.given)


@_handles("stack")
def _stack(call: Call) -> Value:
    flow, rank = call.flow, len(call.shape)
    d = int(call.arguments.get("dim", 0)) % rank
    opened = [flow.permute(v, [*range(d), None, *range(d, v.rank)]) for v in call.values.values()]
    return call.constant(flow.concat(opened, d, call.shape), call.given)


# layout


@_handles("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(call: Call) -> Value:
    return call.flow.view(call.only, call.shape)


@_handles("permute")
def _permute(call: Call) -> Value:
    rank = call.only.rank
    return call.flow.permute(call.only, [d % rank for d in call.arguments["dims"]])


@_handles("transpose", "t", "swapaxes")
def _transpose(call: Call) -> Value:
    value = call.only
    order = list(range(value.rank))
    first, second = (
        (0, value.rank - 1)
        if call.name == "t"
        else (call.arguments["dim0"] % value.rank, call.arguments["dim1"] % value.rank)
    )
    order[first], order[second] = order[second], order[first]
    return call.flow.permute(value, order)


@_handles("unsqueeze")
def _unsqueeze(call: Call) -> Value:
    value = call.only
    d = call.arguments["dim"] % (value.rank + 1)
    return call.flow.permute(value, [*range(d), None, *range(d, value.rank)])


@_handles("squeeze")
def _squeeze(call: Call) -> Value:
    value = call.only
    gone = [d for d in call.dimensions() if value.shape[d] == 1]
    if value.space(gone):
        raise SizeRefusal("a squeeze takes away an axis that is one element long")
    return call.flow.permute(value, [d for d in range(value.rank) if d not in gone])


@_handles("repeat")
def _repeat(call: Call) -> Value:
    value, repeats = call.only, list(call.arguments["repeats"])
    value = call.flow.permute(value, [*[None] * (len(repeats) - value.rank), *range(value.rank)])
    for d, count in enumerate(repeats):
        if count != 1 and value.space([d]):
            raise Breaking(
                "it repeats the whole of space", "repeat along channels, or resize by a factor"
            )
    layout = Value(
        value.index,
        tuple(f if count == 1 else () for f, count in zip(value.layout, repeats, strict=True)),
    )
    return call.flow.pointwise([layout], call.shape)


# what mixes


_GLOBAL = "it mixes the whole of space (global pooling, or another reduction over space)"
_BOUNDED = "use a pooling with a bounded window, or reduce over channels only"


@_handles(*REDUCTIONS)
def _reduction(call: Call) -> Value:
    dimensions = call.dimensions()
    value = call.flow.mix(call.first, dimensions, _GLOBAL, _BOUNDED, drop=True)
    return value if len(call.shape) == value.rank else _without(call.flow, value, dimensions)


@_handles(
    "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort",
    "topk", "_weight_norm_interface",
)  # fmt: skip
def _along(call: Call) -> Value:
    what = "a softmax mixes the whole of space" if "softmax" in call.name else _GLOBAL
    dimensions = [call.dimension(default=-1)]
    value = call.flow.mix(call.first, dimensions, what, "take it over channels only")
    if value.shape == call.shape:
        return call.flow.keep(value)
    value = call.flow.mix(value, dimensions, what, _BOUNDED, drop=True)
    return call.flow.pointwise([value], call.shape)


@_handles("glu")
def _glu(call: Call) -> Value:
    d = call.dimension(default=-1)
    value = call.flow.mix(call.only, [d], _GLOBAL, "take it over channels", drop=True)
    return call.flow.pointwise([value], call.shape)


@_handles(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
)  # fmt: skip
def _batch_norm(call: Call) -> Value:
    a, value = call.arguments, call.first
    live = a.get("training", False) or a.get("running_mean") is None
    if live and call.name != "_native_batch_norm_legit_no_training":
        kind = type(call.layer).__name__
        what = (
            "instance normalisation"
            if "Instance" in kind
            else "batch normalisation without stored statistics"
        )
        return _normalised(call, [d for d in range(value.rank) if d != 1], what)
    if value.space([1]):
        raise Breaking(
            "it normalises each place by statistics of its own", "normalise channels", keeps=value
        )
    return call.flow.keep(value)


def _normalised(call: Call, dimensions: Sequence[int], what: str) -> Value:
    value = call.flow.mix(
        call.first, dimensions,
        f"{what} takes its statistics from the whole input, so each tile would have its own",
        "use batch normalisation with stored statistics, or no normalisation",
    )  # fmt: skip
    return call.flow.keep(value)


@_handles("native_group_norm")
def _group_norm(call: Call) -> Value:
    return _normalised(call, range(1, call.first.rank), "group normalisation")


@_handles("native_layer_norm", "_fused_rms_norm")
def _layer_norm(call: Call) -> Value:
    count = len(call.arguments["normalized_shape"])
    dimensions = range(call.first.rank - count, call.first.rank)
    return _normalised(call, dimensions, "layer normalisation over space")


@_handles("roll", "flip")
def _moves(call: Call) -> Value:
    value = call.only
    value = call.flow.mix(
        value, call.dimensions("dims"),
        "it moves voxels across the whole input (a roll or flip)", "leave it out of the network",
    )  # fmt: skip
    return call.flow.keep(value)


@_handles(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"
)
def _adaptive(call: Call) -> Value:
    what = "adaptive pooling makes its windows depend on the size of the input"
    if all(size == 1 for size in call.shape[2:]):
        what = _GLOBAL
    raise Breaking(what, "use pooling with a fixed kernel")


@_handles("mm", "bmm", "addmm", "baddbmm")
def _matrix(call: Call) -> Value:
    names = {
        "mm": ("self", "mat2"), "bmm": ("self", "mat2"),
        "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
    }[call.name]  # fmt: skip
    left, right = (call.value(name) for name in names)
    added = call.value("self") if call.name in ("addmm", "baddbmm") else None
    if left is None and right is None:
        raise Breaking("it adds to a product of constants", "use plain addition")
    made = call.flow.matmul(left, right, call.shape)
    if call.name in ("mm", "bmm"):
        return made
    bias = call.arguments["self"]
    return call.flow.pointwise([made, added], call.shape) if added else call.constant(made, [bias])


@_handles(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attention(call: Call) -> Value:
    flow = call.flow
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    tokens = call.arguments["key"].shape[-2]
    if key is not None:
        key = flow.permute(key, [*range(key.rank - 2), key.rank - 1, key.rank - 2])
    scores = flow.matmul(query, key, (*call.shape[:-1], tokens)) if query or key else None
    return flow.matmul(scores, value, call.shape)


@_handles("grid_sampler_2d", "grid_sampler_3d", "affine_grid_generator")
def _sampling(call: Call) -> Value:
    raise Breaking(
        "it samples at positions given relative to the whole input (grid_sample)",
        "resize by a whole factor, and convolve",
    )


@_handles("copy_", "index_put_", "_index_put_impl_", "slice_scatter", "select_scatter")
def _copy(call: Call) -> Value:
    raise Breaking(
        "it writes into part of a tensor (as circular padding does), which is not analysed",
        "use zero, reflection or replication padding, and build tensors with cat",
    )


@_handles("index_select", "index")
def _index(call: Call) -> Value:
    if call.name == "index_select":
        d = call.dimension()
    else:
        at = [d for d, each in enumerate(call.arguments["indices"]) if each is not None]
        d = at[0] if len(at) == 1 and call.arguments["indices"][at[0]].dim() == 1 else -1
    if d < 0 or len(call.values) > 1:
        raise Breaking("it indexes by several tensors: not analysed", "index along channels only")
    value = call.flow.mix(
        call.first, [d], "it takes positions out of the whole of space",
        "index along channels only", drop=True,
    )  # fmt: skip
    return call.flow.pointwise([value], call.shape)
