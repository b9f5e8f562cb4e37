"""Which axis of an ONNX tensor is which.

ONNX states sizes, not meanings. The operators know: a convolution takes (batch, channels, *space).
So the input is followed, through transposes and what keeps its shape, to the first operator with
such a layout. Where that leads nowhere, the sizes decide: the channels are the axis behind the
batch or the last one, whichever is stated and smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stitchsafe.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

__all__ = ["OnnxTensor", "inputs_of", "outputs_of"]

_CHANNELS_SECOND = {
    "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool",
    "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth",
    "QLinearConv", "ConvInteger", "GroupNormalization", "LRN", "PRelu",
}  # fmt: skip
_KEEPS_AXES = {
    "Identity", "Cast", "Add", "Sub", "Mul", "Div", "Relu", "Sigmoid", "Tanh", "Clip", "Pad",
    "QuantizeLinear", "DequantizeLinear", "Dropout", "Neg", "Abs", "Sqrt", "Exp", "Log", "Pow",
}  # fmt: skip
_AXES = {4: "yx", 5: "zyx"}


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An input or output of the graph.

    Parameters
    ----------
    name
        As the graph calls it.
    dtype
        Its type in numpy.
    sizes
        Per axis, the size that the graph states, or None.
    layout
        Letters of its axes, such as ``bcyx``; empty for an output until it is known.
    channels
        How many it has, or None where the graph does not say.
    """

    name: str
    dtype: np.dtype[Any]
    sizes: tuple[int | None, ...]
    layout: str
    channels: int | None

    @property
    def ndim(self) -> int:
        return sum(letter in "zyx" for letter in self.layout)

    @property
    def space(self) -> tuple[int | None, ...]:
        """Stated sizes along (z, y, x)."""
        return tuple(
            self.sizes[self.layout.index(letter)] for letter in "zyx" if letter in self.layout
        )


