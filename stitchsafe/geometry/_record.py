"""The graph of a network as it is written down, and what of it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stitchsafe.geometry._axis import Taps
from stitchsafe.geometry._graph import AxisStep, Graph, Kind, Node, Port, reached
from stitchsafe.geometry._layout import Layout, Value, channels_of
from stitchsafe.geometry._types import Break
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["Record"]


class Record:
    """Nodes, breaks and refusals in the order of execution.

    Parameters
    ----------
    space
        Shape of the input over space.
    """

    def __init__(self, space: Sequence[int]) -> None:
        self.space = tuple(space)
        self.nodes: list[Node] = []
        self.breaks: list[Break] = []
        self.roots: list[int] = []
        self.op, self.layer = "input", "input"
        self._shown: set[Break] = set()
        self._refusals: dict[int, SizeRefusal] = {}

    @property
    def ndim(self) -> int:
        return len(self.space)

    def at(self, op: str, layer: str) -> None:
        """Say which operator of which layer the next nodes are of."""
        self.op, self.layer = op, layer

    def refuse(self, reason: str, fix: str) -> Break:
        """Note that the present operator breaks locality, or was not analysed."""
        found = self.breaking(reason, fix)
        self._shown.add(found)
        return found

    def note(self, found: Break) -> None:
        """Take up a break that was found elsewhere."""
        self.breaks.append(found)
        self._shown.add(found)

    def breaking(self, reason: str, fix: str) -> Break:
        """As :meth:`refuse`, if a node that carries this break can be seen in an output."""
        found = Break(self.layer, self.op, reason, fix)
        self.breaks.append(found)
        return found

    @property
    def periods(self) -> tuple[int, ...]:
        """Per axis, the least common period of all that is there so far."""
        every = tuple(range(len(self.nodes)))
        return Graph(tuple(self.nodes), self.space, (), (), 0, (), every).periods

    def unfinished(self) -> None:
        """Count all there is, as nothing says what an output would have been made of.

        Raises
        ------
        SizeRefusal
            If something does not fit the size of the input.
        """
        self.roots = list(range(len(self.nodes)))
        if self._refusals:
            raise next(iter(self._refusals.values()))

    def unfit(self, inputs: Sequence[Value], shape: Sequence[int], refusal: SizeRefusal) -> Value:
        """A tensor that does not fit the size of the input, if it can be seen in an output."""
        refusal.layer, refusal.op = self.layer, self.op
        value = self.broken(inputs, shape)
        self._refusals[value.index] = refusal
        return value

    def graph(
        self, inputs: Sequence[Port], outputs: Sequence[Port], parameters_bytes: int
    ) -> Graph:
        """The finished graph.

        Raises
        ------
        SizeRefusal
            If something that can be seen in an output does not fit the size of the input.
        """
        if not outputs and not self.roots:
            self.unfinished()
        live = reached(self.nodes, [*(port.node for port in outputs), *self.roots])
        for index, refusal in self._refusals.items():
            if index in live:
                raise refusal
        shown = self._shown | {self.nodes[index].broken for index in live}
        return Graph(
            nodes=tuple(self.nodes),
            space=self.space,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            parameters_bytes=parameters_bytes,
            breaks=tuple(each for each in dict.fromkeys(self.breaks) if each in shown),
            roots=tuple(self.roots),
        )

    def named(self, axis: int) -> int:
        """Position of an axis in z, y, x."""
        return axis + 3 - self.ndim

    # nodes

    def add(
        self,
        kind: Kind,
        inputs: Sequence[Value],
        layout: Layout,
        steps: Mapping[int, AxisStep] | None = None,
    ) -> Value:
        """Write one node; `steps` are those along axes that are not the identity."""
        value = Value(len(self.nodes), layout)
        axes: tuple[AxisStep, ...] = ()
        if steps:
            read = inputs[0]
            axes = tuple(
                steps.get(axis) or AxisStep(Taps.window(1), read.extent(axis))
                for axis in map(self.named, range(self.ndim))
            )
        self.nodes.append(
            Node(
                kind, self.op, self.layer, tuple(v.index for v in inputs), value.shape,
                value.signature, axes,
            )
        )  # fmt: skip
        return value

    def broken(
        self, inputs: Sequence[Value], shape: Sequence[int], found: Break | None = None
    ) -> Value:
        """A tensor of which nothing is known."""
        value = self.add("broken", inputs, tuple(channels_of(size) for size in shape))
        self.nodes[value.index] = replace(self.nodes[value.index], broken=found)
        return value

    def is_broken(self, value: Value) -> bool:
        return self.nodes[value.index].kind == "broken"

    def keep(self, value: Value, found: Break | None = None) -> Value:
        """The same once more, of the present operator."""
        again = self.add("pointwise", (value,), value.layout)
        self.nodes[again.index] = replace(self.nodes[again.index], broken=found)
        return again
