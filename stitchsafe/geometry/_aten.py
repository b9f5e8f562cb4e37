"""ATen operators that act place by place, through windows, or on the layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stitchsafe.geometry._aten_call import Call, Handlers, without
from stitchsafe.geometry._graph import AxisStep, Kind
from stitchsafe.geometry._layout import Breaking, Value
from stitchsafe.geometry._windows import (
    SizeRefusal,
    linear_resize,
    nearest_resize,
    padding,
    strided,
    transposed,
    window,
)

__all__ = ["LOCAL", "pointwise"]

LOCAL = Handlers()
"""Operators that act place by place, through windows, or on the layout."""


def pointwise(call: Call) -> Value:
    """Elements of the same place combined."""
    made = call.flow.pointwise(list(call.values.values()), call.shape)
    return call.constant(made, call.given)


LOCAL.of(
    "clone", "_to_copy", "detach", "alias", "_prelu_kernel", "hardswish", "hardswish_",
    "lift_fresh", "log_sigmoid_forward", "rsub", "masked_fill", "where", "expand", "to",
)(pointwise)  # fmt: skip


# windows


@LOCAL.of("convolution")
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


@LOCAL.of(
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


@LOCAL.of("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(call: Call) -> Value:
    return _resized(call, nearest_resize)


@LOCAL.of("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def _nearest_exact(call: Call) -> Value:
    return _resized(call, lambda size, out, scale: nearest_resize(size, out, scale, centred=True))


@LOCAL.of("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _linear(call: Call) -> Value:
    if call.arguments.get("align_corners"):
        raise Breaking(
            "align_corners makes the sampling depend on the size of the input",
            "use align_corners=False with a factor of 2, or nearest resizing",
            keeps=_resized(call, linear_resize),
        )
    return _resized(call, linear_resize)


@LOCAL.of("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Value:
    flow, value, r = call.flow, call.only, call.arguments["upscale_factor"]
    *batch, channels, height, width = value.shape
    n = len(batch)
    value = flow.view(value, (*batch, channels // r**2, r, r, height, width))
    value = flow.permute(value, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return flow.settled(flow.view(value, call.shape))


@LOCAL.of("pixel_unshuffle")
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
    made = call.flow.local("pad", value, steps, call.shape)
    among = {d: step.taps for d, step in steps.items() if not value.space([d])}
    if among:  # channels, whose number might follow the size of the input
        call.flow.nodes[made.index] = replace(call.flow.nodes[made.index], constants=repr(among))
    return made


@LOCAL.of("constant_pad_nd")
def _constant_pad(call: Call) -> Value:
    return _padded(call, list(call.arguments["pad"]), None)


@LOCAL.of("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(call: Call) -> Value:
    return _padded(call, list(call.arguments["padding"]), 1)


@LOCAL.of("replication_pad1d", "replication_pad2d", "replication_pad3d")
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


@LOCAL.of("slice")
def _slice(call: Call) -> Value:
    a, d = call.arguments, call.dimension()
    start, _, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(
        call.first.shape[d]
    )
    return _cut(call, d, start, step, call.shape)


@LOCAL.of("split", "split_with_sizes")
def _split(call: Call) -> list[Value]:
    d, found, start = call.dimension(), [], 0
    for result in call.results:
        found.append(_cut(call, d, start, 1, tuple(result.shape)))
        start += result.shape[d]
    return found


@LOCAL.of("select")
def _select(call: Call) -> Value:
    return _taken(call, call.dimension(), int(call.arguments["index"]))


@LOCAL.of("unbind")
def _unbind(call: Call) -> list[Value]:
    return [_taken(call, call.dimension(), place) for place in range(len(call.results))]


def _taken(call: Call, d: int, place: int) -> Value:
    flow = call.flow
    value = flow.mix(
        call.first, [d], "it takes one position out of the whole of space",
        "index along channels only", drop=True,
    )  # fmt: skip
    made = without(flow, value, [d])
    flow.nodes[made.index] = replace(flow.nodes[made.index], constants=f"at {place}")
    return made


@LOCAL.of("cat")
def _cat(call: Call) -> Value:
    made = call.flow.concat(list(call.values.values()), call.dimension(), call.shape)
    return call.constant(made, call.given)


@LOCAL.of("stack")
def _stack(call: Call) -> Value:
    flow, rank = call.flow, len(call.shape)
    d = int(call.arguments.get("dim", 0)) % rank
    opened = [flow.permute(v, [*range(d), None, *range(d, v.rank)]) for v in call.values.values()]
    return call.constant(flow.concat(opened, d, call.shape), call.given)


# layout


@LOCAL.of("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(call: Call) -> Value:
    return call.flow.view(call.only, call.shape)


@LOCAL.of("permute")
def _permute(call: Call) -> Value:
    rank = call.only.rank
    return call.flow.permute(call.only, [d % rank for d in call.arguments["dims"]])


@LOCAL.of("transpose", "t", "swapaxes")
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


@LOCAL.of("unsqueeze")
def _unsqueeze(call: Call) -> Value:
    value = call.only
    d = call.arguments["dim"] % (value.rank + 1)
    return call.flow.permute(value, [*range(d), None, *range(d, value.rank)])


@LOCAL.of("squeeze")
def _squeeze(call: Call) -> Value:
    value = call.only
    gone = [d for d in call.dimensions() if value.shape[d] == 1]
    if value.space(gone):
        raise SizeRefusal("a squeeze takes away an axis that is one element long")
    return call.flow.permute(value, [d for d in range(value.rank) if d not in gone])


@LOCAL.of("repeat")
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