def inputs_of(
    model: ModelProto, name: str, axes: str | Mapping[str, str] | None
) -> tuple[OnnxTensor, ...]:
    """What the network takes, in order.

    Raises
    ------
    ModelError
        If an input is no image, or its axes cannot be told.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]
    if not given:
        raise ModelError(f"{name} takes no input; export a network that takes an image")
    _check_names(model, name, axes)
    return tuple(_input(model, name, value, _stated(axes, value.name)) for value in given)


def outputs_of(
    model: ModelProto, name: str, axes: str | Mapping[str, str] | None
) -> tuple[OnnxTensor, ...]:
    """What the network returns, in order; with the layouts that were stated."""
    found = []
    for value in model.graph.output:
        dtype, sizes = _described(value, name)
        layout = axes.get(value.name, "") if isinstance(axes, Mapping) else ""
        if layout:
            _check_layout(name, value.name, layout, len(sizes))
        found.append(OnnxTensor(value.name, dtype, sizes, layout, None))
    return tuple(found)


def _check_names(model: ModelProto, name: str, axes: str | Mapping[str, str] | None) -> None:
    if not isinstance(axes, Mapping):
        return
    known = [value.name for value in (*model.graph.input, *model.graph.output)]
    for key in axes:
        if key not in known:
            raise ModelError(
                f"{name} has no input or output {key!r} to state axes of; it has {', '.join(known)}"
            )


def _stated(axes: str | Mapping[str, str] | None, tensor: str) -> str | None:
    return axes.get(tensor) if isinstance(axes, Mapping) else axes


def _check_layout(name: str, tensor: str, layout: str, rank: int) -> None:
    space = "".join(sorted((c for c in layout if c in "zyx"), key="zyx".index))
    rest = sorted(c for c in layout if c not in "zyx")
    if (
        len(layout) != rank
        or space not in ("yx", "zyx")
        or rest not in ([], ["b"], ["c"], list("bc"))
    ):
        raise ModelError(
            f"the axes {layout!r} do not fit {tensor!r} of {name}, which has {rank} axes; state "
            "each once with --model-axes, of b (batch), c (channels), z, y and x, such as bcyx"
        )


def _described(value: ValueInfoProto, name: str) -> tuple[np.dtype[Any], tuple[int | None, ...]]:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise ModelError(
            f"{name} does not state the shape of {value.name!r}; export it with shapes, or as a "
            "tensor"
        )
    try:
        dtype = np.dtype(tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{name} states no known type of {value.name!r}; export it again"
        ) from error
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize not in (2, 4, 8)):
        raise ModelError(
            f"{value.name!r} of {name} holds {dtype.name}, which is not known here; export it with "
            "float32 there"
        )
    sizes = (d.dim_value if d.WhichOneof("value") == "dim_value" else 0 for d in kind.shape.dim)
    return dtype, tuple(size if size > 0 else None for size in sizes)


def _input(model: ModelProto, name: str, value: ValueInfoProto, layout: str | None) -> OnnxTensor:
    dtype, sizes = _described(value, name)
    order, channels = _from_operators(model, value.name, len(sizes))
    if layout is not None:
        _check_layout(name, value.name, layout, len(sizes))
    elif len(sizes) not in _AXES:
        raise ModelError(
            f"the input {value.name!r} of {name} has {len(sizes)} axes, and an image has 4 or 5 "
            "(batch, channels, space); state them with --model-axes, such as --model-axes byx"
        )
    else:
        layout = _letters(order, len(sizes)) if order else _from_sizes(sizes)
    stated = _channels(layout, sizes)
    # Operators speak of the axis that they take for channels, which may not be the one stated.
    if stated is None and order and _letters(order, len(sizes)).find("c") == layout.find("c"):
        stated = channels
    if stated is None:
        raise ModelError(
            f"{name} does not say how many channels its input {value.name!r} of axes {layout} has; "
            "export it with that size fixed, or, if its axes are others, state them with "
            "--model-axes"
        )
    if "b" in layout and sizes[layout.index("b")] not in (None, 1):
        raise ModelError(
            f"{name} takes batches of {sizes[layout.index('b')]} only; export it for a batch of 1"
        )
    return OnnxTensor(value.name, dtype, sizes, layout, stated)


def _channels(layout: str, sizes: Sequence[int | None]) -> int | None:
    return sizes[layout.index("c")] if "c" in layout else 1


def _letters(order: Sequence[int], rank: int) -> str:
    """The layout of a tensor whose axis ``order[k]`` becomes axis k of ``bcyx`` or ``bczyx``."""
    letters = [""] * rank
    for place, letter in zip(order, "bc" + _AXES.get(rank, "?" * (rank - 2)), strict=True):
        letters[place] = letter
    return "".join(letters)


def _from_sizes(sizes: Sequence[int | None]) -> str:
    second, last = sizes[1], sizes[-1]
    first = last is None or (second is not None and second <= last)
    space = _AXES[len(sizes)]
    return f"bc{space}" if first else f"b{space}c"


def _from_operators(
    model: ModelProto, name: str, rank: int
) -> tuple[tuple[int, ...] | None, int | None]:
    """Order of the input's axes at the first operator that knows them, and its channels."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    orders: dict[str, tuple[int, ...]] = {name: tuple(range(rank))}
    for node in model.graph.node:
        read = node.input[0] if node.input else ""
        if node.op_type in ("Add", "Sub", "Mul", "Div") and read not in orders:
            read = next((i for i in node.input if i in orders), "")
        order = orders.get(read)
        if order is None:
            continue
        if node.op_type in _CHANNELS_SECOND:
            if rank < 4:
                return None, None
            return order, _taken(node, weights)
        if node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            perm = list(range(rank))[::-1] if perm is None else perm
            if sorted(perm) == list(range(rank)):
                orders[node.output[0]] = tuple(order[k] for k in perm)
        elif node.op_type in _KEEPS_AXES:
            orders[node.output[0]] = order
    return None, None


def _taken(node: NodeProto, weights: Mapping[str, tuple[int, ...]]) -> int | None:
    """Channels that a convolution takes, from its weights."""
    shape = weights.get(node.input[1], ()) if len(node.input) > 1 else ()
    if node.op_type == "Conv" and len(shape) > 2:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        return shape[1] * groups
    if node.op_type in ("ConvTranspose", "BatchNormalization") and shape:
        return shape[0]
    return None
