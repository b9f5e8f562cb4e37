"""Intensities on their way into the network: type, scale, and what becomes of NaN.

A rule is one affine map per channel, evaluated in float64 and rounded once to the network's type.
Integers of up to 16 bits go through a table of all their values, which is the same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Intensity"]


@dataclass(frozen=True)
class Intensity:
    """``(value - offset) * gain`` per channel.

    Parameters
    ----------
    offset, gain
        One number per channel.
    dtype
        Floating point type of the network.
    nan_to_zero
        Replace what is not finite by 0 before scaling.
    """

    offset: tuple[float, ...]
    gain: tuple[float, ...]
    dtype: str = "float32"
    nan_to_zero: bool = False

    @classmethod
    def between(
        cls, low: Sequence[float], high: Sequence[float], *, dtype: str, nan_to_zero: bool
    ) -> Intensity:
        """Maps `low` to 0 and `high` to 1; a channel without contrast becomes 0."""
        gain = tuple(1.0 / (h - a) if h > a else 0.0 for a, h in zip(low, high, strict=True))
        return cls(tuple(map(float, low)), gain, dtype, nan_to_zero)

    def apply(self, raw: NDArray[np.generic]) -> NDArray[np.floating]:
        """Scale an array of shape (channels, *spatial)."""
        scaled = np.empty(raw.shape, self.dtype)
        narrow = raw.dtype.kind in "iub" and raw.dtype.itemsize <= 2
        for channel, (offset, gain) in enumerate(zip(self.offset, self.gain, strict=True)):
            if narrow:
                table = self._affine(_all_values(raw.dtype), offset, gain)
            for part in range(raw.shape[1]):
                values = raw[channel, part]
                # Negative values index from the table's end, where _all_values puts them.
                scaled[channel, part] = (
                    table.take(values, mode="wrap")
                    if narrow
                    else self._affine(values, offset, gain)
                )
        return scaled

    def _affine(
        self, values: NDArray[np.generic], offset: float, gain: float
    ) -> NDArray[np.floating]:
        exact = values.astype(np.float64)
        if self.nan_to_zero:
            np.nan_to_num(exact, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return ((exact - offset) * gain).astype(self.dtype)


def _all_values(dtype: DTypeLike) -> NDArray[np.generic]:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.array([False, True])
    unsigned = np.dtype(f"u{kind.itemsize}")
    return np.arange(2 ** (8 * kind.itemsize), dtype=unsigned).view(kind)
