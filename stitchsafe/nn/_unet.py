"""The U-Net of Rumberger et al. (2021) as one configurable network.

::

    input ── convs ──────────────── crop ── concat ── convs ── heads (linear 1x1)
                │                              │
           downsample f ─── selection ──── upsample f
                │                              │
              convs ───── crop ───── concat ─ convs
                │                      │
           downsample f ─ selection ─ upsample f
                └──────── convs ───────┘

Every level has the same number of convolutions, each followed by ReLU, on the way down and on the
way up; the deepest level has them once. Skips are cropped to the centre. Samplings go by name, max
and learnt being the paper's (see :mod:`stitchsafe.nn._sampling`). A *learnt* upsampling, with
kernel = stride = f, leads to the channels of the level above, so that f^d output positions each
have their own weights; all others keep their channels, and the concatenation carries those of both
levels.

The period along an axis is the product of its factors. A *valid* network pads nowhere and gives a
smaller output than its input; a *same* network pads with zeros and keeps the size; a *circular* one
takes what it pads from the other side.

References
----------
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stitchsafe.nn._sampling import (
    Downsampling,
    Padding,
    Site,
    Upsampling,
    check_samplings,
    downsampled,
    make_downsampling,
    make_upsampling,
    taken_before,
)
from stitchsafe.nn._selection import Selection

__all__ = ["UNet"]

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}


def _per_level(
    value: int | Sequence[int | Sequence[int]], count: int, ndim: int, name: str
) -> tuple[tuple[int, ...], ...]:
    """One tuple of `ndim` integers per level, from a number or a sequence of numbers or tuples."""
    levels = [value] * count if isinstance(value, int) else list(value)
    if len(levels) != count:
        raise ValueError(
            f"{name} has {len(levels)} entries, but this network needs {count}: give one per level "
            "or a single number"
        )
    result = tuple(
        (level,) * ndim if isinstance(level, int) else tuple(int(v) for v in level)
        for level in levels
    )
    for level in result:
        if len(level) != ndim or min(level) < 1:
            raise ValueError(f"{name} {level} must be {ndim} positive numbers, one per axis")
    return result


def _crop_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The centre of `tensor` with the spatial `shape`."""
    for axis, size in enumerate(shape, start=2):
        excess = tensor.shape[axis] - size
        if torch.compiler.is_exporting() and excess:
            # Sizes are symbols then, and what is cut off is a number all the same.
            before, whole = int(excess) // 2, (slice(None),) * axis
            tensor = tensor[(*whole, slice(before, before - int(excess)))]
        elif excess:
            tensor = tensor.narrow(axis, excess // 2, size)
    return tensor


class UNet(nn.Module):
    """A U-Net with linear heads.

    Parameters
    ----------
    ndim
        2 or 3 spatial axes.
    in_channels
        Channels of the input.
    levels
        Number of poolings.
    factors
        Pooling factors: one number, or one entry per pooling, each a number or one per axis such
        as ``(1, 2, 2)``.
    base_channels, growth
        Level i has ``round(base_channels * growth**i)`` channels.
    padding
        ``"valid"`` (the output is smaller by the context), ``"same"`` (zeros are padded) or
        ``"circular"``, which can never be tiled.
    downsampling, upsampling
        Names of :mod:`stitchsafe.nn._sampling`, which also says what goes together.
    downsampling_options, upsampling_options
        Further arguments of their layers, such as ``{"low_pass": 3}`` of ``lps``.
    heads
        Name and channels of each output, in order.
    convs_per_level
        Convolutions per level, on each side.
    kernel_size
        Odd sizes: one number, or one entry for each of the ``levels + 1`` resolutions, finest
        first.

    Raises
    ------
    ValueError
        If an argument is out of range, sizes per level do not match `levels`, or samplings do not
        match each other.
    """

    def __init__(
        self,
        *,
        ndim: int,
        in_channels: int = 1,
        levels: int,
        factors: int | Sequence[int | Sequence[int]] = 2,
        base_channels: int = 16,
        growth: float = 2,
        padding: Padding = "valid",
        downsampling: Downsampling = "max",
        upsampling: Upsampling = "learnt",
        downsampling_options: Mapping[str, Any] | None = None,
        upsampling_options: Mapping[str, Any] | None = None,
        heads: Mapping[str, int] | None = None,
        convs_per_level: int = 2,
        kernel_size: int | Sequence[int | Sequence[int]] = 3,
    ) -> None:
        super().__init__()
        if ndim not in _CONVOLUTION:
            raise ValueError(f"a U-Net has 2 or 3 spatial axes, not {ndim}")
        if levels < 0 or base_channels < 1 or in_channels < 1 or convs_per_level < 1:
            raise ValueError("levels must be >= 0; channels and convs_per_level >= 1")
        self.ndim = ndim
        self.factors = _per_level(factors, levels, ndim, "factors")
        check_samplings(downsampling, upsampling, self.factors, padding)
        self.kernel_sizes = _per_level(kernel_size, levels + 1, ndim, "kernel_size")
        if any(size % 2 == 0 for level in self.kernel_sizes for size in level):
            raise ValueError(f"kernel sizes must be odd, not {self.kernel_sizes}")
        self.padding = padding
        heads = dict(heads) if heads is not None else {"embedding": 3}
        if not heads or min(heads.values()) < 1:
            raise ValueError(f"heads need a name and at least one channel each, not {heads}")
        self.configuration: dict[str, Any] = {
            "ndim": ndim,
            "in_channels": in_channels,
            "levels": levels,
            "factors": [list(level) for level in self.factors],
            "base_channels": base_channels,
            "growth": growth,
            "padding": padding,
            "downsampling": downsampling,
            "upsampling": upsampling,
            "downsampling_options": dict(downsampling_options or {}),
            "upsampling_options": dict(upsampling_options or {}),
            "heads": heads,
            "convs_per_level": convs_per_level,
            "kernel_size": [list(level) for level in self.kernel_sizes],
        }
        """Arguments that rebuild the network: ``UNet(**configuration)``."""

        width = [round(base_channels * growth**level) for level in range(levels + 1)]
        self.down = nn.ModuleList()
        self.pool = nn.ModuleList()
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        before = in_channels
        for level in range(levels + 1):
            self.down.append(self._convs(before, width[level], level, convs_per_level))
            before = width[level]
        for level in range(levels):
            factor, fine, coarse = self.factors[level], width[level], width[level + 1]
            site = Site(ndim, fine, fine, factor, padding)
            self.pool.append(make_downsampling(downsampling, site, downsampling_options))
            site = Site(ndim, coarse, fine, factor, padding)
            self.up.append(make_upsampling(upsampling, site, upsampling_options))
            joined = fine + (fine if upsampling == "learnt" else coarse)
            self.merge.append(self._convs(joined, width[level], level, convs_per_level))
        self.heads = nn.ModuleDict(
            {name: _CONVOLUTION[ndim](width[0], channels, 1) for name, channels in heads.items()}
        )
        self._selects = upsampling in ("lpu", "decode")
        self._initialise()

    def _convs(self, before: int, after: int, level: int, count: int) -> nn.Sequential:
        kernel = self.kernel_sizes[level]
        pad = tuple(0 if self.padding == "valid" else k // 2 for k in kernel)
        mode = "circular" if self.padding == "circular" else "zeros"
        layers: list[nn.Module] = []
        for channels in [before] + [after] * (count - 1):
            convolution = _CONVOLUTION[self.ndim](
                channels, after, kernel, padding=pad, padding_mode=mode
            )
            layers += [convolution, nn.ReLU()]
        return nn.Sequential(*layers)

    def _initialise(self) -> None:
        """He initialisation; each output of a transposed convolution sees all input channels."""
        deciding = [each for each in self.pool if not isinstance(each, nn.Sequential)]
        own = {id(module) for each in deciding for module in each.modules()}
        for module in self.modules():
            if id(module) in own:
                continue  # score networks and the like begin as their layers say
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        for head in self.heads.values():
            assert isinstance(head, nn.Conv2d | nn.Conv3d)
            nn.init.normal_(head.weight, std=math.sqrt(1 / head.in_channels))

    @property
    def period(self) -> tuple[int, ...]:
        """Product of the pooling factors per axis, in voxels."""
        return tuple(math.prod(f[axis] for f in self.factors) for axis in range(self.ndim))

    @property
    def margin(self) -> tuple[int, ...]:
        """Voxels per side by which a valid output is smaller than its input; 0 when padded.

        Of the convolutions; samplings that need neighbours add theirs.
        """
        if self.padding != "valid":
            return (0,) * self.ndim
        count = int(self.configuration["convs_per_level"])
        margins = []
        for axis in range(self.ndim):
            scale, total = 1, 0
            for level, kernel in enumerate(self.kernel_sizes):
                sides = 1 if level == len(self.factors) else 2
                total += sides * count * (kernel[axis] // 2) * scale
                scale *= self.factors[level][axis] if level < len(self.factors) else 1
            margins.append(total)
        return tuple(margins)

    def forward(
        self, x: Tensor, selections: Sequence[Selection] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Apply the network.

        Parameters
        ----------
        x
            ``(batch, in_channels, *spatial)``.
        selections
            Phases that are decided elsewhere, one selection per level, finest first (see
            :func:`~stitchsafe.nn.pinned`); for `lps` and `aps`.

        Returns
        -------
        Tensor or tuple of Tensor
            One tensor for one head, else one per head in the order of `heads`. No activation is
            applied to heads (a foreground head returns logits).

        Raises
        ------
        ValueError
            If a size does not divide by the pooling factors on the way down, because the pooling
            would drop voxels and the skips would no longer meet on one lattice.
        """
        skips: list[tuple[Tensor, Any]] = []
        given = self._given(selections)
        for level, convs in enumerate(self.down):
            x = convs(x)
            if level < len(self.factors):
                self._check_size(x.shape[2:], level)
                skip = x
                x, selection = downsampled(self.pool[level], x, given[level])
                skips.append((skip, selection))
        for level in reversed(range(len(self.factors))):
            skip, selection = skips[level]
            x = self.up[level](x, selection) if self._selects else self.up[level](x)
            x = self.merge[level](torch.cat([_crop_to(skip, x.shape[2:]), x], dim=1))
        outputs = tuple(head(x) for head in self.heads.values())
        return outputs if len(outputs) > 1 else outputs[0]

    def _given(self, selections: Sequence[Selection] | None) -> Sequence[Selection | None]:
        levels = len(self.factors)
        if selections is None:
            return [None] * levels
        down = self.configuration["downsampling"]
        if down not in ("lps", "aps") or len(selections) != levels:
            raise ValueError(
                f"{len(selections)} selections are given to a network of {levels} levels with "
                f"downsampling {down!r}; give one per level, and only to 'lps' or 'aps'"
            )
        return selections

    def _check_size(self, shape: Sequence[int], level: int) -> None:
        taken = taken_before(self.pool[level])
        for axis, (size, factor) in enumerate(zip(shape, self.factors[level], strict=True)):
            if over := (size - taken) % factor:
                behind = f" behind filters that take {taken} of them" if taken else ""
                raise ValueError(
                    f"axis {axis} has {int(size)} voxels where level {level} pools by {factor}"
                    f"{behind}, which does not divide it; change the input by {factor - int(over)} "
                    "times the product of the factors above"
                )
