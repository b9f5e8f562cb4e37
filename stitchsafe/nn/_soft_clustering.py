"""Soft clustering at downsampling, and its decoding instead of upsampling (Suzuki, 2021).

::

    x  (b, c, 2n) ── down ───────── y  (b, c', n) ── ... ── z  (b, d, n)
    │                               │                       │
    └── W ── cosine / tau ── W~ ────┘                       │
               │ softmax over the 3^d cells around          │
               assignment (b, 3^d, 2n) ───────────────── decode ── (b, d, 2n)

A downsampling makes one *cell* of every f^d pixels; its output at a cell is the seed of a cluster.
Each pixel is assigned to the cells around its own, 9 in 2-D and 27 in 3-D, by the softmax of the
cosine similarity of linear maps of pixel and seed (Eq. 4). Decoding gives each pixel the mean of
what the cells hold, weighted by its assignment (Eq. 2 and 3). Candidates are numbered row by row,
``k = 3 (dy + 1) + (dx + 1)``, and ``9 (dz + 1)`` more in 3-D. An axis that is not downsampled
has its own cell as the only candidate.

What happens at the border is a choice: ``"same"`` leaves candidates beyond it out, so that all
weights of a pixel sum to 1; ``"valid"`` gives nothing for cells that lack a neighbour; and
``"circular"`` takes them from the other side.

Nothing is kept in a module between a downsampling and its decoding: the assignment is returned and
given. It is of float32 at least, so that its weights sum to 1 in mixed precision, too.

References
----------
Suzuki, T. (2021). Implicit Integration of Superpixel Segmentation into Fully Convolutional
Networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn._cells import (
    Border,
    by_cell,
    by_pixel,
    centre,
    checked_border,
    checked_factors,
    convolutions,
    decoded,
    decoded_sizes,
    fitting,
    hard_decoded,
    product,
    ring_around,
    windows_of,
)  # fmt: skip

__all__ = ["ClusterUp", "SoftClusterDown"]

_SMALLEST_NORM = 1e-4
"""Below it a vector counts for less than its direction, which bounds the gradient at 0."""


class _Clustering(nn.Module):
    """What assignment and decoding share: cells, and what they depend on."""

    def __init__(self, factors: tuple[int, ...], padding: str) -> None:
        super().__init__()
        self.factors, self.padding = factors, padding

    def _geometry(self, *, cuts: bool) -> dict[str, Any]:
        """Of pixels (with a ring of cells cut off, or as they are) and cells, by name."""
        pixels, cells = [], []
        for f in self.factors:
            ring = f > 1
            shift = f if ring and cuts and self.padding == "valid" else 0
            first = 0 if self.padding == "valid" or not ring else -1
            pixels.append({"stride": 1, "support": [[shift, shift]]})
            cells.append({"stride": 1, "support": [[first, first + 2 * ring]] * f})
        found: dict[str, Any] = {"pixels": pixels, "cells": cells}
        if self.padding == "circular":
            found["breaks"] = [
                {
                    "reason": "candidates at the border are taken from the other side of the input",
                    "fix": "use padding 'valid' or 'same'",
                }
            ]
        return found


class _Assignment(_Clustering):
    """Soft assignment of pixels to the seeds around them; one opaque leaf for the geometry."""

    def __init__(
        self,
        factors: tuple[int, ...],
        padding: str,
        channels: tuple[int, int],
        features: int,
        temperature: float,
    ) -> None:
        super().__init__(factors, padding)
        convolution = convolutions[len(factors)]
        self.pixels = convolution(channels[0], features, 1, bias=False)
        self.seeds = convolution(channels[1], features, 1, bias=False)
        self.temperature = temperature

    def lattice_geometry(self) -> dict[str, Any]:
        found = self._geometry(cuts=True)
        return {"inputs": [found.pop("pixels"), found.pop("cells")], **found}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pixels, seeds = (
            F.normalize(_widened(found), dim=1, eps=_SMALLEST_NORM)
            for found in (self.pixels(x), self.seeds(y))
        )
        pixels = centre(pixels, decoded_sizes(seeds.shape[2:], self.factors, self.padding))
        if self.padding == "same":
            # One channel more tells cells from the ring around them, which is filled with zeros.
            seeds = torch.cat([seeds, torch.ones_like(seeds[:, :1])], dim=1)
        windows = windows_of(ring_around(seeds, self.factors, self.padding), self.factors)
        candidates = windows[..., : pixels.shape[1]].transpose(-1, -2)
        similarity = product(by_cell(pixels, self.factors), candidates)
        if self.padding == "same":
            outside = windows[..., -1] == 0
            similarity = similarity.masked_fill(outside.unsqueeze(-2), -math.inf)
        return by_pixel((similarity / self.temperature).softmax(dim=-1), self.factors)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class SoftClusterDown(nn.Module):
    """A downsampling that also groups pixels softly around what it samples (Suzuki 2021, Eq. 4).

    Class: periodic with `factor`; by itself, a pixel's assignment reads one cell around its own.
    Safe to tile at origins that are multiples of it: with padding ``"valid"`` as it is, with
    ``"same"`` where the border is the volume's own. Padding ``"circular"`` is not.

    Parameters
    ----------
    ndim
        2 or 3 spatial axes.
    channels
        Of the input.
    out_channels
        Of what is sampled; as many as the input has by default.
    factor
        Pixels of a cell: one number, or one per axis; 1 for axes that are not downsampled.
    down
        Samples: a module that divides sizes by `factor` and returns `out_channels`. By default a
        convolution whose kernel and stride are the factor. The paper's block of a ResNet, or a
        max-pool, are other choices.
    features
        Length K of the vectors that are compared.
    temperature
        What similarities are divided by before the softmax; the less, the harder.
    padding
        What happens at the border.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        out_channels: int | None = None,
        *,
        factor: int | Sequence[int] = 2,
        down: nn.Module | None = None,
        features: int = 64,
        temperature: float = 0.07,
        padding: Border = "same",
    ) -> None:
        super().__init__()
        self.factors = checked_factors(factor, ndim)
        sampled = channels if out_channels is None else out_channels
        if min(channels, sampled, features) < 1:
            raise ValueError(
                f"channels {channels}, out_channels {sampled} and features {features} must be at "
                "least 1; give positive numbers"
            )
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} must be above 0; the paper takes 0.07")
        self.down = down or convolutions[ndim](channels, sampled, self.factors, self.factors)
        self.assignment = _Assignment(
            self.factors, checked_border(padding), (channels, sampled), features, float(temperature)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sample, and assign pixels to what is sampled.

        Parameters
        ----------
        x
            ``(b, channels, *pixels)``, sizes divisible by the factor.

        Returns
        -------
        y : Tensor
            ``(b, out_channels, *cells)``.
        assignment : Tensor
            ``(b, 9 or 27, *pixels)``, what :class:`ClusterUp` takes; its weights sum to 1. With
            padding ``"valid"`` the outermost cells have none.

        Raises
        ------
        ValueError
            If a size does not divide, or `down` returns others than it should.
        """
        channels = self.assignment.pixels.in_channels
        if x.dim() != len(self.factors) + 2 or x.shape[1] != channels:
            raise ValueError(
                f"this layer takes (b, {channels}, *pixels) with {len(self.factors)} spatial axes, "
                f"not a tensor of shape {tuple(x.shape)}; build it for other channels or axes"
            )
        for axis, (size, f) in enumerate(zip(x.shape[2:], self.factors, strict=True)):
            if size % f or not size:
                fewer = int(size) - int(size) % f
                sizes = f"{fewer + f} or {fewer}" if fewer else f"{f}"
                raise ValueError(
                    f"axis {axis} has {int(size)} pixels, which cells of {f} do not divide; pad "
                    f"or crop it to {sizes}"
                )
        y = self.down(x)
        cells = [size // f for size, f in zip(x.shape[2:], self.factors, strict=True)]
        if list(y.shape[2:]) != cells:
            raise ValueError(
                f"the downsampling made {tuple(y.shape[2:])} of {tuple(x.shape[2:])} pixels; it "
                f"must divide them by {self.factors}"
            )
        return y, self.assignment(x, y)


class _Decoding(_Clustering):
    """Decoding of what fits; one opaque leaf for the geometry."""

    def __init__(self, factors: tuple[int, ...], padding: str, hard: bool) -> None:
        super().__init__(factors, padding)
        self.hard = hard

    def lattice_geometry(self) -> dict[str, Any]:
        found = self._geometry(cuts=False)
        return {"inputs": [found.pop("cells"), found.pop("pixels")], **found}

    def forward(self, x: Tensor, assignment: Tensor) -> Tensor:
        decoding = hard_decoded if self.hard else decoded
        return decoding(x, assignment, self.factors, self.padding)


class ClusterUp(nn.Module):
    """The decoding that belongs to :class:`SoftClusterDown`, instead of an upsampling.

    Class: periodic with `factor`, one cell of context per side: ``2^(l+1) - 2`` pixels over l
    levels of factor 2. Safe to tile as :class:`SoftClusterDown` is. It has no parameters.

    Parameters
    ----------
    ndim, factor, padding
        Of the downsampling.
    hard
        Whether each pixel takes what its most similar cell holds (:func:`hard_decode`), instead of
        the weighted mean. The paper predicts softly.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        *,
        factor: int | Sequence[int] = 2,
        padding: Border = "same",
        hard: bool = False,
    ) -> None:
        super().__init__()
        self.decoding = _Decoding(checked_factors(factor, ndim), checked_border(padding), hard)

    def forward(self, x: Tensor, assignment: Tensor) -> Tensor:
        """Decode; see :func:`decode` and :func:`hard_decode`."""
        own = self.decoding
        found: Tensor = own(x, fitting(x, assignment, own.factors, own.padding))
        return found
