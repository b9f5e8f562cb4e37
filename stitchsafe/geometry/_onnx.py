"""The ONNX tracer: the graph walked at one input size.

What does not depend on the input is computed, with the operators' reference implementations that
come with onnx; so shape arithmetic becomes numbers. What depends on it becomes values of a
:class:`~stitchsafe.geometry._flow.Flow`, whose shapes onnx's own inference gives operator by
operator, from concrete shapes to concrete shapes. Local functions are inlined first.

A constant is known by its content at this size, wherever it came from: where it is combined with a
value it may not differ from place to place over the whole of space, and what it holds goes into the
program, so that constants that follow the size of the input are found out by a second size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._graph import Graph
from stitchsafe.geometry._layout import Breaking, Value
from stitchsafe.geometry._onnx_call import ALIASES, SIZED, Call, Known, Operand, Unplaced, cost
from stitchsafe.geometry._onnx_ops import HANDLERS, RANDOM, REDUCTIONS, UNSAFE
from stitchsafe.geometry._onnx_program import OnnxProgram
from stitchsafe.geometry._windows import SizeRefusal

if TYPE_CHECKING:
    from onnx import NodeProto, TypeProto

__all__ = ["trace_onnx"]

_LARGEST = 2**27
"""Elements of a constant that is computed."""
_BY_SHAPE = {
    "Shape",
    "Size",
    "Expand",
    "Slice",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Identity",
}
"""Operators that take no longer for a large constant that is one number."""
_INT64 = 7
_UNFORESEEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError,
    ValueError,
)  # fmt: skip
"""What a graph that contradicts itself may raise in a handler."""
_ANALYSED = "use operators that stitchsafe knows"


def trace_onnx(program: OnnxProgram, space: Sequence[int]) -> Graph:
    """The graph of a network for one spatial shape of its inputs.

    Raises
    ------
    SizeRefusal
        If the network does not take inputs of this size.
    """
    walk = _Walk(program, space)
    try:
        return walk.graph()
    except SizeRefusal as refusal:
        refusal.periods = walk.flow.periods
        raise


class _Walk:
    """One pass over the nodes, in their order, which ONNX demands to be one of execution."""

    def __init__(self, program: OnnxProgram, space: Sequence[int]) -> None:
        self.program = program
        self.flow = Flow(space)
        self.held: dict[str, Operand] = dict(program.stored)
        self.elements = {name: each.element for name, each in program.stored.items()}
        self.elements.update(program.elements)
        self._born: dict[int, int] = {}
        self._roots: dict[str, int] = {}

    def graph(self) -> Graph:
        flow, program = self.flow, self.program
        ports = []
        for each in program.inputs:
            value, port = flow.input(each.name, each.channels, each.layout)
            self._hold(each.name, value, self.elements[each.name], None)
            ports.append(port)
        deaths: dict[int, int | None] = {}
        for number, (node, names) in enumerate(program.nodes):
            flow.at(node.op_type, node.name or node.output[0])
            self._step(number, node, names)
            for name in names:
                if program.last.get(name) == number and name in self._roots:
                    deaths[self._roots[name]] = len(flow.nodes)
        for value in program.model.graph.output:
            if value.name in self._roots:
                deaths[self._roots[value.name]] = None
        outputs = self._outputs()
        for root, stored in self._born.items():
            dies = deaths.get(root, root + 1)
            flow.nodes[root] = replace(flow.nodes[root], stored=stored, dies=dies)
        return flow.graph(ports, outputs, program.parameter_bytes)

    def _outputs(self) -> list[Any]:
        ports = []
        for declared in self.program.model.graph.output:
            each = self.held.get(declared.name)
            if isinstance(each, Value):
                if self.flow.is_broken(each):
                    self.flow.roots.append(each.index)
                else:
                    ports.append(self.flow.output(each, declared.name))
            elif not self.flow.breaks:
                self.flow.at("output", declared.name)
                self.flow.refuse(
                    "an output does not depend on the input", "return tensors made from it"
                )
        return [port for port in ports if port is not None]

    def _hold(self, name: str, each: Operand, element: int, root: int | None) -> None:
        self.held[name], self.elements[name] = each, element
        if isinstance(each, Value):
            self._roots[name] = each.index if root is None else root
            if root is None:
                self._born.setdefault(each.index, math.prod(each.shape))

    # nodes

    def _step(self, number: int, node: NodeProto, names: Sequence[str]) -> None:
        if number in self.program.folded:
            for name, known in zip(_made(node), self.program.folded[number], strict=True):
                self.held[name], self.elements[name] = known, known.element
            return
        given = {name: self.held.get(name) for name in names}
        derived = [each for each in given.values() if isinstance(each, Value)]
        if node.op_type in ("Shape", "Size") and derived:
            self._hold(node.output[0], _size(node, derived[0]), _INT64, None)
            return
        random = node.op_type in RANDOM
        constant = not derived and not random
        try:
            types = self._types(node, given)
            if constant and all(isinstance(each, Known) for each in given.values()):
                self._fold(number, node, given, types)
                return
        except Breaking as error:
            self._broken(node, derived, {}, error)
            return
        shapes = {name: _shape(each) for name, each in types.items()}
        if constant:
            for name in _made(node):
                self._hold(name, Unplaced(shapes.get(name) or ()), _element(types.get(name)), None)
            return
        if any(self.flow.is_broken(value) for value in derived):
            # Nothing is said of what comes after a break.
            self._broken(node, derived, types, None)
            return
        self._analyse(node, given, derived, types)

    def _types(self, node: NodeProto, given: Mapping[str, Operand | None]) -> dict[str, TypeProto]:
        try:
            return self.program.types(node, given, self.elements)
        except SizeRefusal:
            if self.flow.breaks:  # behind a break, shapes may be wrong
                return {}
            raise

    def _fold(
        self,
        number: int,
        node: NodeProto,
        given: Mapping[str, Operand | None],
        types: Mapping[str, TypeProto],
    ) -> None:
        held = {name: each for name, each in given.items() if each is not None}
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise Breaking(*UNSAFE[node.op_type])  # it may never end
        sizes = [] if node.op_type == "ConstantOfShape" else [_shape(t) for t in types.values()]
        if node.op_type not in _BY_SHAPE:
            sizes += [each.shape for each in held.values() if isinstance(each, Known)]
        if any(math.prod(size) > _LARGEST for size in sizes if size is not None):
            raise Breaking(
                "a constant as large as the input is computed: not analysed",
                "use constants that do not follow the size of the input",
            )
        try:
            found = self.program.fold(number, node, held)
        except Exception as error:
            if self.flow.breaks:  # behind a break, shapes may be wrong
                for name in _made(node):
                    self._hold(name, Unplaced(()), 1, None)
                return
            raise Breaking(
                f"a constant could not be computed ({_line(error)}): not analysed", _ANALYSED
            ) from error
        if all(each.static for each in found):
            self.program.folded[number] = found
        for name, known in zip(_made(node), found, strict=True):
            self._hold(name, known, known.element, None)

    def _analyse(
        self,
        node: NodeProto,
        given: Mapping[str, Operand | None],
        derived: Sequence[Value],
        types: Mapping[str, TypeProto],
    ) -> None:
        flow, first = self.flow, len(self.flow.nodes)
        shapes = [_shape(types[name]) if name in types else None for name in node.output]
        call = Call(
            flow, node, self.program.opsets.get("", 1),
            [given.get(name) if name else None for name in node.input], shapes,
        )  # fmt: skip
        try:
            made = self._made(call, derived)
        except Breaking as error:
            self._broken(node, derived, types, error)
            return
        except SizeRefusal as error:
            error.layer, error.op = flow.layer, flow.op
            raise
        flops = cost(call)
        if len(flow.nodes) > first:
            constants = " ".join([_numbers(node, given), *call.notes])
            flow.nodes[-1] = replace(flow.nodes[-1], constants=constants, flops=flops)
        source = self._roots.get(node.input[0]) if node.op_type in ALIASES else None
        for name, each in zip(node.output, made, strict=True):
            if name and each is not None:
                element = each.element if isinstance(each, Known) else _element(types.get(name))
                self._hold(name, each, element, source)

    def _made(self, call: Call, derived: Sequence[Value]) -> Sequence[Operand | None]:
        """What an operator makes of its values.

        Raises
        ------
        Breaking
            If it is not local, or was not analysed.
        """
        node = call.node
        handler = HANDLERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if node.op_type in UNSAFE and handler is None:
            raise Breaking(*UNSAFE[node.op_type])
        if handler is None or node.op_type in RANDOM or not derived:
            raise Breaking("not analysed", _ANALYSED)
        try:
            found = handler(call)
        except _UNFORESEEN as error:
            raise Breaking(f"not analysed ({_line(error)})", _ANALYSED) from error
        made: Sequence[Operand | None] = found if isinstance(found, list) else [found]
        for name, each, shape in zip(node.output, made, call.shapes, strict=False):
            if shape is not None and 0 in shape:
                raise SizeRefusal(f"nothing is left at {name!r}")
            if isinstance(each, Value) and each.shape != shape:
                raise Breaking(
                    f"not analysed: {name!r} has the shape {each.shape} or {shape}", _ANALYSED
                )
        rest = [name for name in node.output[len(made) :] if name in self.program.wanted]
        if rest:
            raise Breaking(f"its output {rest[0]!r} tells places, which is not analysed", _ANALYSED)
        return [*made, *[None] * (len(node.output) - len(made))]

    def _broken(
        self,
        node: NodeProto,
        derived: Sequence[Value],
        types: Mapping[str, TypeProto],
        error: Breaking | None,
    ) -> None:
        flow = self.flow
        noted = flow.refuse(error.reason, error.fix) if error else None
        for name in _made(node):
            shape = _shape(types[name]) if name in types else None
            keeps = error.keeps if error else None
            each: Operand
            if keeps is not None and keeps.shape == shape:
                each = flow.keep(keeps, noted)
            elif noted and node.op_type in REDUCTIONS and shape is not None:
                # What is left has no place in space: what comes after may be analysed further.
                each = Unplaced(shape)
            else:
                each = flow.broken(list(derived), shape or (), noted)
            self._hold(name, each, _element(types.get(name)), None)


def _made(node: NodeProto) -> Iterator[str]:
    return (name for name in node.output if name)


def _shape(declared: TypeProto) -> tuple[int, ...] | None:
    kind = declared.tensor_type
    if not declared.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    if any(dim.WhichOneof("value") != "dim_value" for dim in kind.shape.dim):
        return None
    return tuple(dim.dim_value for dim in kind.shape.dim)


def _size(node: NodeProto, value: Value) -> Known:
    """The sizes of a value, which follow from that of the input."""
    if node.op_type == "Size":
        return Known.of(np.array(math.prod(value.shape), np.int64), static=False)
    bounds = {a.name: a.i for a in node.attribute}
    sizes = value.shape[bounds.get("start", 0) : bounds.get("end", value.rank)]
    return Known.of(np.array(sizes, np.int64), static=False)


def _element(declared: TypeProto | None) -> int:
    return int(declared.tensor_type.elem_type or 1) if declared is not None else 1


def _numbers(node: NodeProto, given: Mapping[str, Operand | None]) -> str:
    """Digests of the constants that may follow the input's size, where they meet a value."""
    skipped = SIZED.get(node.op_type, ())
    return " ".join(
        each.digest
        for place, name in enumerate(node.input)
        if place not in skipped and isinstance(each := given.get(name), Known) and not each.static
    )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
