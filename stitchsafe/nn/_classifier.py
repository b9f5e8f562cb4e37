"""A small convolutional classifier whose downsampling is chosen by name.

::

    input ── convs ── downsample ── convs ── downsample ── convs ── mean over space ── linear

The mean does not see where something lies, and convolutions move along with it; so what is left of
an image's place in the answer comes from downsampling and from the border. With circular padding
and a downsampling that follows the image (``lps``, ``aps``) the answer is the same for all circular
shifts (Rojas-Gomez et al. 2022); with ``max`` only for multiples of ``2^l``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stitchsafe.nn._sampling import (
    Downsampling,
    Padding,
    Site,
    check_samplings,
    downsampled,
    make_downsampling,
)

__all__ = ["Classifier", "convolution", "mean_over_space"]

_CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


def convolution(
    ndim: int,
    before: int,
    after: int,
    kernel: int,
    padding: Padding,
    *,
    stride: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A convolution before ReLU, with He's initialisation and the network's padding."""
    made = _CONVOLUTION[ndim](
        before, after, kernel, stride,
        padding=0 if padding == "valid" else kernel // 2,
        padding_mode="circular" if padding == "circular" else "zeros",
        bias=bias,
    )  # fmt: skip
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made


def mean_over_space(x: Tensor) -> Tensor:
    """``(b, c, *sizes)`` to ``(b, c)``."""
    return x.flatten(2).mean(2)


def check_numbers(ndim: int, **counts: int) -> None:
    """Refuse what no network can be made of."""
    if ndim not in _CONVOLUTION:
        raise ValueError(f"a classifier has 2 or 3 spatial axes, not {ndim}; give 2 or 3")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")


class Classifier(nn.Module):
    """Convolutions with ReLU, downsamplings by 2, mean over space, linear head.

    Class: whole-input, by the mean; a classifier is not tiled.

    Parameters
    ----------
    ndim
        2 or 3 spatial axes.
    in_channels
        Of the input.
    classes
        Length of the result.
    widths
        Channels per resolution, finest first; one downsampling between each and the next.
    depth
        Convolutions of 3 pixels per resolution.
    downsampling, downsampling_options
        A name of :mod:`stitchsafe.nn._sampling`, and further arguments of its layer.
    padding
        ``"same"``, ``"circular"`` or ``"valid"``, of convolutions and samplings.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        *,
        ndim: int,
        in_channels: int = 1,
        classes: int,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 1,
        downsampling: Downsampling = "max",
        downsampling_options: Mapping[str, Any] | None = None,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        smallest = min(widths, default=0)
        check_numbers(
            ndim, in_channels=in_channels, classes=classes, depth=depth,
            **{"the smallest of widths": smallest},
        )  # fmt: skip
        factor = (2,) * ndim
        check_samplings(downsampling, None, [factor] * (len(widths) - 1), padding)
        self.ndim = ndim
        self.stages, self.pool = nn.ModuleList(), nn.ModuleList()
        before = in_channels
        for level, width in enumerate(widths):
            if level:
                site = Site(ndim, before, before, factor, padding)
                self.pool.append(make_downsampling(downsampling, site, downsampling_options))
            layers: list[nn.Module] = []
            for channels in [before] + [width] * (depth - 1):
                layers += [convolution(ndim, channels, width, 3, padding), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
            before = width
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, in_channels, *sizes)`` to logits ``(b, classes)``."""
        for level, stage in enumerate(self.stages):
            if level:
                x, _ = downsampled(self.pool[level - 1], x)
            x = stage(x)
        logits: Tensor = self.head(mean_over_space(x))
        return logits
