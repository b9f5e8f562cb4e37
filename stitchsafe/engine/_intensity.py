"""Intensities on their way into the network: type, scale, and what becomes of NaN.

A rule is one affine map per channel, and further pointwise maps where the model asks for them, all
evaluated in float64 and rounded once to the network's type. Integers of up to 16 bits go through a
table of all their values, which is the same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stitchsafe.networks import Pointwise

__all__ = ["Intensity"]


@dataclass(frozen=True)
class Intensity:
    """``(value - offset) * gain`` per channel, and what follows.

    Parameters
    ----------
    offset, gain
        One number per channel.
    dtype
        Floating point type of the network.
    nan_to_zero
        Replace what is not finite by 0 before scaling.
    then
        For each channel, the maps that follow; empty where none do.
    """

    offset: tuple[float, ...]
    gain: tuple[float, ...]
    dtype: str = "float32"
    nan_to_zero: bool = False
    then: tuple[tuple[Pointwise, ...], ...] = ()

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
        for channel in range(len(self.offset)):
            if narrow:
                table = self._map(_all_values(raw.dtype), channel)
            for part in range(raw.shape[1]):
                values = raw[channel, part]
                # Negative values index from the table's end, where _all_values puts them.
                scaled[channel, part] = (
                    table.take(values, mode="wrap") if narrow else self._map(values, channel)
                )
        return scaled

    def _map(self, values: NDArray[np.generic], channel: int) -> NDArray[np.floating]:
        exact: NDArray[np.floating] = values.astype(np.float64)
        if self.nan_to_zero:
            np.nan_to_num(exact, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        exact = (exact - self.offset[channel]) * self.gain[channel]
        for step in self.then[channel] if self.then else ():
            exact = step.apply(exact)
        return exact.astype(self.dtype)


def _all_values(dtype: DTypeLike) -> NDArray[np.generic]:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.array([False, True])
    unsigned = np.dtype(f"u{kind.itemsize}")
    return np.arange(2 ** (8 * kind.itemsize), dtype=unsigned).view(kind)
