"""Encoders that cluster while they downsample, and a segmenter without any other decoder.

::

    input ── stage 0 ── down ── stage 1 ── down ── stage 2 ── head (linear 1x1)
                        │ assignment       │ assignment           │
    logits ◀── decode ◀─┘◀───── decode ◀───┘◀─────────────────────┘

The feed-forward path is that of any encoder: superpixels are made along the way and are used only
to bring the prediction back to the pixels (Suzuki 2021, Fig. 2 and Eq. 3). Where only the deepest
downsamplings cluster, the rest of the way is bilinear.

References
----------
Suzuki, T. (2021). Implicit Integration of Superpixel Segmentation into Fully Convolutional
Networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn._cells import Border, convolutions, superpixels
from stitchsafe.nn._soft_clustering import ClusterUp, SoftClusterDown

__all__ = ["HCBackbone", "HCFCN"]

Encoder = Literal["resnet", "unet"]

_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _convs(ndim: int, before: int, after: int, count: int, padding: str) -> nn.Sequential:
    """Convolutions of 3 pixels, each followed by ReLU."""
    layers: list[nn.Module] = []
    mode = "circular" if padding == "circular" else "zeros"
    for channels in [before] + [after] * (count - 1):
        width = 0 if padding == "valid" else 1
        convolution = convolutions[ndim](channels, after, 3, padding=width, padding_mode=mode)
        layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """The basic block of a ResNet, B(x) = I(x) + R(x), with ReLU; strided if asked to."""

    def __init__(self, ndim: int, before: int, after: int, stride: int, padding: str) -> None:
        super().__init__()
        mode = "circular" if padding == "circular" else "zeros"

        def convolution(channels: int, kernel: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                convolutions[ndim](
                    channels, after, kernel, stride, kernel // 2, bias=False, padding_mode=mode
                ),
                _NORM[ndim](after),
            )

        self.first = convolution(before, 3, stride)
        self.second = convolution(after, 3, 1)
        changes = stride > 1 or before != after
        self.identity = convolution(before, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.second(F.relu(self.first(x)))
        return F.relu(self.identity(x) + residual)


class HCBackbone(nn.Module):
    """An encoder that returns its coarsest features and the assignments that lead back.

    Class: periodic with ``2^l`` over l downsamplings. Padding ``"valid"`` is safe to tile at
    multiples of it, ``"same"`` where the border is the volume's own; ``"circular"`` is not.

    Parameters
    ----------
    ndim
        2 or 3 spatial axes.
    in_channels
        Of the input.
    widths
        Channels per resolution, finest first; one downsampling by 2 between each and the next.
    encoder
        ``"unet"``: per resolution convolutions of 3 pixels with ReLU, sampled by a convolution with
        kernel = stride = 2. ``"resnet"``: basic blocks with batch norm, of which the first of each
        coarser resolution is strided and samples (the paper's choice).
    depth
        Convolutions (or blocks) per resolution.
    clustered
        How many downsamplings cluster, from the deepest up; all by default.
    padding
        At the border. A ResNet pads: its strided convolutions would otherwise lie between cells.
    features, temperature
        As in :class:`SoftClusterDown`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        *,
        encoder: Encoder = "unet",
        depth: int = 2,
        clustered: int | None = None,
        padding: Border = "same",
        features: int = 64,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        levels = len(widths) - 1
        if ndim not in convolutions:
            raise ValueError(f"a backbone has 2 or 3 spatial axes, not {ndim}; give 2 or 3")
        if levels < 1 or min(widths) < 1 or in_channels < 1 or depth < 1:
            raise ValueError(
                f"widths {tuple(widths)}, in_channels {in_channels} and depth {depth} make no "
                "network; give at least two widths and positive numbers throughout"
            )
        if encoder not in ("resnet", "unet"):
            raise ValueError(f"encoder is {encoder!r}; choose 'resnet' or 'unet'")
        if encoder == "resnet" and padding == "valid":
            raise ValueError(
                "a ResNet's strided convolutions need padding to sample the cells, and padding is "
                "'valid'; choose padding 'same', or encoder 'unet'"
            )
        clustered = levels if clustered is None else clustered
        if not 0 <= clustered <= levels:
            raise ValueError(
                f"clustered is {clustered}; give a number from 0 to {levels}, the downsamplings"
            )
        self.ndim, self.clustered = ndim, clustered
        self.padding: Border = padding
        self.widths = tuple(widths)
        self.stages, self.down = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else in_channels
            if level:
                blocks = encoder == "resnet"
                down = (
                    _Block(ndim, before, width, 2, padding)
                    if blocks
                    else convolutions[ndim](before, width, 2, 2)
                )
                if level > levels - clustered:
                    down = SoftClusterDown(
                        ndim, before, width, down=down, padding=padding,
                        features=features, temperature=temperature,
                    )  # fmt: skip
                self.down.append(down)
            if encoder == "unet":
                self.stages.append(_convs(ndim, width if level else before, width, depth, padding))
            else:
                # The strided block is one of the resolution's; the finest has a stem instead.
                stem = [] if level else [_convs(ndim, before, width, 1, padding)]
                rest = [_Block(ndim, width, width, 1, padding) for _ in range(depth - bool(level))]
                self.stages.append(nn.Sequential(*stem, *rest))

    @property
    def stride(self) -> int:
        """Pixels of the input per cell of the coarsest features."""
        return int(2 ** len(self.down))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode.

        Parameters
        ----------
        x
            ``(b, in_channels, *pixels)``; sizes must be even at each downsampling.

        Returns
        -------
        features : Tensor
            ``(b, widths[-1], *cells)``.
        assignments : tuple of Tensor
            Of the downsamplings that cluster, finest first.

        Raises
        ------
        ValueError
            If a size is odd where it is halved.
        """
        assignments = []
        x = self.stages[0](x)
        for level, (down, stage) in enumerate(zip(self.down, self.stages[1:], strict=True)):
            if any(size % 2 for size in x.shape[2:]):
                raise ValueError(
                    f"features of {tuple(x.shape[2:])} pixels cannot be halved at level {level}; "
                    f"give an input whose sizes differ by multiples of {self.stride} from one that "
                    "fits" + ("" if self.padding == "valid" else ", here multiples of it")
                )
            if isinstance(down, SoftClusterDown):
                x, assignment = down(x)
                assignments.append(assignment)
            else:
                x = down(x)
            x = stage(x)
        return x, tuple(assignments)


class HCFCN(nn.Module):
    """Dense prediction whose only decoder is cluster decoding (the paper's HCFCN, small).

    Class: as :class:`HCBackbone`, with the decoding's context of one cell per level and side.

    Parameters
    ----------
    ndim, in_channels, widths, encoder, depth, clustered, padding, features, temperature
        Of the encoder; see :class:`HCBackbone`.
    out_channels
        Of the prediction.
    hard
        Whether decoding takes the most similar cell alone.

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
        out_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        encoder: Encoder = "unet",
        depth: int = 2,
        clustered: int | None = None,
        padding: Border = "same",
        features: int = 64,
        temperature: float = 0.07,
        hard: bool = False,
    ) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(f"out_channels {out_channels} must be at least 1; give the classes")
        self.backbone = backbone = HCBackbone(
            ndim, in_channels, widths, encoder=encoder, depth=depth, clustered=clustered,
            padding=padding, features=features, temperature=temperature,
        )  # fmt: skip
        self.head = convolutions[ndim](widths[-1], out_channels, 1)
        self.up = nn.ModuleList(
            ClusterUp(ndim, padding=padding, hard=hard) for _ in range(backbone.clustered)
        )
        left = 2 ** (len(backbone.down) - backbone.clustered)
        mode = "bilinear" if ndim == 2 else "trilinear"
        self.rest = nn.Upsample(scale_factor=left, mode=mode) if left > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Predict at every pixel; with padding ``"valid"`` at those that have all context."""
        features, assignments = self.backbone(x)
        found: Tensor = self.head(features)
        for up, assignment in zip(self.up, reversed(assignments), strict=True):
            found = up(found, assignment)
        rest: Tensor = self.rest(found)
        return rest

    def superpixels(self, x: Tensor) -> list[Tensor]:
        """Hierarchical superpixels of an image, finest first; see :func:`superpixels`.

        Pixels that only the first, plain downsamplings join share one.
        """
        _, assignments = self.backbone(x)
        left = 2 ** (len(self.backbone.down) - self.backbone.clustered)
        maps = superpixels(assignments, padding=self.backbone.padding)
        for axis in range(1, 1 + self.backbone.ndim) if left > 1 else ():
            maps = [each.repeat_interleave(left, axis) for each in maps]
        return maps
