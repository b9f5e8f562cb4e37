"""Small ONNX graphs that several rooms' tests share."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Size = int | str | None


def value(name: str, sizes: list[Size], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, sizes)


def constant(name: str, array: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model(
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    weights: list[onnx.TensorProto] | None = None,
    opset: int = 18,
    domains: dict[str, int] | None = None,
    ndim: int = 2,
    channels: int = 1,
) -> onnx.ModelProto:
    """A model from ``x`` (1, channels, *space) to ``y``, unless told otherwise."""
    space: list[Size] = ["z", "h", "w"][-ndim:]  # type: ignore[assignment]
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs or [value("x", [1, channels, *space])],
        outputs or [value("y", [None] * (ndim + 2))],
        weights or [],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def smoothing(name: str = "weight", channels: int = 1, ndim: int = 2) -> onnx.TensorProto:
    """Weights of a convolution with kernel 3 that differ from tap to tap."""
    count = channels * channels * 3**ndim
    array = np.linspace(0.1, 1, count).reshape(channels, channels, *(3,) * ndim)
    return constant(name, array / count)


def convolution(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "weight"], ["y"], name="conv", pads=[1] * 4, **attributes)


def saved(folder: Path, content: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(content.SerializeToString())
    return path


def exported(module: nn.Module, path: Path, shape: tuple[int, ...], *, opset: int = 18) -> Path:
    """A module as ONNX, its spatial axes open."""
    space = range(2, len(shape))
    with warnings.catch_warnings():
        # The exporter that follows TorchScript says that another one is to be preferred.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.onnx")
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *shape[1:]),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={name: {axis: f"{name}{axis}" for axis in space} for name in "xy"},
        )
    return path
