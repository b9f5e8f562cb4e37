"""ATen operators that mix whole dimensions: reductions, norms, products, and what moves voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stitchsafe.geometry._aten_call import REDUCTIONS, Call, Handlers, without
from stitchsafe.geometry._layout import Breaking, Value

__all__ = ["MIXING"]

MIXING = Handlers()
"""Operators that mix whole dimensions."""

_GLOBAL = "it mixes the whole of space (global pooling, or another reduction over space)"
_BOUNDED = "use a pooling with a bounded window, or reduce over channels only"


@MIXING.of(*REDUCTIONS)
def _reduction(call: Call) -> Value:
    dimensions = call.dimensions()
    value = call.flow.mix(call.first, dimensions, _GLOBAL, _BOUNDED, drop=True)
    return value if len(call.shape) == value.rank else without(call.flow, value, dimensions)


@MIXING.of(
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


@MIXING.of("glu")
def _glu(call: Call) -> Value:
    d = call.dimension(default=-1)
    value = call.flow.mix(call.only, [d], _GLOBAL, "take it over channels", drop=True)
    return call.flow.pointwise([value], call.shape)


@MIXING.of(
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


@MIXING.of("native_group_norm")
def _group_norm(call: Call) -> Value:
    return _normalised(call, range(1, call.first.rank), "group normalisation")


@MIXING.of("native_layer_norm", "_fused_rms_norm")
def _layer_norm(call: Call) -> Value:
    count = len(call.arguments["normalized_shape"])
    dimensions = range(call.first.rank - count, call.first.rank)
    return _normalised(call, dimensions, "layer normalisation over space")


@MIXING.of("roll", "flip")
def _moves(call: Call) -> Value:
    value = call.only
    value = call.flow.mix(
        value, call.dimensions("dims"),
        "it moves voxels across the whole input (a roll or flip)", "leave it out of the network",
    )  # fmt: skip
    return call.flow.keep(value)


@MIXING.of(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"
)
def _adaptive(call: Call) -> Value:
    what = "adaptive pooling makes its windows depend on the size of the input"
    if all(size == 1 for size in call.shape[2:]):
        what = _GLOBAL
    raise Breaking(what, "use pooling with a fixed kernel")


@MIXING.of("mm", "bmm", "addmm", "baddbmm")
def _matrix(call: Call) -> Value:
    names = {
        "mm": ("self", "mat2"), "bmm": ("self", "mat2"),
        "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
    }[call.name]  # fmt: skip
    left, right = (call.value(name) for name in names)
    added = call.value("self") if call.name in ("addmm", "baddbmm") else None
    if left is None and right is None:
        raise Breaking("it adds to a product of constants", "use plain addition")
    attention = isinstance(call.layer, torch.nn.MultiheadAttention)
    try:
        made = call.flow.matmul(left, right, call.shape, attention=attention)
    except Breaking as error:
        if not attention or "attention" in error.reason:
            raise
        raise Breaking(
            "attention whose heads share a dimension with places is not analysed",
            "call it with need_weights=False, or use attention over channels or convolutions",
        ) from error
    for name, value in zip(names, (left, right), strict=True):
        if value is None:
            made = _by_batch(call, made, call.arguments[name])
    if call.name in ("mm", "bmm"):
        return made
    bias = call.arguments["self"]
    return call.flow.pointwise([made, added], call.shape) if added else call.constant(made, [bias])


@MIXING.of(
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
    shape = (*call.shape[:-1], tokens)
    scores = flow.matmul(query, key, shape, attention=True) if query or key else None
    made = flow.matmul(scores, value, call.shape, attention=True)
    for name, of in (("query", query), ("key", key), ("value", value), ("attn_bias", None)):
        constant = call.arguments.get(name)
        if of is None and isinstance(constant, torch.Tensor) and id(constant) not in call.values:
            made = _by_batch(call, made, constant)
    mask = call.arguments.get("attn_mask")
    return made if mask is None else _by_batch(call, made, mask)


def _by_batch(call: Call, made: Value, constant: torch.Tensor) -> Value:
    """A product with a constant: another one for each place where its batch runs over space."""
    varying = [
        made.rank - back for back in range(3, constant.dim() + 1) if constant.shape[-back] > 1
    ]
    return call.flow.by_place(made, [d for d in varying if d >= 0])


@MIXING.of("grid_sampler_2d", "grid_sampler_3d", "affine_grid_generator")
def _sampling(call: Call) -> Value:
    raise Breaking(
        "it samples at positions given relative to the whole input (grid_sample)",
        "resize by a whole factor, and convolve",
    )


@MIXING.of("copy_", "index_put_", "_index_put_impl_", "slice_scatter", "select_scatter")
def _copy(call: Call) -> Value:
    raise Breaking(
        "it writes into part of a tensor (as circular padding does), which is not analysed",
        "use zero, reflection or replication padding, and build tensors with cat",
    )


@MIXING.of("index_select", "index")
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
