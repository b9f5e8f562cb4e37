"""How a tensor lies over space: what each of its dimensions is made of.

A :class:`Factor` of space is a run of elements of one axis, one every `stride`; any other factor is
channel-like and may be mixed freely. So transposes, reshapes and splits of an axis (pixel shuffle,
windows of attention) are followed, not guessed::

    (1, C, H*2)      [], [c], [s0]
    view (H, 2)      [], [c], [s0, every 2nd], [s0, 2 elements]
    permute, view    [], [c, s0: 2 elements], [s0, every 2nd]       space to depth

Along each axis a value is a row of elements (see :mod:`stitchsafe.geometry._axis`), whose number is
the product of its factors' sizes. The batch is 1 throughout, so its dimension is made of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["AXES", "Breaking", "Factor", "Layout", "Value", "channels_of", "merged", "size_of"]

AXES = "zyx"


@dataclass(frozen=True, slots=True)
class Factor:
    """Part of a dimension: channel-like (`axis` is None), or one element in `stride` of an axis."""

    size: int
    axis: int | None = None
    stride: int = 1


Layout = tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that depends on the input: its node, and how it lies over space."""

    index: int
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dimension) for dimension in self.layout)

    @property
    def rank(self) -> int:
        return len(self.layout)

    def space(self, dimensions: Sequence[int]) -> tuple[Factor, ...]:
        """The factors of space in some dimensions."""
        return tuple(f for d in dimensions for f in self.layout[d] if f.axis is not None)

    def extent(self, axis: int) -> int:
        """Elements along an axis."""
        return math.prod(f.size for d in self.layout for f in d if f.axis == axis)

    def is_top(self, factor: Factor) -> bool:
        """Whether a factor reaches over the whole axis, so that mixing it mixes the whole."""
        return factor.stride * factor.size == self.extent(factor.axis or 0)

    def axis_of(self, dimension: int) -> int | None:
        """The axis that a dimension is, whole and alone."""
        factors = self.layout[dimension]
        if len(factors) != 1 or factors[0].axis is None:
            return None
        axis = factors[0].axis
        return axis if factors[0].size == self.extent(axis) else None

    @property
    def signature(self) -> str:
        """The layout without what follows from the input's size."""
        return " ".join(
            "*".join(
                f"c{f.size}"
                if f.axis is None
                else f"{AXES[f.axis]}/{f.stride}" + ("" if self.is_top(f) else f":{f.size}")
                for f in dimension
            )
            or "1"
            for dimension in self.layout
        )


def size_of(factors: Sequence[Factor]) -> int:
    return math.prod(f.size for f in factors)


def channels_of(size: int) -> tuple[Factor, ...]:
    return () if size == 1 else (Factor(size),)


def merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Neighbours that are one: runs of an axis that follow each other, and channels."""
    done: list[Factor] = []
    for f in factors:
        last = done[-1] if done else None
        if f.axis is None and f.size == 1:
            continue
        if last is not None and last.axis is None and f.axis is None:
            done[-1] = Factor(last.size * f.size)
        elif last is not None and last.axis == f.axis and last.stride == f.stride * f.size:
            done[-1] = Factor(last.size * f.size, f.axis, f.stride)
        else:
            done.append(f)
    return tuple(done)


class Breaking(Exception):  # noqa: N818
    """The operator breaks locality.

    Parameters
    ----------
    reason, fix
        As in :class:`~stitchsafe.geometry._types.Break`.
    keeps
        What follows may be analysed as if the operator were mended: its output lies as this value
        does.
    """

    def __init__(self, reason: str, fix: str, *, keeps: Value | None = None) -> None:
        super().__init__(reason)
        self.reason, self.fix, self.keeps = reason, fix, keeps
