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

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ClusterUp", "SoftClusterDown", "decode", "hard_decode", "superpixels"]

Border = Literal["same", "valid", "circular"]

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_SMALLEST_NORM = 1e-4
"""Below it a vector counts for less than its direction, which bounds the gradient at 0."""


def _factors(factor: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    found = (factor,) * ndim if isinstance(factor, int) else tuple(int(f) for f in factor)
    if ndim not in _CONVOLUTION or len(found) != ndim or min(found) < 1 or max(found) < 2:
        raise ValueError(
            f"factor {factor} does not reduce {ndim} axes; give a number of at least 2, or one per "
            "axis (2 or 3 of them) of which one is at least 2"
        )
    return found


def _border(padding: str) -> str:
    if padding not in ("same", "valid", "circular"):
        raise ValueError(f"padding is {padding!r}; choose 'same', 'valid' or 'circular'")
    return padding


def _candidates(factors: Sequence[int]) -> list[tuple[int, ...]]:
    """Cells around a pixel's own, relative to it, row by row."""
    return list(itertools.product(*((-1, 0, 1) if f > 1 else (0,) for f in factors)))


def _ringed(cells: Tensor, factors: Sequence[int], padding: str) -> Tensor:
    """Cells with the ring of further ones that candidates are read from; none where valid."""
    if padding == "valid":
        return cells
    ends = [end for f in reversed(factors) for end in (int(f > 1),) * 2]
    return F.pad(cells, ends, mode="circular" if padding == "circular" else "constant")


def _windows(ringed: Tensor, factors: Sequence[int]) -> Tensor:
    """For each cell, what lies around it: (b, c, cells, ..., 3, ...), a view."""
    for axis, factor in enumerate(factors, start=2):
        ringed = ringed.unfold(axis, 3 if factor > 1 else 1, 1)
    return ringed


def _product(pattern: str, ndim: int, first: Tensor, second: Tensor) -> Tensor:
    """An einsum; C stands for cells, P for cells and their pixels, W for windows around cells."""
    cells, pixels, windows = "zyx"[:ndim], "kji"[:ndim], "wvu"[:ndim]
    both = "".join(map("".join, zip(cells, pixels, strict=True)))
    for name, letters in (("C", cells), ("P", both), ("W", windows)):
        pattern = pattern.replace(name, letters)
    # In mixed precision, too, weights are of float32: those of a pixel sum to 1.
    if torch.is_autocast_enabled(first.device.type):
        with torch.autocast(first.device.type, enabled=False):
            return torch.einsum(pattern, first, second)
    return torch.einsum(pattern, first, second)


def _for_pixels(cells: Tensor) -> Tensor:
    """(b, c, cells) laid out to be combined with what :func:`_in_cells` gives."""
    return cells.reshape(*cells.shape[:2], *(n for size in cells.shape[2:] for n in (size, 1)))


def _in_cells(pixels: Tensor, factors: Sequence[int]) -> Tensor:
    """Pixels as (b, c, cells, pixels of a cell, ...), axis by axis."""
    shape = [part for n, f in zip(pixels.shape[2:], factors, strict=True) for part in (n // f, f)]
    return pixels.reshape(*pixels.shape[:2], *shape)


def _in_space(pixels: Tensor) -> Tensor:
    """The same as one dimension per axis."""
    sizes = pixels.shape[2:]
    return pixels.reshape(
        *pixels.shape[:2], *(n * f for n, f in zip(sizes[::2], sizes[1::2], strict=True))
    )


def _cut(pixels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The centre."""
    for axis, size in enumerate(sizes, start=2):
        if pixels.shape[axis] != size:
            pixels = pixels.narrow(axis, (pixels.shape[axis] - size) // 2, size)
    return pixels


def _decoded_sizes(cells: Sequence[int], factors: Sequence[int], padding: str) -> list[int]:
    """Pixels that can be decoded from so many cells.

    Raises
    ------
    ValueError
        If there are too few cells.
    """
    ring = [2 * int(f > 1 and padding == "valid") for f in factors]
    if any(n <= r for n, r in zip(cells, ring, strict=True)):
        raise ValueError(
            f"{tuple(cells)} cells are too few to decode with padding 'valid', which needs 3 along "
            "each axis that is downsampled; give a larger input or choose padding 'same'"
        )
    return [(n - r) * f for n, r, f in zip(cells, ring, factors, strict=True)]


def _fitting(features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str) -> Tensor:
    """The part of an assignment that belongs to the features.

    Raises
    ------
    ValueError
        If they do not belong together.
    """
    candidates, rank = len(_candidates(factors)), len(factors) + 2
    if features.dim() != rank or assignment.dim() != rank or assignment.shape[1] != candidates:
        raise ValueError(
            f"features of shape {tuple(features.shape)} and an assignment of shape "
            f"{tuple(assignment.shape)} do not belong together; give (b, c, *cells) and "
            f"(b, {candidates}, *pixels) with {len(factors)} spatial axes"
        )
    wanted = _decoded_sizes(features.shape[2:], factors, padding)
    for have, size, f in zip(assignment.shape[2:], wanted, factors, strict=True):
        # What was cut off by valid layers below must be whole cells, the same at both ends.
        if have < size or (have - size) % (2 * f) or (padding != "valid" and have != size):
            raise ValueError(
                f"an assignment of {tuple(assignment.shape[2:])} pixels does not fit features of "
                f"{tuple(features.shape[2:])} cells, which decode to {tuple(wanted)}; give both of "
                "the same level, and let layers between them cut whole cells off both ends alike"
            )
    return _cut(assignment, wanted)


def decode(
    features: Tensor,
    assignment: Tensor,
    *,
    factor: int | Sequence[int] = 2,
    padding: Border = "same",
) -> Tensor:
    """Bring features of cells to pixels, weighted by a soft assignment (Suzuki 2021, Eq. 2).

    Parameters
    ----------
    features
        ``(b, c, *cells)``.
    assignment
        Of :class:`SoftClusterDown` with the same `factor` and `padding`.
    factor
        Pixels of a cell along each axis.
    padding
        What happens at the border; ``"valid"`` takes the centre of an assignment that is larger.

    Returns
    -------
    Tensor
        ``(b, c, *pixels)``, of the type of the features.

    Raises
    ------
    ValueError
        If features and assignment do not belong together.
    """
    factors = _factors(factor, features.dim() - 2)
    return _decoded(features, _fitting(features, assignment, factors, padding), factors, padding)


def _decoded(features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str) -> Tensor:
    dtype = torch.promote_types(features.dtype, assignment.dtype)
    windows = _windows(_ringed(features.to(dtype), factors, padding), factors)
    weights = _in_cells(assignment.to(dtype), factors)
    weights = weights.unflatten(1, [3 if f > 1 else 1 for f in factors])  # type: ignore[no-untyped-call]
    made = _product("bWP,bcCW->bcP", len(factors), weights, windows)
    return _in_space(made).to(features.dtype)


def hard_decode(
    features: Tensor,
    assignment: Tensor,
    *,
    factor: int | Sequence[int] = 2,
    padding: Border = "same",
) -> Tensor:
    """Give each pixel what its most similar cell holds (Suzuki 2021, Eq. 1).

    Parameters are those of :func:`decode`; features may be labels, too. Of equal weights a pixel's
    own cell has precedence, then the first. No gradient reaches the assignment.
    """
    factors = _factors(factor, features.dim() - 2)
    fitting = _fitting(features, assignment, factors, padding)
    return _hard_decoded(features, fitting, factors, padding)


def _hard_decoded(
    features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str
) -> Tensor:
    own = len(_candidates(factors)) // 2
    best, chosen = assignment.max(dim=1, keepdim=True)
    chosen = torch.where(assignment[:, own : own + 1] >= best, own, chosen)
    windows = _windows(_ringed(features, factors, padding), factors).flatten(2 + len(factors))
    places = _in_cells(chosen, factors)
    made: Tensor | None = None
    for k in range(windows.shape[-1]):
        candidate = _for_pixels(windows[..., k])
        made = candidate if made is None else torch.where(places == k, candidate, made)
    assert made is not None
    return _in_space(made)


def superpixels(
    assignments: Sequence[Tensor],
    *,
    factor: int | Sequence[int] = 2,
    padding: Border = "same",
) -> list[Tensor]:
    """Hierarchical superpixels: per level, the cluster of each of the finest pixels.

    Parameters
    ----------
    assignments
        Soft assignments of successive downsamplings, finest first.
    factor, padding
        Of these downsamplings.

    Returns
    -------
    list of Tensor
        ``(b, *pixels)`` of whole numbers: the cluster's place among its level's cells, row by row.
        Pixels that share a superpixel share those of all coarser levels. With padding ``"valid"``
        the maps of coarser levels are smaller, each cut at the centre.
    """
    maps = []
    for level, assignment in enumerate(assignments):
        factors = _factors(factor, assignment.dim() - 2)
        ring = [2 * int(f > 1 and padding == "valid") for f in factors]
        sizes = zip(assignment.shape[2:], factors, ring, strict=True)
        cells = [n // f + r for n, f, r in sizes]
        labels = torch.arange(math.prod(cells), device=assignment.device).reshape(1, 1, *cells)
        labels = labels.expand(assignment.shape[0], -1, *cells)
        for finer in reversed(assignments[: level + 1]):
            labels = hard_decode(labels, finer, factor=factors, padding=padding)
        maps.append(labels[:, 0])
    return maps


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
        convolution = _CONVOLUTION[len(factors)]
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
        pixels = _cut(pixels, _decoded_sizes(seeds.shape[2:], self.factors, self.padding))
        windows = _windows(_ringed(seeds, self.factors, self.padding), self.factors)
        ndim = len(self.factors)
        found = _product("bfP,bfCW->bWP", ndim, _in_cells(pixels, self.factors), windows)
        similarity = found.flatten(1, ndim)
        if self.padding == "same":
            ones = _ringed(torch.ones_like(seeds[:1, :1]), self.factors, self.padding)
            there = _windows(ones, self.factors)[:, 0].flatten(1 + ndim).movedim(-1, 1)
            similarity = similarity.masked_fill(_for_pixels(there) == 0, -math.inf)
        return _in_space((similarity / self.temperature).softmax(dim=1))


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
        self.factors = _factors(factor, ndim)
        sampled = channels if out_channels is None else out_channels
        if min(channels, sampled, features) < 1:
            raise ValueError(
                f"channels {channels}, out_channels {sampled} and features {features} must be at "
                "least 1; give positive numbers"
            )
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} must be above 0; the paper takes 0.07")
        self.down = down or _CONVOLUTION[ndim](channels, sampled, self.factors, self.factors)
        self.assignment = _Assignment(
            self.factors, _border(padding), (channels, sampled), features, float(temperature)
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
        for axis, (size, f) in enumerate(zip(x.shape[2:], self.factors, strict=True)):
            if size % f:
                raise ValueError(
                    f"axis {axis} has {int(size)} pixels, which cells of {f} do not divide; pad "
                    f"or crop it to {int(size) - int(size) % f + f} or {int(size) - int(size) % f}"
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
        decoding = _hard_decoded if self.hard else _decoded
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
        self.decoding = _Decoding(_factors(factor, ndim), _border(padding), hard)

    def forward(self, x: Tensor, assignment: Tensor) -> Tensor:
        """Decode; see :func:`decode` and :func:`hard_decode`."""
        own = self.decoding
        found: Tensor = own(x, _fitting(x, assignment, own.factors, own.padding))
        return found
