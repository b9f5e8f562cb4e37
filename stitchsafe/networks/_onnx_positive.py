"""Generic positive weights in an ONNX graph, as `positive_weights` puts them into a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["positive_graph"]

# What each operand of an operator becomes: positive weights, zeros, or ones.
_ROLES = {
    "Conv": {1: "weights", 2: "zeros"},
    "ConvTranspose": {1: "weights", 2: "zeros"},
    "BatchNormalization": {1: "weights", 2: "zeros", 3: "zeros", 4: "ones"},
    "PRelu": {1: "weights"},
    "MatMul": {0: "weights", 1: "weights"},
    "Gemm": {1: "weights", 2: "zeros"},
}


def positive_graph(model: ModelProto, seed: int = 0) -> ModelProto:
    """A copy whose weights are random and positive; constants that are no weights stay."""
    from onnx import ModelProto, numpy_helper

    twin = ModelProto()
    twin.CopyFrom(model)
    rng = np.random.default_rng(seed)
    roles: dict[str, str] = {}
    for node in twin.graph.node:
        for place, role in _ROLES.get(node.op_type, {}).items():
            if place < len(node.input):
                roles.setdefault(node.input[place], role)
    held = {tensor.name: tensor for tensor in twin.graph.initializer}
    for node in twin.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                held[node.output[0]] = attribute.t
    for name, role in roles.items():
        if name not in held:
            continue
        values = numpy_helper.to_array(held[name])
        if not np.issubdtype(values.dtype, np.floating):
            continue
        fan = values.size // values.shape[0] if values.ndim > 1 else 1
        made = {
            "weights": rng.uniform(0.5, 1, values.shape) / fan,
            "zeros": np.zeros(values.shape),
            "ones": np.ones(values.shape),
        }[role]
        held[name].CopyFrom(numpy_helper.from_array(made.astype(values.dtype), held[name].name))
    return twin
