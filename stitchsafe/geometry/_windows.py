"""What windowed operators do to one axis, whichever framework calls them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from stitchsafe.geometry._axis import Taps, drops_remainder
from stitchsafe.geometry._graph import AxisStep
from stitchsafe.geometry._layout import Breaking

__all__ = [
    "Drift",
    "SizeRefusal",
    "linear_resize",
    "linear_taps",
    "nearest_resize",
    "padding",
    "strided",
    "transposed",
    "window",
]

window = Taps.window


class SizeRefusal(Exception):  # noqa: N818
    """The network does not take an input of this size.

    `layer` and `op` say who refuses it, where that is known; `periods` per axis, after how many
    voxels what ran until then repeats.
    """

    layer: str = ""
    op: str = ""
    periods: tuple[int, ...] = ()


class Drift(SizeRefusal):
    """A resize to a given size has no whole factor.

    Parameters
    ----------
    size, out
        Elements that it reads and makes.
    """

    def __init__(self, size: int, out: int) -> None:
        super().__init__(f"a resize from {size} to {out} elements has no whole factor")
        self.size, self.out = size, out

    @property
    def factor(self) -> Fraction:
        """Elements of the result for each that is read."""
        return Fraction(self.out, self.size)


def strided(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> AxisStep:
    """A convolution or pooling with `before` elements of padding at the front."""
    lossy = drops_remainder(size, out, kernel, stride, before, dilation)
    return AxisStep(Taps.window(kernel, stride, before, dilation), out, lossy)


def transposed(out: int, kernel: int, stride: int, before: int, dilation: int) -> AxisStep:
    """A transposed convolution that crops `before` elements at the front."""
    return AxisStep(Taps.transposed(kernel, stride, before, dilation), out)


def padding(size: int, out: int, before: int, after: int, depth: int | None) -> AxisStep:
    """Elements put before and after; `depth` is where the first of them reads, None for nowhere.

    Raises
    ------
    SizeRefusal
        If that does not give `out` elements.
    """
    if size + before + after != out:
        raise SizeRefusal(f"padding {size} elements by {before} and {after} gave {out}")
    reach = 0 if depth is None else max(before, after) * depth
    return AxisStep(Taps.window(1, 1, before), out, False, reach, (before, after))


def _factor(size: int, out: int, scale: float | None) -> Fraction:
    """The whole factor, or one over it, of a resize.

    Raises
    ------
    Breaking
        If the network asks for another.
    SizeRefusal
        If these sizes give another.
    """
    if scale is not None and not float(scale).is_integer() and not (1 / scale).is_integer():
        raise Breaking(
            f"it resizes by {scale:g}, which is no whole factor",
            "use a whole factor, such as scale_factor=2",
        )
    factor = Fraction(out, size)
    if scale is None and 1 not in (factor.numerator, factor.denominator):
        raise Drift(size, out)
    whole = 1 in (factor.numerator, factor.denominator)
    if not whole or (scale is not None and factor != Fraction(scale).limit_denominator(1000)):
        raise SizeRefusal(f"a resize from {size} to {out} elements has no whole factor")
    return factor


def nearest_resize(size: int, out: int, scale: float | None, *, centred: bool = False) -> AxisStep:
    """Nearest neighbours; `centred` where elements are compared by their centres."""
    factor = _factor(size, out, scale)
    ratio = np.float32(size / out)
    shift = np.float32(0.5 if centred else 0)
    picked = np.floor((np.arange(out, dtype=np.float32) + shift) * ratio).astype(np.int64)
    true = (2 * np.arange(out) + int(centred)) * size // (2 * out)
    if not np.array_equal(picked, true):
        raise SizeRefusal(f"a resize from {size} to {out} elements rounds its indices")
    if factor >= 1:
        return AxisStep(Taps.repeat(int(factor)), out)
    step = int(1 / factor)
    return AxisStep(Taps.window(1, step, -(step // 2) if centred else 0), out)


def linear_resize(size: int, out: int, scale: float | None) -> AxisStep:
    """Linear interpolation between centres, the ends repeated."""
    factor = _factor(size, out, scale)
    half = Fraction(1, 2)
    return AxisStep(linear_taps(factor, lambda phase: (phase + half) / factor - half), out)


def linear_taps(factor: Fraction, place: Callable[[int], Fraction]) -> Taps:
    """What linear interpolation reads.

    Parameters
    ----------
    factor
        Elements for each that is read.
    place
        Where each phase lies among those that are read.

    Raises
    ------
    Breaking
        If the weights follow the position by rounding.
    """
    whole = max(factor.numerator, factor.denominator)
    if whole & (whole - 1):
        raise Breaking(
            f"linear resizing by {factor} rounds its weights differently from place to place",
            "resize by a power of two, or by nearest neighbours",
        )
    rows = []
    for phase in range(factor.numerator):
        at = place(phase)
        low = math.floor(at)
        rows.append((low,) if at == low else (low, low + 1))
    return Taps(factor.denominator, tuple(rows))
