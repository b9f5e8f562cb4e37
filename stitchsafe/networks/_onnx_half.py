"""An ONNX graph of float16 as the same graph in float32.

Half precision rounds to three digits after each operator, so that tiles agree with the whole to
three digits only. Its weights are numbers of float32 too; with all types widened the same layers
compute in float32, where stitched equals whole to the usual rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stitchsafe.errors import ModelError
from stitchsafe.networks._onnx_file import LARGEST, graphs_of, nodes_of, tensors_of

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["widened"]

# Attributes that name a type.
_TYPES = {"to", "dtype", "output_dtype", "precision", "softmax_precision", "stash_type"}


def widened(model: ModelProto, folder: Path, name: str) -> bytes:
    """The graph with float32 wherever it has float16 or bfloat16.

    Parameters
    ----------
    model, folder
        What was read and checked, and where its weights in further files lie.
    name
        What to call it in messages.

    Raises
    ------
    ModelError
        If it becomes larger than a file may be.
    """
    from google.protobuf.message import EncodeError
    from onnx import ModelProto, TensorProto, numpy_helper
    from onnx.external_data_helper import load_external_data_for_model

    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    twin = ModelProto()
    twin.CopyFrom(model)
    load_external_data_for_model(twin, str(folder))
    for tensor in tensors_of(twin):
        if tensor.data_type in halves:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in nodes_of(twin):
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
    for graph in graphs_of(twin):
        del graph.value_info[:]  # onnxruntime infers them anew
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in halves:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    try:
        content = twin.SerializeToString() if twin.ByteSize() <= LARGEST else b""
    except (EncodeError, ValueError):
        content = b""
    if not content:
        raise ModelError(
            f"{name} is of float16, and in float32 it has more than the {LARGEST} bytes that can "
            "be loaded at once; export it with float32 weights as external data"
        )
    return content
