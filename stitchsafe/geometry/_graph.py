"""The intermediate form of a network at one input size, and what can be read off it.

A :class:`Node` is one operator: what it reads (`inputs`, indices of nodes), its one-axis taps, its
output's shape, its cost and the life of its storage. :meth:`Graph.facts` folds the one-axis maps
through the nodes; a node that carries a :class:`~stitchsafe.geometry._types.Break` yields no map
unless it keeps the shape, and nothing is said of what comes after it.

Only nodes that an output depends on are asked for maps, periods and constants. The others run, and
take memory and time, but nothing that they do can be seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from stitchsafe.geometry._axis import AxisMap, LatticeMismatch, Taps, join
from stitchsafe.geometry._types import Break

__all__ = ["AxisStep", "Graph", "Kind", "Node", "Port", "reached"]

Kind = Literal[
    "input", "conv", "transposed conv", "pool", "resize", "pad", "crop", "concat", "pointwise",
    "view", "opaque", "broken",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AxisStep:
    """One axis of a node: its taps and what it does to the row's ends.

    `ends` are elements that it puts before and after. A pass whose padding follows its size has
    other values at its border than a pass of another size, however far the lattice map agrees.
    """

    taps: Taps
    size: int
    lossy: bool = False
    depth: int = 0
    ends: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `steps` has one per axis, and is empty where every axis is the identity.

    `layout` says how the tensor lies over space, without what follows from the input's size.
    `stored` and `workspace` are elements: of its own storage, and of what its kernel takes besides,
    `unfolded` what it takes where the kernel unfolds its input into columns.
    `behind` are nodes that broke, and whose results it reads as if they were constants.
    """

    kind: Kind
    op: str
    layer: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    layout: str = ""
    steps: tuple[AxisStep, ...] = ()
    constants: str = ""
    flops: int = 0
    broken: Break | None = None
    consensus: str = ""
    stored: int = 0
    extra_bytes: int = 0
    workspace: int = 0
    unfolded: int = 0
    dies: int | None = None
    behind: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its node, and the order of its dimensions, such as ``bczyx``."""

    node: int
    name: str
    channels: int
    layout: str


def reached(nodes: Sequence[Node], ends: Iterable[int]) -> frozenset[int]:
    """Indices of the nodes that some of them depend on, themselves among them."""
    found: set[int] = set()
    waiting = list(ends)
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting += [*nodes[index].inputs, *nodes[index].behind]
    return frozenset(found)


@dataclass(frozen=True)
class Graph:
    """A network traced at one input size.

    Parameters
    ----------
    nodes
        In the order of execution, inputs first.
    space
        Shape of the inputs over space.
    inputs, outputs
        What the network takes and returns.
    parameters_bytes
        Bytes of parameters and buffers.
    breaks
        All that breaks locality or was not analysed.
    roots
        Nodes that count like outputs: what they do may be seen in another way.
    """

    nodes: tuple[Node, ...]
    space: tuple[int, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters_bytes: int
    breaks: tuple[Break, ...]
    roots: tuple[int, ...] = ()

    @cached_property
    def live(self) -> frozenset[int]:
        """Nodes whose results can be seen."""
        return reached(self.nodes, [*(port.node for port in self.outputs), *self.roots])

    def maps(self) -> list[tuple[AxisMap, ...] | None]:
        """Per node, one map per axis; None behind an operator that has none, or that is not live.

        Raises
        ------
        LatticeMismatch
            If tensors on different lattices meet.
        """
        held: list[tuple[AxisMap, ...] | None] = []
        for index, node in enumerate(self.nodes):
            held.append(self._fold(node, held) if index in self.live else None)
        return held

    def _fold(
        self, node: Node, held: list[tuple[AxisMap, ...] | None]
    ) -> tuple[AxisMap, ...] | None:
        if node.kind == "input":
            return tuple(AxisMap.of_input(size) for size in self.space)
        if node.kind == "broken":
            return None
        read = []
        for index in node.inputs:
            each = held[index]
            if each is None:
                return None
            read.append(each)
        try:
            axes = tuple(join(list(rows)) for rows in zip(*read, strict=True))
        except LatticeMismatch as error:
            raise LatticeMismatch(f"in layer {node.layer} ({node.op}) {error}") from None
        return (
            tuple(
                row.apply(s.taps, s.size, lossy=s.lossy, depth=s.depth)
                for row, s in zip(axes, node.steps, strict=True)
            )
            if node.steps
            else axes
        )

    def facts(self) -> tuple[tuple[AxisMap, ...] | None, ...]:
        """Per output, one map per axis at this input size."""
        held = self.maps()
        return tuple(held[port.node] for port in self.outputs)

    def flops(self) -> int:
        """Floating-point operations of the convolutions in one pass, two per multiply-add."""
        return sum(node.flops for node in self.nodes)

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest tensor that there is, an unfolded input aside."""
        return max((math.prod(node.shape) for node in self.nodes), default=0)

    def activation_bytes(self, itemsize: int, *, unfolds: bool = False) -> int:
        """Largest number of bytes that live tensors hold at one time, the input included.

        Lifetimes are those of the traced pass: a tensor that the module's code still holds counts,
        and so does the workspace of a kernel while it runs. Parameters do not.

        Parameters
        ----------
        itemsize
            Bytes of a number.
        unfolds
            Whether convolutions unfold their input, as those of torch do on a processor for types
            that its fast kernels do not take.
        """
        change = [0] * (len(self.nodes) + 1)
        peak = 0
        for index, node in enumerate(self.nodes):
            change[index] += node.stored * itemsize
            if node.dies is not None:
                change[max(node.dies, index + 1)] -= node.stored * itemsize
        live = 0
        for index, node in enumerate(self.nodes):
            live += change[index]
            own = node.unfolded if unfolds else node.workspace
            peak = max(peak, live + node.extra_bytes + own * itemsize)
        return peak

    @property
    def program(self) -> str:
        """Digest of operators and constants without sizes: equal for two sizes, or not the same.

        Crops are left out, as torch makes mere aliases of those that cut nothing off; where they
        cut is the lattice map's to say.
        """
        return self._program(ends=True)

    @property
    def operators(self) -> str:
        """The same without what is padded, which may be made to follow the size."""
        return self._program(ends=False)

    def _program(self, *, ends: bool) -> str:
        place: list[int] = []
        text: list[str] = []
        for index, n in enumerate(self.nodes):
            if index not in self.live:
                place.append(-1)
                continue
            aside = n.kind == "crop" or (n.kind == "pad" and not ends)
            if (aside or n.op == "aten.alias.default") and len(n.inputs) == 1:
                place.append(place[n.inputs[0]])
                continue
            place.append(len(text))
            inputs = tuple(place[i] for i in n.inputs)
            taps = repr([(s.taps, s.ends) for s in n.steps])
            text.append(repr((n.kind, n.op, n.layer, inputs, n.layout, n.constants)) + taps)
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    @property
    def periods(self) -> tuple[int, ...]:
        """Per axis, the least common period of what is live; joins may fail, this does not."""
        ndim = len(self.space)
        held: list[tuple[AxisMap, ...] | None] = []
        period = [1] * ndim
        for index, node in enumerate(self.nodes):
            try:
                maps = self._fold(node, held) if index in self.live else None
            except LatticeMismatch:
                maps = None
            held.append(maps)
            for axis, each in enumerate(maps or ()):
                period[axis] = math.lcm(period[axis], each.period)
        return tuple(period)
