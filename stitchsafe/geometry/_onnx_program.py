"""An ONNX graph to be walked: its constants, types and order, and the folding of what is constant.

What does not depend on the input is computed, with the operators' reference implementations that
come with onnx; so shape arithmetic becomes numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stitchsafe.geometry._onnx_call import Known, Operand
from stitchsafe.geometry._onnx_windows import stated_shape, without_idle_windows
from stitchsafe.geometry._types import InputGeometry
from stitchsafe.geometry._windows import SizeRefusal

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, TypeProto

__all__ = ["OnnxProgram"]

_READ = 4096
"""Elements of a constant that shapes may be computed from."""


class OnnxProgram:
    """A graph prepared for traces at several sizes.

    Parameters
    ----------
    model
        As read; local functions are inlined in a copy.
    inputs
        Names, channels and layouts of what it takes.
    folder
        Where weights in further files lie, as far as the model names them.
    """

    def __init__(
        self, model: ModelProto, inputs: Sequence[InputGeometry], folder: str | Path = ""
    ) -> None:
        from onnx.inliner import inline_local_functions

        self.model = inline_local_functions(model) if model.functions else model
        self.inputs = tuple(inputs)
        self.folder = str(folder)
        self.opsets = {o.domain or "": o.version for o in self.model.opset_import}
        self.folded: dict[int, list[Known]] = {}
        self._evaluators: dict[int, Any] = {}

    @cached_property
    def stored(self) -> dict[str, Known]:
        """The weights, read when they are asked for."""
        return {tensor.name: self.known(tensor) for tensor in self.model.graph.initializer}

    @cached_property
    def parameter_bytes(self) -> int:
        return sum(each.nbytes for each in self.stored.values())

    def known(self, tensor: TensorProto) -> Known:
        from onnx.numpy_helper import to_array

        return Known(
            tuple(tensor.dims), tensor.data_type, lambda: to_array(tensor, self.folder), static=True
        )

    @cached_property
    def elements(self) -> dict[str, int]:
        """Element types of the inputs."""
        return {v.name: v.type.tensor_type.elem_type for v in self.model.graph.input}

    @cached_property
    def nodes(self) -> list[tuple[NodeProto, list[str]]]:
        """Those that an output depends on, and the names that they read."""
        wanted = {value.name for value in self.model.graph.output}
        live = []
        for node in reversed(self.model.graph.node):
            if wanted.intersection(node.output):
                live.append((node, sorted(_read(node))))
                wanted |= _read(node)
        return live[::-1]

    @cached_property
    def last(self) -> dict[str, int]:
        """Number of the node that reads a tensor last; outputs are not in it."""
        found: dict[str, int] = {}
        for number, (_, names) in enumerate(self.nodes):
            for name in names:
                found[name] = number
        for value in self.model.graph.output:
            found.pop(value.name, None)
        return found

    @cached_property
    def wanted(self) -> set[str]:
        """Tensors that anything reads."""
        names = {value.name for value in self.model.graph.output}
        return names.union(*(names for _, names in self.nodes))

    def types(
        self, node: NodeProto, given: Mapping[str, Operand | None], elements: Mapping[str, int]
    ) -> dict[str, TypeProto]:
        """Types of a node's results at this size, as far as they follow from its operands.

        Raises
        ------
        SizeRefusal
            If the operands do not fit each other.
        """
        from onnx import defs, helper, numpy_helper
        from onnx.shape_inference import InferenceError, infer_node_outputs

        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain)
        except defs.SchemaError:
            return {}
        held = {name: each for name, each in given.items() if each is not None}
        types = {
            name: helper.make_tensor_type_proto(elements[name], each.shape)
            for name, each in held.items()
        }
        data = {
            name: numpy_helper.from_array(np.asarray(each.array, order="C"))
            for name, each in held.items()
            if isinstance(each, Known) and math.prod(each.shape) <= _READ
        }
        try:
            found = infer_node_outputs(
                schema, node, types, data,
                opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version,
            )  # fmt: skip
            first = held.get(node.input[0]) if node.input else None
            if first is not None:
                without_idle_windows(node, first.shape, found)
                stated = stated_shape(node, {k: v.shape for k, v in held.items()})
                if stated is not None:
                    kind = elements[node.input[0]]
                    found = {node.output[0]: helper.make_tensor_type_proto(kind, stated)}
            return found
        except InferenceError as error:
            raise SizeRefusal(" ".join(str(error).split())[:200]) from error
        except (ValueError, RuntimeError, TypeError):
            return {}

    def fold(self, number: int, node: NodeProto, given: Mapping[str, Operand]) -> list[Known]:
        """What a node computes of constants."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Constant" and node.attribute[0].name == "value":
            return [self.known(node.attribute[0].t)]
        static = all(each.static for each in given.values() if isinstance(each, Known))
        if node.op_type == "ConstantOfShape":
            return [_filled(node, given, static)]
        if number not in self._evaluators:
            graph = helper.make_graph(
                [node], "folded",
                [helper.make_value_info(name, helper.make_tensor_type_proto(1, None))
                 for name in given],
                [helper.make_value_info(name, helper.make_tensor_type_proto(1, None))
                 for name in node.output if name],
            )  # fmt: skip
            self._evaluators[number] = ReferenceEvaluator(graph, opsets=self.opsets)
        feeds = {name: each.array for name, each in given.items() if isinstance(each, Known)}
        with np.errstate(all="ignore"):
            found = self._evaluators[number].run(None, feeds)
        return [Known.of(np.asarray(array), static=static) for array in found]


def _filled(node: NodeProto, given: Mapping[str, Operand], static: bool) -> Known:
    """One number of some shape, which takes the memory of one."""
    from onnx.numpy_helper import to_array

    shape = given[node.input[0]]
    assert isinstance(shape, Known)
    held = to_array(node.attribute[0].t) if node.attribute else np.zeros(1, np.float32)
    return Known.of(np.broadcast_to(held.reshape(()), tuple(shape.array)), static=static)


def _read(node: NodeProto) -> set[str]:
    """Names that a node reads, those captured by the graphs that it holds among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {t.name for t in graph.initializer} | {v.name for v in graph.input}
            for inner in graph.node:
                names |= _read(inner) - made
                made |= set(inner.output)
            names |= {v.name for v in graph.output} - made
    return names - {""}
