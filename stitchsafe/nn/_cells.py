"""Cells of pixels, what lies around them, and decoding by weights; see ``_soft_clustering``.

Candidates are the cells around a pixel's own, row by row: ``k = 3 (dy + 1) + (dx + 1)``, and
``9 (dz + 1)`` more in 3-D. An axis that is not downsampled has its own cell as the only candidate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from stitchsafe.nn._polyphase import weighed

__all__ = [
    "Border", "by_cell", "by_pixel", "centre", "checked_border", "checked_factors", "convolutions",
    "decode", "decoded", "decoded_sizes", "fitting", "hard_decode", "hard_decoded", "product",
    "ring_around", "superpixels", "windows_of",
]  # fmt: skip

Border = Literal["same", "valid", "circular"]

convolutions: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}


def checked_factors(factor: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    found = (factor,) * ndim if isinstance(factor, int) else tuple(int(f) for f in factor)
    if ndim not in convolutions or len(found) != ndim or min(found) < 1 or max(found) < 2:
        raise ValueError(
            f"factor {factor} does not reduce {ndim} axes; give a number of at least 2, or one per "
            "axis (2 or 3 of them) of which one is at least 2"
        )
    return found


def checked_border(padding: str) -> str:
    if padding not in ("same", "valid", "circular"):
        raise ValueError(f"padding is {padding!r}; choose 'same', 'valid' or 'circular'")
    return padding


def _candidates(factors: Sequence[int]) -> list[tuple[int, ...]]:
    """Cells around a pixel's own, relative to it, row by row."""
    return list(itertools.product(*((-1, 0, 1) if f > 1 else (0,) for f in factors)))


def ring_around(cells: Tensor, factors: Sequence[int], padding: str) -> Tensor:
    """Cells with the ring of further ones that candidates are read from; none where valid."""
    if padding == "valid":
        return cells
    ends = [end for f in reversed(factors) for end in (int(f > 1),) * 2]
    return F.pad(cells, ends, mode="circular" if padding == "circular" else "constant")


def windows_of(ringed: Tensor, factors: Sequence[int]) -> Tensor:
    """What lies around each cell: (b, *cells, candidates, c)."""
    for axis, factor in enumerate(factors, start=2):
        size = ringed.shape[axis] - 2
        shifted = [ringed.narrow(axis, at, size) for at in range(3)] if factor > 1 else [ringed]
        ringed = torch.stack(shifted, dim=-1)
    return ringed.movedim(1, -1).flatten(1 + len(factors), -2)


