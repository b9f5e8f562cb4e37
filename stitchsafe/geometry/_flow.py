"""The operators of a network as they act on values; what both tracers write to.

Tracers decode arguments and call the methods of :class:`Flow`, which write the nodes of a
:class:`~stitchsafe.geometry._graph.Graph`. What breaks locality raises :class:`Breaking`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stitchsafe.geometry._axis import Taps
from stitchsafe.geometry._graph import AxisStep, Kind, Port
from stitchsafe.geometry._layout import (
    AXES,
    Breaking,
    Factor,
    Value,
    channels_of,
    merged,
    size_of,
)
from stitchsafe.geometry._record import Record

__all__ = ["Flow"]

_LONGEST_PERIOD = 4096
_SPREAD = "combine tensors of one size"


class Flow(Record):
    """A graph as it grows, by what operators do to values."""

    # ends

    def input(self, name: str, channels: int, layout: str) -> tuple[Value, Port]:
        """An input whose dimensions are ``b``, ``c`` and axes in the order of `layout`."""
        self.at("input", name)
        letters = AXES[-self.ndim :]
        factors: list[tuple[Factor, ...]] = []
        for letter in layout:
            if letter in letters:
                axis = letters.index(letter)
                factors.append((Factor(self.space[axis], self.named(axis)),))
            else:
                factors.append(channels_of(channels) if letter == "c" else ())
        value = self.add("input", (), tuple(factors))
        return value, Port(value.index, name, channels, layout)

    def output(self, value: Value, name: str) -> Port | None:
        """What the network returns, or None (and a break) where it does not lie over space."""
        self.at("output", name)
        value = self._told_apart(self.settled(value))
        letters: list[str] = []
        for place, dimension in enumerate(value.layout):
            axis = value.axis_of(place)
            if axis is not None:
                letters.append(AXES[axis])
            elif any(f.axis is not None for f in dimension):
                letters.append("?")
            elif dimension:
                letters.append("c")
            else:
                letters.append("b" if place == 0 else "1")
        # A single channel has no factor; its place is the first that is left.
        if "c" not in letters and "1" in letters:
            letters[letters.index("1")] = "c"
        layout = "".join(letters)
        wanted = sorted(AXES[-self.ndim :])
        if sorted(each for each in letters if each not in "bc1") != wanted:
            self.refuse(
                f"an output lies over space as {value.signature!r}, not along all axes",
                "return tensors that keep every spatial axis",
            )
            return None
        channels = math.prod(
            size_of(d) for d, at in zip(value.layout, letters, strict=True) if at == "c"
        )
        return Port(value.index, name, channels, layout)

    def _told_apart(self, value: Value) -> Value:
        """The same, with parts of an axis among channels (space to depth) taken for channels."""
        for place, dimension in enumerate(value.layout):
            if value.axis_of(place) is None and not any(map(value.is_top, value.space([place]))):
                if not value.space([place]):
                    continue
                size = size_of(dimension)
                value = self.mix(value, [place], "", "", drop=True)
                layout = list(value.layout)
                layout[place] = channels_of(size)
                value = self.add("view", (value,), tuple(layout))
        return value

    # layout

    def view(self, value: Value, shape: Sequence[int]) -> Value:
        """The same elements in row-major order under another shape."""
        if tuple(shape) == value.shape:
            return self.add("view", (value,), value.layout)
        waiting = [f for dimension in value.layout for f in dimension]
        layout: list[tuple[Factor, ...]] = []
        split: list[Factor] = []
        for size in shape:
            taken: list[Factor] = []
            while size_of(taken) < size:
                missing, rest = divmod(size, size_of(taken))
                f = waiting.pop(0) if waiting and not rest else None
                if f is not None and missing % f.size == 0:
                    taken.append(f)
                elif f is not None and f.size % missing == 0:
                    fine = f.size // missing
                    taken.append(replace(f, size=missing, stride=f.stride * fine))
                    waiting.insert(0, replace(f, size=fine))
                    split.append(waiting[0])
                else:
                    raise Breaking(
                        f"it lays out {value.shape} as {tuple(shape)}, across the borders of axes",
                        "reshape along one axis at a time, by whole factors",
                    )
            while waiting and waiting[0].size == 1 and size == 1 and len(taken) == 0:
                taken.append(waiting.pop(0))
            layout.append(merged(taken))
        if waiting:
            layout[-1] = merged([*layout[-1], *waiting])
        value = self.add("view", (value,), tuple(layout))
        for part in split:
            if part.axis is not None:
                value = self.periodic(value, part)
        return value

    def permute(self, value: Value, order: Sequence[int | None]) -> Value:
        """Dimensions in another order; None is a new one, and what is left out is 1 long."""
        left = [d for d in range(value.rank) if d not in order]
        if any(value.layout[d] for d in left):
            raise Breaking("it drops a dimension that is not 1 long", "index along channels only")
        return self.add(
            "view", (value,), tuple(() if d is None else value.layout[d] for d in order)
        )

    def settled(self, value: Value) -> Value:
        """The same, with channels that stand behind an axis in one dimension made part of it."""
        for place, dimension in enumerate(value.layout):
            if len(dimension) < 2 or dimension[-1].axis is not None:
                continue
            run, channels = dimension[-2], dimension[-1]
            if run.axis is None or run.stride != 1:
                continue
            value = self._joined(value, place, run.axis, channels.size)
        return value

    def _joined(self, value: Value, place: int, axis: int, size: int) -> Value:
        """Channels behind an axis become its finest part, as in depth to space."""

        def widened(at: int, dimension: tuple[Factor, ...]) -> tuple[Factor, ...]:
            if at == place:
                dimension = dimension[:-1]
            grown = [replace(f, stride=f.stride * size) if f.axis == axis else f for f in dimension]
            return merged([*grown, Factor(size, axis)] if at == place else grown)

        step = AxisStep(Taps.repeat(size), value.extent(axis) * size)
        layout = tuple(widened(at, dimension) for at, dimension in enumerate(value.layout))
        return self.add("resize", (value,), layout, {axis: step})

    def _aligned(self, values: Sequence[Value], rank: int) -> list[list[tuple[Factor, ...]]]:
        """Dimensions of several values side by side, short ones filled up at the front."""
        rows = [[()] * (rank - v.rank) + list(v.layout) for v in values]
        return [list(column) for column in zip(*rows, strict=True)]

    def _covering(self, values: Sequence[Value], shape: Sequence[int]) -> list[tuple[Factor, ...]]:
        """Per dimension, what it is made of in any of several matched values."""
        columns = self._aligned(values, len(shape))
        return [
            next((d for d in column if d), channels_of(size))
            for size, column in zip(shape, columns, strict=True)
        ]

    # operators

    def pointwise(
        self, values: Sequence[Value], shape: Sequence[int], kind: Kind = "pointwise"
    ) -> Value:
        """Elements of the same place combined, with the rules of broadcasting."""
        values = self._matched(values, len(shape))
        layout = self._covering(values, shape)
        found = tuple(layout)
        if tuple(size_of(d) for d in found) != tuple(shape):
            found = tuple(
                d if size_of(d) == size else self._spread(d, size)
                for d, size in zip(found, shape, strict=True)
            )
        return self.add(kind, values, found)

    def _spread(self, dimension: tuple[Factor, ...], size: int) -> tuple[Factor, ...]:
        if any(f.axis is not None for f in dimension):
            raise Breaking("a part of space is spread over the whole of it", _SPREAD)
        return channels_of(size)

    def _matched(self, values: Sequence[Value], rank: int) -> list[Value]:
        """Values whose dimensions lie over space alike, what is missing of an axis spread."""
        held = list(values)
        if len(held) > 1 and self._differ(held, rank):
            held = [self.settled(v) for v in held]
        for column in range(rank):
            fine = self._fine(held, rank, column)
            if fine:
                held = [self._spread_over(v, rank, column, fine) for v in held]
        if len(held) > 1 and self._differ(held, rank):
            if any(len({v.extent(axis) for v in held}) > 1 for axis in range(len(AXES))):
                raise Breaking("a part of space is spread over the whole of it", _SPREAD)
            raise Breaking(
                "it combines tensors that lie over space in different ways ("
                + " with ".join(dict.fromkeys(v.signature for v in held)) + ")",
                _SPREAD,
            )  # fmt: skip
        return held

    def _differ(self, values: Sequence[Value], rank: int) -> bool:
        for column in self._aligned(values, rank):
            held = [merged(d) for d in column]
            spatial = {d for d in held if any(f.axis is not None for f in d)}
            if len(spatial) > 1 or (
                spatial and any(d not in spatial and size_of(d) > 1 for d in held)
            ):
                return True
            if spatial and not all(held):
                return True
        return False

    def _fine(self, values: Sequence[Value], rank: int, column: int) -> tuple[Factor, ...]:
        """Parts of axes in a dimension that another value lacks there."""
        dimensions = self._aligned(values, rank)[column]
        if not any(len(d) == 0 for d in dimensions):
            return ()
        full = next((d for d in dimensions if any(f.axis is not None for f in d)), ())
        return tuple(f for f in full if f.axis is not None)

    def _spread_over(self, value: Value, rank: int, column: int, parts: Sequence[Factor]) -> Value:
        """A value that has one element where others have several of some axes, repeated."""
        place = column - (rank - value.rank)
        if place < 0:
            value = self.add("view", (value,), ((),) * -place + value.layout)
            place = 0
        if value.layout[place]:
            return value
        present: list[Factor] = []
        for part in sorted(parts, key=lambda f: f.stride):
            axis, stride, size = part.axis, part.stride, part.size
            assert axis is not None
            known = any(f.axis == axis for dimension in value.layout for f in dimension)
            if not known or value.extent(axis) % stride:
                raise Breaking("a part of space is spread over the whole of it", _SPREAD)
            present.append(part)
            taps = Taps(stride, tuple((j % stride,) for j in range(stride * size)))
            layout = [
                tuple(
                    replace(f, stride=f.stride * size)
                    if f.axis == axis and f.stride >= stride
                    else f
                    for f in dimension
                )
                for dimension in value.layout
            ]
            layout[place] = tuple(f for f in parts if f in present)
            step = AxisStep(taps, value.extent(axis) * size)
            value = self.add("resize", (value,), tuple(layout), {axis: step})
        return value

    def mix(
        self, value: Value, dimensions: Sequence[int], what: str, fix: str, *, drop: bool = False
    ) -> Value:
        """Every element of some dimensions made of all of them.

        Parameters
        ----------
        value, dimensions
            What is mixed; channels freely, parts of an axis that are no longer than a window too.
        what, fix
            Said of it where it mixes the whole of space.
        drop
            Whether the dimensions become 1 long.
        """
        for f in value.space(dimensions):
            if value.is_top(f):
                raise Breaking(what, fix, keeps=None if drop else value)
        if not drop:
            for part in value.space(dimensions):
                value = self._mixed(value, part, dimensions, drop)
            return value
        while parts := value.space(dimensions):
            value = self._mixed(value, parts[0], dimensions, drop)
        layout = tuple(() if d in dimensions else f for d, f in enumerate(value.layout))
        return value if layout == value.layout else self.add("pointwise", (value,), layout)

    def _mixed(self, value: Value, part: Factor, dimensions: Sequence[int], drop: bool) -> Value:
        axis, size, stride = part.axis, part.size, part.stride
        assert axis is not None
        if stride * size > _LONGEST_PERIOD:
            raise Breaking(
                f"it mixes {size} elements of an axis, {stride} apart", "use a smaller window"
            )
        rows = tuple(
            tuple(d * stride + j % stride for d in range(size))
            for j in range(stride if drop else stride * size)
        )
        extent = value.extent(axis)
        layout = value.layout
        if drop:
            layout = tuple(
                tuple(
                    replace(f, stride=f.stride // size)
                    if f.axis == axis and f.stride > stride
                    else f
                    for f in dimension
                    if not (at in dimensions and f == part)
                )
                for at, dimension in enumerate(layout)
            )
        step = AxisStep(Taps(stride * size, rows), extent // size if drop else extent)
        return self.add("pool", (value,), layout, {axis: step})

    def by_place(self, value: Value, dimensions: Sequence[int]) -> Value:
        """The same after a constant that varies along some dimensions.

        Raises
        ------
        Breaking
            If those reach over the whole of an axis.
        """
        for part in value.space(dimensions):
            if value.is_top(part):
                raise Breaking(
                    "a constant that varies over space is tied to the input's origin",
                    "use constants that are the same for every voxel",
                    keeps=value,
                )
            value = self.periodic(value, part)
        return value

    def periodic(self, value: Value, part: Factor) -> Value:
        """The same, told apart by its place within a part of an axis."""
        assert part.axis is not None
        length = part.stride * part.size
        taps = Taps(length, tuple((j,) for j in range(length)))
        step = AxisStep(taps, value.extent(part.axis))
        return self.add("pointwise", (value,), value.layout, {part.axis: step})

    def local(
        self,
        kind: Kind,
        value: Value,
        steps: Mapping[int, AxisStep],
        shape: Sequence[int],
        *,
        mixes: Sequence[int] = (),
    ) -> Value:
        """Windows along some dimensions, all elements of others.

        Parameters
        ----------
        kind
            Of the node.
        value
            What is read.
        steps
            By dimension; those that are channels are taken for mixed.
        shape
            Of the result.
        mixes
            Dimensions that are mixed throughout, such as the channels of a convolution.
        """
        if value.space(mixes):
            what = f"it mixes the whole of an axis like channels (axes as {value.signature!r})"
            fix = "keep channels and space in dimensions of their own"
            value = self.mix(value, mixes, what, fix, drop=True)
        value = self.settled(value)
        axes: dict[int, AxisStep] = {}
        layout = list(value.layout)
        for dimension, step in steps.items():
            axis = value.axis_of(dimension)
            if axis is not None:
                axes[axis] = step
                layout[dimension] = (Factor(step.size, axis),)
            elif value.space([dimension]) and not step.taps.is_identity:
                raise Breaking(
                    f"a window runs over a dimension that is only part of an axis (axes as "
                    f"{value.signature!r})",
                    "let windows run along whole axes",
                )
            elif not value.space([dimension]):
                layout[dimension] = channels_of(shape[dimension])
                kind = "view" if kind == "pad" else kind  # more than a matter of the border
        for dimension in mixes:
            layout[dimension] = channels_of(shape[dimension])
        return self.add(kind, (value,), tuple(layout), axes)

    def concat(self, values: Sequence[Value], dimension: int, shape: Sequence[int]) -> Value:
        """Several values behind each other along channels."""
        fix = "join tensors along channels"
        alike = []
        for value in values:
            value = self.mix(value, [dimension], "it joins tensors along space", fix, drop=True)
            alike.append(value)
        blank = [
            Value(v.index, (*v.layout[:dimension], (), *v.layout[dimension + 1 :])) for v in alike
        ]
        held = self._matched(blank, len(shape))
        layout = self._covering(held, shape)
        layout[dimension] = channels_of(shape[dimension])
        return self.add("concat", held, tuple(layout))

    def matmul(
        self,
        left: Value | None,
        right: Value | None,
        shape: Sequence[int],
        *,
        attention: bool = False,
    ) -> Value:
        """A matrix product over the last dimension of `left` and the last but one of `right`.

        One of them may be a constant (None). `attention` says what the product is of.
        """
        what = "a matrix product or attention over space mixes the whole input"
        fix = "use a convolution with kernel 1 along channels"
        if attention:
            what = "attention over space mixes the whole input: each place looks at all others"
            fix = "use attention within windows of fixed size or over channels, or convolutions"
        rank = len(shape)
        held = []
        rows: tuple[Factor, ...] = ()
        columns: tuple[Factor, ...] = ()
        if left is not None:
            left = self.mix(left, [left.rank - 1], what, fix, drop=True)
            rows = left.layout[-2] if left.rank > 1 else ()
            held.append(left)
        if right is not None:
            right = self.mix(right, [right.rank - 2], what, fix, drop=True)
            columns = right.layout[-1]
            if left is not None:
                right = self.mix(right, [right.rank - 1], what, fix, drop=True)
                columns = ()
            held.append(right)
        held = self._matched(held, rank)
        layout = self._covering(held, shape)
        if rows:
            layout[-2] = rows
        layout[-1] = columns or channels_of(shape[-1])
        return self.add("pointwise", held, tuple(layout))
