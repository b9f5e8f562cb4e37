"""What a probe saw of a network: plain and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["MeasuredAxis", "MeasuredOutput"]


@dataclass(frozen=True, slots=True)
class MeasuredOutput:
    """What was seen of one output along one axis, in the terms of `OutputAxis`.

    Parameters
    ----------
    name
        Of the output.
    scale, offset, context, receptive_field, support
        As in the trace; a phase that was not seen to respond has no support.
    touched
        Elements (at the beginning, at the end) that an end of the input changes.
    """

    name: str
    scale: Fraction
    offset: int
    context: tuple[int, int]
    receptive_field: int
    support: tuple[tuple[int, int] | None, ...]
    touched: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MeasuredAxis:
    """What was seen along one axis.

    Parameters
    ----------
    axis
        Its letter.
    input_size
        Of the inputs that were used.
    passes
        How often the network ran.
    period
        The least shift under which nothing changed; None where none was found.
    context, receptive_field, output_offset
        The largest of all outputs.
    outputs
        One each.
    """

    axis: str
    input_size: int
    passes: int
    period: int | None
    context: tuple[int, int]
    receptive_field: int
    output_offset: int
    outputs: tuple[MeasuredOutput, ...]