def by_cell(pixels: Tensor, factors: Sequence[int]) -> Tensor:
    """Pixels cell by cell: (b, *cells, pixels of a cell, c)."""
    cells = [n // f for n, f in zip(pixels.shape[2:], factors, strict=True)]
    both = [n for pair in zip(cells, factors, strict=True) for n in pair]
    ndim = len(factors)
    order = (0, *range(2, 2 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2), 1)
    split = pixels.reshape(*pixels.shape[:2], *both).permute(order)
    return split.reshape(pixels.shape[0], *cells, math.prod(factors), pixels.shape[1])


def by_pixel(cells: Tensor, factors: Sequence[int]) -> Tensor:
    """The reverse: (b, c, *pixels)."""
    ndim = len(factors)
    sizes = cells.shape[1 : 1 + ndim]
    split = cells.reshape(cells.shape[0], *sizes, *factors, cells.shape[-1])
    order = [1 + axis + part for axis in range(ndim) for part in (0, ndim)]
    split = split.permute(0, 1 + 2 * ndim, *order)
    pixels = [n * f for n, f in zip(sizes, factors, strict=True)]
    return split.reshape(cells.shape[0], cells.shape[-1], *pixels)


def product(first: Tensor, second: Tensor) -> Tensor:
    """A matrix product for each cell, in full precision.

    In mixed precision, too, weights are of float32, so that those of a pixel sum to 1.
    """
    if torch.is_autocast_enabled(first.device.type):
        with torch.autocast(first.device.type, enabled=False):
            return first @ second
    return first @ second


def centre(pixels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The centre."""
    for axis, size in enumerate(sizes, start=2):
        if (have := pixels.shape[axis]) != size:
            first = (have - size) // 2
            # An exporter with sizes left open must be told, or it loses the size of what is cut.
            torch._check(first >= 0)  # type: ignore[no-untyped-call]
            torch._check(first + size <= have)  # type: ignore[no-untyped-call]
            pixels = pixels.narrow(axis, first, size)
    return pixels


def decoded_sizes(cells: Sequence[int], factors: Sequence[int], padding: str) -> list[int]:
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


def fitting(features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str) -> Tensor:
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
    if len(features) != len(assignment):
        raise ValueError(
            f"features of {len(features)} images do not belong to an assignment of "
            f"{len(assignment)}; give both of the same images, or expand() what they share"
        )
    wanted = decoded_sizes(features.shape[2:], factors, padding)
    for have, size, f in zip(assignment.shape[2:], wanted, factors, strict=True):
        # What was cut off by valid layers below must be whole cells, the same at both ends.
        if have < size or (have - size) % (2 * f) or (padding != "valid" and have != size):
            raise ValueError(
                f"an assignment of {tuple(assignment.shape[2:])} pixels does not fit features of "
                f"{tuple(features.shape[2:])} cells, which decode to {tuple(wanted)}; give both of "
                "the same level, and let layers between them cut whole cells off both ends alike"
            )
    return centre(assignment, wanted)


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
    factors = checked_factors(factor, features.dim() - 2)
    return decoded(features, fitting(features, assignment, factors, padding), factors, padding)


def decoded(features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str) -> Tensor:
    dtype = torch.promote_types(features.dtype, assignment.dtype)
    windows = windows_of(ring_around(features.to(dtype), factors, padding), factors)
    weights = by_cell(assignment.to(dtype), factors)
    if _all_finite(features):
        made = product(weights, windows)
    else:  # what has no weight says nothing, NaN and infinity neither
        each = zip(weights.unsqueeze(-1).unbind(-2), windows.unsqueeze(-3).unbind(-2), strict=True)
        made = sum((weighed(cell, weight) for weight, cell in each), torch.zeros((), dtype=dtype))
    return by_pixel(made, factors).to(features.dtype)


def _all_finite(x: Tensor) -> bool:
    """Also while a graph is exported or traced, where there are no values."""
    seen = not (torch.compiler.is_compiling() or isinstance(x, FakeTensor))
    return not seen or bool(x.isfinite().all())


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
    factors = checked_factors(factor, features.dim() - 2)
    assignment = fitting(features, assignment, factors, padding)
    return hard_decoded(features, assignment, factors, padding)


def hard_decoded(
    features: Tensor, assignment: Tensor, factors: Sequence[int], padding: str
) -> Tensor:
    own = len(_candidates(factors)) // 2
    best, chosen = assignment.max(dim=1, keepdim=True)
    chosen = torch.where(assignment[:, own : own + 1] >= best, own, chosen)
    windows = windows_of(ring_around(features, factors, padding), factors)
    places = by_cell(chosen, factors)
    made = windows[..., :1, :].expand(*places.shape[:-1], windows.shape[-1])
    for k in range(1, windows.shape[-2]):
        made = torch.where(places == k, windows[..., k : k + 1, :], made)
    return by_pixel(made, factors)


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
        factors = checked_factors(factor, assignment.dim() - 2)
        ring = [2 * int(f > 1 and padding == "valid") for f in factors]
        sizes = zip(assignment.shape[2:], factors, ring, strict=True)
        cells = [n // f + r for n, f, r in sizes]
        labels = torch.arange(math.prod(cells), device=assignment.device).reshape(1, 1, *cells)
        labels = labels.expand(assignment.shape[0], -1, *cells)
        for finer in reversed(assignments[: level + 1]):
            labels = hard_decode(labels, finer, factor=factors, padding=padding)
        maps.append(labels[:, 0])
    return maps
