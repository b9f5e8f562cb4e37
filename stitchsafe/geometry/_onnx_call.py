"""One operator of an ONNX graph with its operands at hand, as the handlers see it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._layout import Breaking, Value

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["ALIASES", "SIZED", "Call", "Known", "Operand", "Unplaced", "cost"]

ALIASES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
"""Operators that need no memory of their own."""

SIZED = {
    "Slice": range(1, 5), "Split": (1,), "Reshape": (1,), "Expand": (1,), "Tile": (1,),
    "Pad": (1, 3), "Resize": (1, 2, 3), "Upsample": (1,), "Squeeze": (1,), "Unsqueeze": (1,),
    "ConvTranspose": (), "Gather": (),
}  # fmt: skip
"""Operands whose numbers follow the input's size; the lattice map speaks for them."""

_ORIGIN = (
    "a constant that varies over space is tied to the input's origin",
    "use constants that are the same for every voxel",
)


class Known:
    """A tensor that does not depend on the input.

    Parameters
    ----------
    shape, element
        Its shape and its ONNX element type.
    load
        Gives its content.
    static
        Whether it is the same for every size of the input.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        element: int,
        load: Callable[[], NDArray[Any]],
        *,
        static: bool,
    ) -> None:
        self.shape, self.element, self.static = shape, element, static
        self._load = load

    @classmethod
    def of(cls, array: NDArray[Any], *, static: bool) -> Known:
        from onnx.helper import np_dtype_to_tensor_dtype

        element = int(np_dtype_to_tensor_dtype(array.dtype))
        return cls(array.shape, element, lambda: array, static=static)

    @cached_property
    def array(self) -> NDArray[Any]:
        return np.asarray(self._load())

    @property
    def nbytes(self) -> int:
        from onnx.helper import tensor_dtype_to_np_dtype

        return math.prod(self.shape) * np.dtype(tensor_dtype_to_np_dtype(self.element)).itemsize

    @cached_property
    def form(self) -> NDArray[Any]:
        """The content with each dimension 1 long along which nothing changes."""
        held = self.array
        for d in range(held.ndim):
            first = held[(*[slice(None)] * d, slice(0, 1))]
            if held.shape[d] > 1 and (held.strides[d] == 0 or _same(held, first)):
                held = first
        return held

    @cached_property
    def digest(self) -> str:
        """Of the form, so the same for two sizes or not the same constant."""
        form = np.ascontiguousarray(self.form)
        text = f"{form.dtype} {form.shape} ".encode() + form.tobytes()
        return hashlib.sha256(text).hexdigest()


def _same(array: NDArray[Any], first: NDArray[Any]) -> bool:
    alike = array == first
    if array.dtype.kind == "f":
        alike |= np.isnan(array) & np.isnan(first)
    return bool(np.all(alike))


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A tensor of unknown content that has no place in space, behind a break."""

    shape: tuple[int, ...]


Operand = Value | Known | Unplaced


@dataclass(frozen=True)
class Call:
    """One node, its operands, and the shapes of its results.

    Parameters
    ----------
    flow
        Where to write.
    node
        The node.
    opset
        Version of the operator set.
    operands
        In order; None where one is left out.
    shapes
        Of the results; None where they do not follow from the operands.
    notes
        What a handler wants in the program: which channels are taken, which may follow the size.
    """

    flow: Flow
    node: NodeProto
    opset: int
    operands: Sequence[Operand | None]
    shapes: Sequence[tuple[int, ...] | None]
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.result(0)

    def result(self, place: int) -> tuple[int, ...]:
        found = self.shapes[place]
        if found is None:
            raise Breaking(
                "the shape of its result depends on data or is not known: not analysed",
                "use operators whose shapes follow from those of the input",
            )
        return found

    @property
    def values(self) -> list[Value]:
        return [each for each in self.operands if isinstance(each, Value)]

    @property
    def only(self) -> Value:
        """The first operand, where no other depends on the input.

        Raises
        ------
        Breaking
            If another one does.
        """
        first = self.operands[0]
        if not isinstance(first, Value) or len(self.values) > 1:
            raise Breaking(
                "its weights or settings depend on the input",
                "use weights that are parameters of the network",
            )
        return first

    def attribute(self, name: str, default: Any = None) -> Any:
        from onnx.helper import get_attribute_value

        for each in self.node.attribute:
            if each.name == name:
                found = get_attribute_value(each)
                return found.decode() if isinstance(found, bytes) else found
        return default

    def operand(self, place: int) -> Operand | None:
        return self.operands[place] if place < len(self.operands) else None

    def numbers(self, place: int, name: str = "") -> list[Any] | None:
        """A constant operand as a list, or the attribute that older versions have for it.

        Raises
        ------
        Breaking
            If it depends on the input.
        """
        each = self.operand(place)
        if each is None:
            found = self.attribute(name) if name else None
            return None if found is None else list(found)
        if not isinstance(each, Known):
            raise Breaking(
                "where it reads or what it makes depends on data: not analysed",
                "decide by sizes or settings, not by the values of tensors",
            )
        return [value.item() for value in each.array.ravel()]

    def ints(self, name: str, count: int, default: int) -> list[int]:
        found = self.attribute(name)
        return [default] * count if not found else [int(v) for v in found]

    def axis(self, default: int, name: str = "axis") -> int:
        rank = len(self.operands[0].shape) if self.operands[0] is not None else 0
        return int(self.attribute(name, default)) % max(1, rank)

    def admitted(self, value: Value, *, skip: Sequence[int] = ()) -> Value:
        """A value that the other operands were combined into, by the rules of broadcasting."""
        for place, each in enumerate(self.operands):
            if place not in skip and isinstance(each, Known):
                value = self.admit(value, each.form)
        return value

    def admit(self, value: Value, form: NDArray[Any]) -> Value:
        """A value told apart by place where a constant is not the same everywhere.

        Raises
        ------
        Breaking
            If it varies over the whole of space.
        """
        for back in range(1, form.ndim + 1):
            if form.shape[-back] == 1 or back > value.rank:
                continue
            for part in value.space([value.rank - back]):
                if value.is_top(part):
                    raise Breaking(*_ORIGIN)
                value = self.flow.periodic(value, part)
        return value

    def along(self, value: Value, place: int, dimension: int = 1) -> Value:
        """As :meth:`admit` for an operand with one number per element of a dimension."""
        each = self.operand(place)
        if isinstance(each, Known) and each.form.size > 1:
            shape = [1] * value.rank
            shape[dimension] = each.form.size
            return self.admit(value, each.form.reshape(shape))
        return value


def cost(call: Call) -> int:
    """Floating-point operations, two per multiply-add."""
    shapes = [each.shape if each is not None else () for each in call.operands]
    if call.node.op_type == "Conv":
        return 2 * math.prod(shapes[1][1:]) * math.prod(call.shape)
    if call.node.op_type == "ConvTranspose":
        return 2 * math.prod(shapes[1][1:]) * math.prod(shapes[0])
    if call.node.op_type in ("MatMul", "Gemm"):
        long = shapes[0][-2] if call.attribute("transA", 0) else shapes[0][-1]
        return 2 * int(long) * math.prod(call.shape)
    return 0
