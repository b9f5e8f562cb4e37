"""Low-pass filters before sampling, and pooling by them.

The filters are the rows of Pascal's triangle divided by their sum, one axis after the other: 2
taps are the box, 3 (``1 2 1``, "Tri-3" in Rojas-Gomez et al. 2022) the triangle, 5 and 7 come ever
closer to a Gaussian. All have DC gain 1: a constant stays what it is. An even number of taps moves
the image by half an element, towards its beginning.

References
----------
Zhang, R. (2019). Making Convolutional Networks Shift-Invariant Again.
Rojas-Gomez, R. A. et al. (2022). Learnable Polyphase Sampling for Shift Invariant and Equivariant
Convolutional Networks.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn._polyphase import spatial

__all__ = ["LowPass", "LowPassPool", "Padding", "StrideOneMax", "padded"]

Padding = Literal["circular", "zeros", "reflect", "valid"]

CONVOLUTION = {2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}


def check_padding(padding: str, among: tuple[str, ...] = get_args(Padding)) -> None:
    """Refuse a padding of another name."""
    if padding not in among:
        raise ValueError(f"padding {padding!r} is not known; choose one of {', '.join(among)}")


def padded(x: Tensor, before: int, after: int, padding: str) -> Tensor:
    """An image with so many elements more at both ends of each spatial axis."""
    if padding == "valid" or not (before or after):
        return x
    mode = "constant" if padding == "zeros" else padding
    reach, least = max(before, after), min(x.shape[2:])
    if mode != "constant" and reach > least - (mode == "reflect"):
        raise ValueError(
            f"sizes {tuple(x.shape[2:])} are too small for {reach} elements of {padding!r} padding "
            f"per end; give at least {reach + (mode == 'reflect')} per axis, fewer taps or padding "
            "'zeros'"
        )
    return F.pad(x, (before, after) * (x.dim() - 2), mode=mode)


def _enough(x: Tensor, count: int) -> Tensor:
    """What a window of so many elements fits into."""
    if min(x.shape[2:]) < count:
        raise ValueError(
            f"a window of {count} does not fit into {tuple(x.shape[2:])} elements; give larger "
            "images or a smaller window"
        )
    return x


class LowPass(nn.Module):
    """A binomial low-pass filter at full resolution.

    Class: fully equivariant with ``padding="valid"``; with another padding tile-dependent.

    Parameters
    ----------
    taps
        Per axis, from 1 (no filter) on; 3 is Tri-3.
    padding
        ``"circular"``, ``"zeros"``, ``"reflect"``, or ``"valid"`` for none: the output is then
        ``taps - 1`` smaller.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    kernel: Tensor

    def __init__(self, taps: int = 3, *, padding: Padding = "circular") -> None:
        super().__init__()
        if taps < 1:
            raise ValueError(f"a filter has at least 1 tap, not {taps}; 3 is the usual number")
        check_padding(padding)
        self.taps, self.padding = taps, padding
        row = [math.comb(taps - 1, k) / 2 ** (taps - 1) for k in range(taps)]
        self.register_buffer("kernel", torch.tensor(row), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.taps}, padding={self.padding!r}"

    @property
    def taken(self) -> int:
        """Elements per axis by which the output is smaller."""
        return self.taps - 1 if self.padding == "valid" else 0

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, *sizes)`` to the same, smaller by ``taps - 1`` if nothing is padded."""
        ndim, channels = spatial(x), x.shape[1]
        if self.taps == 1:
            return x
        x = _enough(padded(x, (self.taps - 1) // 2, self.taps // 2, self.padding), self.taps)
        for axis in range(ndim):
            shape = [1] * ndim
            shape[axis] = self.taps
            kernel = self.kernel.to(x.dtype).reshape(1, 1, *shape)
            x = CONVOLUTION[ndim](x, kernel.expand(channels, 1, *shape), groups=channels)
        return x


class StrideOneMax(nn.Module):
    """The maximum of a window at every place: max-pooling whose sampling is left to another layer.

    Class: fully equivariant with ``padding="valid"``; with another padding tile-dependent.

    Parameters
    ----------
    kernel_size
        Elements per axis.
    padding
        As in :class:`LowPass`. Zeros are meant for what ReLU has passed.
    """

    def __init__(self, kernel_size: int = 2, *, padding: Padding = "circular") -> None:
        super().__init__()
        if kernel_size < 1:
            raise ValueError(f"a window has at least 1 element, not {kernel_size}; 2 is usual")
        check_padding(padding)
        self.kernel_size, self.padding = kernel_size, padding

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, padding={self.padding!r}"

    @property
    def taken(self) -> int:
        """Elements per axis by which the output is smaller."""
        return self.kernel_size - 1 if self.padding == "valid" else 0

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, *sizes)`` to the same."""
        ndim, reach = spatial(x), self.kernel_size - 1
        x = _enough(padded(x, reach // 2, reach - reach // 2, self.padding), self.kernel_size)
        return _MAX_POOL[ndim](x, self.kernel_size, stride=1)


class LowPassPool(nn.Module):
    """Low-pass filter, then every `stride`-th element: anti-aliased pooling (Zhang 2019).

    A baseline: it dampens what aliasing does to shifts and does not remove it. With `max_pool` it
    is max-pooling at stride 1 followed by filter and sampling.

    Class: periodic with period `stride`; with a padding other than ``"valid"`` tile-dependent.

    Parameters
    ----------
    taps, padding
        Of the filter; see :class:`LowPass`.
    stride
        Factor of the sampling.
    max_pool
        Window of a maximum at stride 1 that goes before, or None.
    """

    def __init__(
        self,
        taps: int = 3,
        *,
        stride: int = 2,
        padding: Padding = "circular",
        max_pool: int | None = None,
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"the stride is at least 1, not {stride}; 2 halves the size")
        self.stride = stride
        self.max_pool = (
            nn.Identity() if max_pool is None else StrideOneMax(max_pool, padding=padding)
        )
        self.low_pass = LowPass(taps, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, *sizes)`` to sizes divided by the stride, rounded up."""
        ndim = spatial(x)
        x = self.low_pass(self.max_pool(x))
        return x[(slice(None),) * 2 + (slice(None, None, self.stride),) * ndim]
