"""Residual networks whose downsampling is chosen by name.

A block that downsamples does so between its two convolutions, and its shortcut likewise::

    x ── conv3 ── norm ── ReLU ── downsample ── conv3 ── norm ── + ── ReLU
    │                                 │ selection               │
    └────────────────────────── downsample ── conv1 ── norm ────┘

What the main branch decides, the shortcut takes over (Rojas-Gomez et al. 2022, table A6): two
phases chosen apart would add elements of different places. A downsampling that decides nothing is
a layer of its own on each branch. ``strided`` is the network of He et al. (2016): the first
convolution and that of the shortcut skip every second element. Modules have the names that are
usual for ResNets, so that known weights load. The stem's maximum is over 3 elements throughout.

References
----------
He, K. et al. (2016). Deep Residual Learning for Image Recognition.
Rojas-Gomez, R. A. et al. (2022). Learnable Polyphase Sampling for Shift Invariant and Equivariant
Convolutional Networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn._blur import LowPassPool, StrideOneMax
from stitchsafe.nn._blur import Padding as Filtered
from stitchsafe.nn._classifier import check_numbers, convolution, mean_over_space
from stitchsafe.nn._sampling import (
    Downsampling,
    Padding,
    Site,
    check_samplings,
    downsampled,
    make_downsampling,
)

__all__ = ["ResNet", "resnet18"]

Stem = Literal["cifar", "imagenet"]

_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DECIDING = ("lps", "aps")


class _Block(nn.Module):
    """The basic block; `down` is the name of its downsampling, if it has one."""

    def __init__(
        self,
        ndim: int,
        before: int,
        after: int,
        padding: Padding,
        down: Downsampling | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        stride = 2 if down == "strided" else 1
        self.conv1 = convolution(ndim, before, after, 3, padding, stride=stride, bias=False)
        self.bn1 = _NORM[ndim](after)
        self.conv2 = convolution(ndim, after, after, 3, padding, bias=False)
        self.bn2 = _NORM[ndim](after)
        self.pool: nn.Module | None = None
        self.shortcut_pool: nn.Module | None = None
        if down is not None and down != "strided":
            self.pool = _pool(ndim, after, padding, down, options)
            if down not in _DECIDING:
                self.shortcut_pool = _pool(ndim, before, padding, down, options)
        self.downsample: nn.Module = nn.Identity()
        if down is not None or before != after:
            self.downsample = nn.Sequential(
                convolution(ndim, before, after, 1, padding, stride=stride, bias=False),
                _NORM[ndim](after),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        if self.pool is not None:
            y, selection = downsampled(self.pool, y)
            x, _ = downsampled(self.shortcut_pool or self.pool, x, selection)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def _pool(
    ndim: int,
    channels: int,
    padding: Padding,
    name: Downsampling,
    options: Mapping[str, Any] | None,
) -> nn.Module:
    return make_downsampling(name, Site(ndim, channels, channels, (2,) * ndim, padding), options)


class ResNet(nn.Module):
    """A ResNet of basic blocks with batch norm.

    Class: whole-input, by the mean over space; a classifier is not tiled. In evaluation, with
    ``lps`` or ``aps`` and circular padding, invariant to every circular shift.

    Parameters
    ----------
    classes
        Length of the result.
    in_channels
        Of the input.
    blocks
        Per resolution; all but the first begin by a downsampling. (2, 2, 2, 2) is ResNet-18.
    width
        Channels of the first resolution, doubled at each that follows.
    downsampling
        ``"strided"``, ``"max"``, ``"avg"``, ``"blur"``, ``"ppool"``, ``"lps"`` or ``"aps"``.
    downsampling_options
        Further arguments of its layers, such as ``{"low_pass": 3}`` of ``lps``.
    stem
        ``"imagenet"``, the usual one: convolution of 7, maximum of 3, each sampled by 2; or
        ``"cifar"`` for small images: convolution of 3, not sampled.
    padding
        ``"same"`` or ``"circular"``.
    ndim
        2 or 3 spatial axes.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        classes: int,
        *,
        in_channels: int = 3,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        downsampling: Downsampling = "strided",
        downsampling_options: Mapping[str, Any] | None = None,
        stem: Stem = "imagenet",
        padding: Padding = "same",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        smallest = min(blocks, default=0)
        check_numbers(
            ndim, in_channels=in_channels, classes=classes, width=width,
            **{"the smallest of blocks": smallest},
        )  # fmt: skip
        check_samplings(downsampling, None, [(2,) * ndim], padding)
        if downsampling == "soft-cluster":
            raise ValueError(
                "a ResNet has no downsampling 'soft-cluster'; take HCBackbone with encoder "
                "'resnet', or another downsampling"
            )
        if downsampling == "strided" and downsampling_options:
            option = next(iter(downsampling_options))
            raise ValueError(f"the sampling 'strided' has no option {option!r}; it has none")
        if padding == "valid":
            raise ValueError(
                "a shortcut adds maps of one size, and padding 'valid' makes two; choose 'same' or "
                "'circular'"
            )
        if stem not in get_args(Stem):
            raise ValueError(f"stem {stem!r} is unknown; it is one of {', '.join(get_args(Stem))}")
        usual, strided = stem == "imagenet", downsampling == "strided"
        stride = 2 if usual and strided else 1
        self.conv1 = convolution(
            ndim, in_channels, width, 7 if usual else 3, padding, stride=stride, bias=False
        )
        self.bn1 = _NORM[ndim](width)
        filtered: Filtered = "circular" if padding == "circular" else "zeros"
        self.stem = nn.ModuleList()
        if usual and strided:
            self.stem.append(LowPassPool(1, max_pool=3, padding=filtered))
        elif usual:
            first, second = (
                _pool(ndim, width, padding, downsampling, downsampling_options) for _ in range(2)
            )
            self.stem.extend([first, StrideOneMax(3, padding=filtered), second])
        before = width
        self.stages: list[str] = []
        for level, count in enumerate(blocks):
            after = width * 2**level
            down = downsampling if level else None
            made = [_Block(ndim, before, after, padding, down, downsampling_options)]
            made += [_Block(ndim, after, after, padding, None, None) for _ in range(count - 1)]
            self.stages.append(f"layer{level + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*made))
            before = after
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, in_channels, *sizes)`` to logits ``(b, classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for layer in self.stem:
            x, _ = downsampled(layer, x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(mean_over_space(x))
        return logits


def resnet18(classes: int, **options: Any) -> ResNet:
    """ResNet-18: two blocks at each of four resolutions.

    Parameters
    ----------
    classes
        Length of the result.
    **options
        Of :class:`ResNet`, all but `blocks`.
    """
    return ResNet(classes, blocks=(2, 2, 2, 2), **options)
