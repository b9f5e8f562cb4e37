"""P-pooling (Wei et al. 2019): between average and maximum, by a learnt exponent.

Over a window of non-negative x::

    y = sum x^(a + 1) / sum x^a = sum w x        w = x^a / sum x^a

a = 0 is the average (0^0 = 1), a to infinity the maximum. The gradients, which the supplement
gives, are ``dy/dx_i = w_i (a + 1 - a y / x_i)`` and ``dy/da = Cov_w(x, ln x) >= 0``.

The powers overflow, underflow and meet 0/0, so they are taken of r = x / max x, over the maximum of
the window: one of them is 1, and w does not depend on the unit of x. Of r below `eps` the power is
``r eps^(a - 1)`` instead of r^a, a line to 0, because the formula's gradient at 0 is infinite for
a < 1. So zeros have no weight for any a > 0, as in the formula, and all values are the formula's
but where a window holds positive ones below eps times its maximum.

References
----------
Wei, Z. et al. (2019). Building Detail-Sensitive Semantic Segmentation Networks with Polynomial
Pooling. Supplement, sec. 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PPool2d", "PPool3d"]

Sizes = int | Sequence[int]
_MAX = {2: F.max_pool2d, 3: F.max_pool3d}


def _sizes(name: str, value: Sizes, ndim: int, least: int) -> tuple[int, ...]:
    found = (value,) * ndim if isinstance(value, int) else tuple(int(v) for v in value)
    if len(found) != ndim or min(found) < least:
        raise ValueError(f"{name} {value} must be {ndim} whole numbers from {least} on, or one")
    return found


class _PPool(nn.Module):
    """P-pooling of any number of axes.

    Class: as max-pooling: fully equivariant at stride 1; periodic with period `stride`, which tiles
    must keep to; padding touches the border only, and ceil_mode the far end. The exponent is a
    parameter, not a function of the input; if it were, it would be a whole-input decision.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in max-pooling. What is padded has no weight. There are no indices to return.
    alpha
        The exponent: a number from 0 to infinity, the latter only if it is not learnt. To begin
        with, if it is.
    channels
        Channels of the input, for an exponent of their own each; None for one in common.
    learnable
        Whether the exponent is a parameter, ``softplus(theta)``; else it is a buffer.
    eps
        Share of a window's maximum below which a power is a line to 0; above 0, below 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Inputs are to be non-negative, such as those behind ReLU. A negative one has the weight of 0. A
    window without any above 0 gives its average, one that holds infinity gives infinity.
    Half-precision inputs are computed in float32; whole numbers in torch's default type, which is
    what comes out. It exports to ONNX; ``torch.jit.script`` does not take it.
    """

    ndim: int
    theta: Tensor
    exponent: Tensor

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        *,
        alpha: float = 1.0,
        channels: int | None = None,
        learnable: bool = True,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        ndim = self.ndim
        self.kernel_size = _sizes("kernel_size", kernel_size, ndim, 1)
        self.stride = self.kernel_size if stride is None else _sizes("stride", stride, ndim, 1)
        self.padding = _sizes("padding", padding, ndim, 0)
        self.dilation = _sizes("dilation", dilation, ndim, 1)
        self.ceil_mode, self.eps = ceil_mode, eps
        for pad, kernel in zip(self.padding, self.kernel_size, strict=True):
            if 2 * pad > kernel:
                raise ValueError(f"padding {pad} is more than half the kernel {kernel}; reduce it")
        if not alpha >= 0 or (learnable and not 0 < alpha < math.inf):
            raise ValueError(
                f"alpha {alpha} is out of range: a learnt one begins above 0 and is finite, a "
                "fixed one is 0 to infinity; choose another or learnable=False"
            )
        if not 0 < eps < 1 or (channels is not None and channels < 1):
            raise ValueError(
                f"eps {eps} must be above 0 and below 1, and channels {channels} at least 1"
            )
        shape = (1 if channels is None else channels,)
        if learnable:
            inverse = alpha + math.log(-math.expm1(-alpha))  # of softplus, without overflow
            self.theta = nn.Parameter(torch.full(shape, inverse))
        else:
            self.register_buffer("exponent", torch.full(shape, float(alpha)))
        self.learnable, self.is_max = learnable, alpha == math.inf
        self.register_load_state_dict_post_hook(_PPool._told)  # type: ignore[no-untyped-call]

    def _told(self, _: object) -> None:
        """Whether it is the maximum, after an exponent was loaded."""
        self.is_max = not self.learnable and bool(torch.isposinf(self.exponent).all())

    @property
    def alpha(self) -> Tensor:
        """The exponent, ``(1,)`` or ``(channels,)``."""
        return F.softplus(self.theta) if self.learnable else self.exponent

    def extra_repr(self) -> str:
        own = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{own}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, *sizes)`` or ``(c, *sizes)`` to what max-pooling's shape would be."""
        if x.dim() not in (self.ndim + 1, self.ndim + 2):
            raise ValueError(
                f"{type(self).__name__} takes (b, c, *sizes) or (c, *sizes) with {self.ndim} "
                f"sizes, not a tensor of shape {tuple(x.shape)}; add or drop axes"
            )
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype())
        if self.is_max:
            return _MAX[self.ndim](
                x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
        exponent = self.alpha
        channels = x.shape[x.dim() - self.ndim - 1]
        if exponent.numel() not in (1, channels):
            raise ValueError(
                f"the input has {channels} channels, and there are exponents for "
                f"{exponent.numel()}; build the layer with channels={channels} or None"
            )
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        exponent = exponent.to(wide.dtype).reshape(-1, *(1,) * self.ndim)
        return self._pooled(self._windows(wide), exponent).to(x.dtype)

    def _pooled(self, values: Tensor, exponent: Tensor) -> Tensor:
        """Means of the first dimension, in which what is padded is -inf."""
        limits = torch.finfo(values.dtype)
        top = values.max(0).values
        finite = values.clamp(-limits.max, limits.max)
        some = top > limits.tiny  # else all weigh the same
        # Above eps a change of it would cancel out, so no gradient goes there.
        unit = torch.where(some, top, 1.0).clamp_max(limits.max).detach()
        ratio = finite.clamp_min(0) / unit
        base = ratio.clamp_min(self.eps)
        power = torch.exp(exponent.clamp_max(limits.max) * base.log())
        if self.learnable:
            power = power * (ratio / base)
        else:
            power = power * torch.where(exponent > 0, ratio / base, 1.0)  # 0^0 = 1
        power = torch.where(some, power, 1.0)
        if any(self.padding) or self.ceil_mode:
            power = power.masked_fill(values == -math.inf, 0.0)
        # A window of nothing but padding gives 0.
        weights = power / power.sum(0).clamp_min(limits.tiny)
        mean = (weights * finite).sum(0)
        return torch.where(torch.isposinf(top), top, mean)

    def _counts(self, x: Tensor) -> list[int]:
        """Windows per axis, by max-pooling's rule."""
        counts = []
        for size, k, s, p, d in zip(
            x.shape[-self.ndim :], self.kernel_size, self.stride, self.padding, self.dilation,
            strict=True,
        ):  # fmt: skip
            room = size + 2 * p - d * (k - 1) - 1
            if room < 0:
                raise ValueError(
                    f"a window of {d * (k - 1) + 1} does not fit into {size} elements padded by "
                    f"{p}; use a larger input or a smaller kernel"
                )
            count = (room + s - 1 if self.ceil_mode else room) // s + 1
            # The last window must begin in the input or in its padding before.
            counts.append(count - 1 if self.ceil_mode and (count - 1) * s >= size + p else count)
        return counts

    def _windows(self, x: Tensor) -> Tensor:
        """Element i of each window, one i after the other in a new first dimension."""
        counts, pad = self._counts(x), []
        for size, count, k, s, p, d in zip(
            x.shape[-self.ndim :], counts, self.kernel_size, self.stride, self.padding,
            self.dilation, strict=True,
        ):  # fmt: skip
            pad += [max(0, (count - 1) * s + d * (k - 1) + 1 - size - p), p]
        if any(pad):
            x = F.pad(x, pad[::-1], value=-math.inf)  # as max-pooling does
        found = []
        for element in itertools.product(*map(range, self.kernel_size)):
            cut = tuple(
                slice(d * i, d * i + (count - 1) * s + 1, s)
                for i, count, s, d in zip(element, counts, self.stride, self.dilation, strict=True)
            )
            found.append(x[(slice(None),) * (x.dim() - self.ndim) + cut])
        return torch.stack(found)


class PPool2d(_PPool):
    ndim = 2


class PPool3d(_PPool):
    ndim = 3
