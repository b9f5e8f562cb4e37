"""Pointwise maps of one channel: what steps are once their statistics are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stitchsafe.networks._steps import Binarize, Clip, Integer, Linear, Sigmoid, Softmax

__all__ = ["Pointwise", "apply_after", "pointwise"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Pointwise:
    """A map of single values that keeps their floating point type.

    Parameters
    ----------
    kind
        ``affine`` is ``(value - centre) * gain + offset`` of `values`; ``clip`` bounds to the two
        `values`; ``above`` is 1 over the one value; ``sigmoid``; ``integer`` converts to `dtype`
        and back.
    """

    kind: Literal["affine", "clip", "above", "sigmoid", "integer"]
    values: tuple[float, ...] = ()
    dtype: str = ""

    def apply(self, values: Floats) -> Floats:
        """The map of an array, as a new one."""
        if self.kind == "affine":
            centre, gain, offset = self.values
            scaled = (values - centre) * gain
            return scaled + offset if offset else scaled
        if self.kind == "clip":
            low, high = self.values
            return np.clip(values, low, high)
        if self.kind == "above":
            return (values > self.values[0]).astype(values.dtype)
        if self.kind == "sigmoid":
            from scipy.special import expit  # here, as it takes a while to import

            smooth: Floats = expit(values)
            return smooth
        with np.errstate(invalid="ignore"):
            return values.astype(self.dtype).astype(values.dtype)

    def to_json(self) -> dict[str, Any]:
        values = [v if np.isfinite(v) else repr(v) for v in self.values]
        return {"kind": self.kind, "values": values, "dtype": self.dtype}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Pointwise:
        values = tuple(float(value) for value in content["values"])
        return cls(content["kind"], values, content["dtype"])


def pointwise(
    step: Linear | Clip | Binarize | Sigmoid | Integer, channels: int
) -> tuple[Pointwise, ...]:
    """The map of each channel for a step without statistics."""
    if isinstance(step, Linear):
        gains, offsets = _each(step.gain, channels), _each(step.offset, channels)
        return tuple(Pointwise("affine", (0.0, g, o)) for g, o in zip(gains, offsets, strict=True))
    if isinstance(step, Clip):
        low = -np.inf if step.low is None else step.low
        high = np.inf if step.high is None else step.high
        return (Pointwise("clip", (low, high)),) * channels
    if isinstance(step, Binarize):
        return tuple(Pointwise("above", (t,)) for t in _each(step.threshold, channels))
    if isinstance(step, Sigmoid):
        return (Pointwise("sigmoid"),) * channels
    return (Pointwise("integer", (), step.dtype),) * channels


def apply_after(
    steps: Sequence[Linear | Clip | Binarize | Sigmoid | Softmax | Integer], field: Floats
) -> Floats:
    """What steps make of an output of shape (n, channels, *space)."""
    for step in steps:
        if isinstance(step, Softmax):
            from scipy.special import softmax

            field = softmax(field, axis=1)
            continue
        maps = pointwise(step, field.shape[1])
        made = np.empty_like(field)
        for channel, each in enumerate(maps):
            made[:, channel] = each.apply(field[:, channel])
        field = made
    return field


def _each(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)
