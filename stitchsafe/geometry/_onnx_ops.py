"""What each ONNX operator does, told to a :class:`~stitchsafe.geometry._flow.Flow`.

A handler takes the call and returns the value of its result (or one per result), or raises
:class:`Breaking` (never exact) or :class:`SizeRefusal` (not at this size). What has no handler is
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry._axis import Taps
from stitchsafe.geometry._graph import AxisStep
from stitchsafe.geometry._layout import Breaking, Value
from stitchsafe.geometry._onnx_call import Call, Known, Operand
from stitchsafe.geometry._onnx_windows import (
    convolution,
    pad,
    pool,
    resize,
    slices,
    split,
    transposed_convolution,
)
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["HANDLERS", "RANDOM", "REDUCTIONS", "UNSAFE"]

Result = Value | list[Operand | None]
Handler = Callable[[Call], Result]
HANDLERS: dict[str, Handler] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": pool,
    "Resize": resize,
    "Upsample": resize,
    "Pad": pad,
    "Slice": slices,
    "Split": split,  # type: ignore[dict-item]
}

RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli",
}  # fmt: skip

REDUCTIONS = {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool", "ArgMax", "ArgMin",
}  # fmt: skip
"""Operators that make one element of several."""

_FLOW = "keep data-dependent control flow out of the network"
_SAMPLES = (
    "it samples at positions given relative to the whole input",
    "resize by a whole factor, and convolve",
)
_CONTROL = ("control flow within the graph: not analysed", _FLOW)
_PICKS = ("what it returns depends on data of the whole input: not analysed", _FLOW)

UNSAFE: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("Loop", "If", "Scan"), _CONTROL),
    **dict.fromkeys(("GridSample", "AffineGrid", "DeformConv", "RoiAlign", "MaxRoiPool"), _SAMPLES),
    **dict.fromkeys(("NonMaxSuppression", "NonZero", "Unique", "Compress"), _PICKS),
    "MaxUnpool": ("it writes to places that data name: not analysed", _FLOW),
    **dict.fromkeys(
        ("LSTM", "GRU", "RNN"),
        ("a recurrence runs over the whole of an axis", "use convolutions with a bounded window"),
    ),
    **dict.fromkeys(
        ("Attention", "RotaryEmbedding"),
        (
            "attention over space mixes the whole input: not analysed",
            "use attention within windows of fixed size, or convolutions",
        ),
    ),
}
"""Operators with a reason of their own, beyond not being analysed."""


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


# elements


@_handles(
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg",
    "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
def _pointwise(call: Call) -> Value:
    if call.attribute("broadcast") or call.opset < 7:
        raise Breaking("the broadcasting of old operator sets is not analysed", "export it anew")
    made = call.flow.pointwise(call.values, call.shape)
    return call.admitted(made, skip=(1,) if call.node.op_type == "Expand" else ())


@_handles("Dropout")
def _dropout(call: Call) -> Value:
    training = call.operand(2)
    if training is not None and any(call.numbers(2) or [True]):
        raise Breaking("dropout in training mode is random", "export the network for inference")
    return call.flow.pointwise([call.only], call.shape)


@_handles("QuantizeLinear", "DequantizeLinear")
def _quantize(call: Call) -> Value:
    if call.attribute("block_size", 0):
        raise Breaking("quantisation in blocks is not analysed", "quantise by tensor or channel")
    value = call.flow.pointwise([call.only], call.shape)
    for place in (1, 2):
        value = call.along(value, place, call.axis(1))
    return value


@_handles("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    if call.attribute("training_mode", 0) or not call.attribute("spatial", 1) or call.opset < 7:
        return _normalised(call, "batch normalisation in training mode")
    value = call.flow.keep(call.only)
    for place in range(1, 5):
        value = call.along(value, place)
    return value


# layout


@_handles("Reshape", "Flatten")
def _view(call: Call) -> Value:
    call.numbers(1)
    return call.flow.view(call.only, call.shape)


@_handles("Transpose")
def _transpose(call: Call) -> Value:
    rank = call.only.rank
    return call.flow.permute(call.only, call.ints("perm", 0, 0) or list(range(rank))[::-1])


@_handles("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    rank = len(call.shape)
    new = {int(a) % rank for a in call.numbers(1, "axes") or ()}
    left = iter(range(rank - len(new)))
    return call.flow.permute(call.only, [None if d in new else next(left) for d in range(rank)])


@_handles("Squeeze")
def _squeeze(call: Call) -> Value:
    value = call.only
    axes = call.numbers(1, "axes")
    gone = (
        [d for d, size in enumerate(value.shape) if size == 1]
        if axes is None
        else [int(a) % value.rank for a in axes]
    )
    return _without(call, value, gone)


def _without(call: Call, value: Value, gone: Sequence[int]) -> Value:
    if value.space(gone):
        raise SizeRefusal("it takes away an axis that is one element long")
    return call.flow.permute(value, [d for d in range(value.rank) if d not in gone])


@_handles("Tile")
def _tile(call: Call) -> Value:
    value, repeats = call.only, call.numbers(1) or []
    for d, count in enumerate(repeats):
        if count != 1 and value.space([d]):
            raise Breaking(
                "it repeats the whole of space", "repeat along channels, or resize by a factor"
            )
    cleared = tuple(f if n == 1 else () for f, n in zip(value.layout, repeats, strict=True))
    return call.flow.pointwise([Value(value.index, cleared)], call.shape)


@_handles("Concat")
def _concat(call: Call) -> Value:
    d = call.axis(0)
    return call.admitted(call.flow.concat(call.values, d, call.shape))


@_handles("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    flow, value, r = call.flow, call.only, call.attribute("blocksize")
    batch, channels, height, width = value.shape
    if call.attribute("mode", "DCR") == "DCR":
        value = flow.view(value, (batch, r, r, channels // r**2, height, width))
        value = flow.permute(value, (0, 3, 4, 1, 5, 2))
    else:
        value = flow.view(value, (batch, channels // r**2, r, r, height, width))
        value = flow.permute(value, (0, 1, 4, 2, 5, 3))
    return flow.settled(flow.view(value, call.shape))


@_handles("SpaceToDepth")
def _space_to_depth(call: Call) -> Value:
    flow, value, r = call.flow, call.only, call.attribute("blocksize")
    batch, channels, height, width = value.shape
    if height % r or width % r:
        raise SizeRefusal(f"{height} by {width} elements are no whole blocks of {r}")
    value = flow.view(value, (batch, channels, height // r, r, width // r, r))
    value = flow.permute(value, (0, 3, 5, 1, 2, 4))
    return flow.view(value, call.shape)


@_handles("Gather")
def _gather(call: Call) -> Value:
    flow, table, index = call.flow, call.operands[0], call.operands[1]
    d = call.axis(0)
    if isinstance(index, Value):
        if not isinstance(table, Known) or d:
            raise Breaking("it reads places that data name: not analysed", _FLOW)
        opened = flow.permute(index, [*range(index.rank), *[None] * (len(table.shape) - 1)])
        return flow.pointwise([opened], call.shape)
    value = call.only
    assert isinstance(index, Known)
    picked = index.array.astype(np.int64)
    if value.space([d]) and picked.ndim == 1:
        return _picked(call, value, d, picked % value.shape[d])
    value = flow.mix(
        value, [d], "it takes positions out of the whole of space", "index along channels only",
        drop=True,
    )  # fmt: skip
    order = [*range(d), *[None] * picked.ndim, *range(d + 1, value.rank)]
    return flow.pointwise([flow.permute(value, order)], call.shape)


def _picked(call: Call, value: Value, d: int, places: NDArray[np.int64]) -> Value:
    """Places along space that follow each other at equal steps: a slice."""
    steps = np.unique(np.diff(places)) if len(places) > 1 else np.array([1])
    if len(steps) > 1 or steps[0] < 1:
        raise Breaking(
            "it takes single positions out of the whole of space", "index along channels only"
        )
    step = AxisStep(Taps.window(1, int(steps[0]), -int(places[0])), len(places))
    return call.flow.local("crop", value, {d: step}, call.shape)


@_handles("OneHot")
def _one_hot(call: Call) -> Value:
    value, rank = call.only, len(call.shape)
    call.numbers(1)
    d = int(call.attribute("axis", -1)) % rank
    opened = call.flow.permute(value, [*range(d), None, *range(d, value.rank)])
    return call.flow.pointwise([opened], call.shape)


# what mixes

_GLOBAL = "it mixes the whole of space (global pooling, or another reduction over space)"
_BOUNDED = "use a pooling with a bounded window, or reduce over channels only"


@_handles("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global(call: Call) -> Value:
    dimensions = list(range(2, call.only.rank))
    return call.flow.mix(call.only, dimensions, _GLOBAL, _BOUNDED, drop=True)


@_handles(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
def _reduction(call: Call) -> Value:
    axes = call.numbers(1, "axes")
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return call.flow.pointwise([call.only], call.shape)
    return _reduced(call, [int(a) for a in axes] if axes else None)


@_handles("ArgMax", "ArgMin")
def _extreme(call: Call) -> Value:
    return _reduced(call, [int(call.attribute("axis", 0))])


def _reduced(call: Call, axes: Sequence[int] | None) -> Value:
    value = call.only
    dims = list(range(value.rank)) if axes is None else [a % value.rank for a in axes]
    value = call.flow.mix(value, dims, _GLOBAL, _BOUNDED, drop=True)
    # What is left of channels is one element.
    if call.attribute("keepdims", 1):
        return value
    return call.flow.permute(value, [d for d in range(value.rank) if d not in dims])


@_handles("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Value:
    axis = call.axis(-1 if call.opset >= 13 else 1)
    # Before opset 13 all that stands behind the axis was taken together.
    dims = [axis] if call.opset >= 13 else list(range(axis, call.only.rank))
    what, fix = "a softmax mixes the whole of space", "take it over channels only"
    return call.flow.keep(call.flow.mix(call.only, dims, what, fix))


@_handles("LpNormalization")
def _lp_norm(call: Call) -> Value:
    return _mixed(call, [call.axis(-1)], "normalisation along an axis of space")


@_handles("LRN")
def _lrn(call: Call) -> Value:
    return _mixed(call, [1], "normalisation along an axis of space")


@_handles("LayerNormalization", "RMSNormalization")
def _layer_norm(call: Call) -> Value:
    dims = list(range(call.axis(-1), call.only.rank))
    value = _mixed(call, dims, "layer normalisation over space")
    return call.admitted(value)


@_handles("InstanceNormalization")
def _instance_norm(call: Call) -> Value:
    return _normalised(call, "instance normalisation")


@_handles("GroupNormalization")
def _group_norm(call: Call) -> Value:
    return _normalised(call, "group normalisation", first=1)


@_handles("MeanVarianceNormalization")
def _variance_norm(call: Call) -> Value:
    axes = call.ints("axes", 0, 0) or [0, 2, 3]
    return _mixed(call, [a % call.only.rank for a in axes], "normalisation by mean and variance")


def _normalised(call: Call, what: str, first: int = 2) -> Value:
    value = _mixed(call, list(range(first, call.only.rank)), what)
    for place in range(1, len(call.operands)):
        value = call.along(value, place)
    return value


def _mixed(call: Call, dimensions: Sequence[int], what: str) -> Value:
    value = call.flow.mix(
        call.only, dimensions,
        f"{what} takes its statistics from the whole input, so each tile would have its own",
        "use batch normalisation with stored statistics, or no normalisation",
    )  # fmt: skip
    return call.flow.keep(value)


@_handles("CumSum", "CumProd")
def _cumulative(call: Call) -> Value:
    numbers = call.numbers(1) or [0]
    dims = [int(numbers[0]) % call.only.rank]
    return call.flow.keep(call.flow.mix(call.only, dims, _GLOBAL, _BOUNDED))


@_handles("TopK")
def _top(call: Call) -> Result:
    call.numbers(1, "")
    value = call.flow.mix(call.only, [call.axis(-1)], _GLOBAL, _BOUNDED, drop=True)
    return [call.flow.pointwise([value], call.result(place)) for place in (0, 1)]


@_handles("MatMul")
def _matmul(call: Call) -> Value:
    left, right = call.operands[0], call.operands[1]
    if min(len(each.shape) for each in (left, right) if each is not None) < 2:
        raise Breaking("a product with a vector is not analysed", "use a convolution")
    value = call.flow.matmul(
        left if isinstance(left, Value) else None,
        right if isinstance(right, Value) else None,
        call.shape,
    )
    for each in (left, right):
        if isinstance(each, Known) and len(each.shape) > 2:
            value = call.admit(value, _outer(each))
    return value


def _outer(known: Known) -> NDArray[np.generic]:
    """A stack of matrices as one number each, told apart only where they differ."""
    form = known.form
    form = form.reshape(*form.shape[:-2], -1)
    numbers = np.unique(form.reshape(-1, form.shape[-1]), axis=0, return_inverse=True)[1]
    return np.asarray(numbers).reshape(*form.shape[:-1], 1, 1)


@_handles("Gemm")
def _gemm(call: Call) -> Value:
    flow, (left, right) = call.flow, call.operands[:2]
    if isinstance(left, Value) and call.attribute("transA", 0):
        left = flow.permute(left, [1, 0])
    if isinstance(right, Value) and call.attribute("transB", 0):
        right = flow.permute(right, [1, 0])
    value = flow.matmul(
        left if isinstance(left, Value) else None,
        right if isinstance(right, Value) else None,
        call.shape,
    )
    added = call.operand(2)
    if isinstance(added, Value):
        value = flow.pointwise([value, added], call.shape)
    return call.admitted(value, skip=(0, 1))
