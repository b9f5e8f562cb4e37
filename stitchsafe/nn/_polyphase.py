"""The phases of an image: the 2^d images that are left when every second element is kept.

Phase k of a 2-D image begins at row ``k // 2`` and column ``k % 2``; of a 3-D one at ``(k // 4,
k // 2 % 2, k % 2)``. The index is row-major, the first spatial axis counts most::

    2-D   k = 2 dy + dx          0 1 0 1        3-D   k = 4 dz + 2 dy + dx
                                 2 3 2 3
                                 0 1 0 1

In *global* coordinates element 0 of a tile lies at the tile's origin. With origin o, the voxels of
global phase g have the local phase (g - o) mod 2 along each axis, and the coarse image that keeps
them begins at ceil((o - g) / 2).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["join", "local_phases", "next_origin", "offsets", "phase", "place", "split", "weighed"]


def offsets(ndim: int) -> list[tuple[int, ...]]:
    """Where each phase begins, in the order of its index."""
    return list(itertools.product((0, 1), repeat=ndim))


def spatial(x: Tensor) -> int:
    """Number of spatial axes of ``(b, c, y, x)`` or ``(b, c, z, y, x)``."""
    if x.dim() not in (4, 5):
        raise ValueError(
            f"polyphase layers take (b, c, y, x) or (b, c, z, y, x), not {x.dim()} axes; add the "
            "axes that are missing"
        )
    return x.dim() - 2


def _even(x: Tensor) -> int:
    ndim = spatial(x)
    for axis, size in enumerate(x.shape[2:]):
        if size % 2 or not size:
            raise ValueError(
                f"axis {axis} has {int(size)} elements, and only an even number has phases of one "
                "size; pad or crop the input to an even size at every level"
            )
    return ndim


def phase(x: Tensor, index: int) -> Tensor:
    """One phase, as a view.

    Raises
    ------
    ValueError
        If a size is odd.
    """
    for axis, start in enumerate(offsets(_even(x))[index], start=2):
        x = x[(slice(None),) * axis + (slice(start, None, 2),)]
    return x


def split(x: Tensor) -> Tensor:
    """All phases: ``(b, c, *sizes)`` to ``(b, 2^d, c, *sizes / 2)``.

    Raises
    ------
    ValueError
        If a size is odd.
    """
    ndim = _even(x)
    batch, channels, *sizes = x.shape
    apart = x.reshape(batch, channels, *(n for size in sizes for n in (size // 2, 2)))
    starts, rest = range(3, 3 + 2 * ndim, 2), range(2, 2 + 2 * ndim, 2)
    return apart.permute(0, *starts, 1, *rest).reshape(
        batch, 2**ndim, channels, *(size // 2 for size in sizes)
    )


def join(phases: Tensor) -> Tensor:
    """The image of which these are the phases; undoes :func:`split`."""
    batch, _, channels, *sizes = phases.shape
    ndim = len(sizes)
    apart = phases.reshape(batch, *(2,) * ndim, channels, *sizes)
    order = [n for axis in range(ndim) for n in (2 + ndim + axis, 1 + axis)]
    return apart.permute(0, 1 + ndim, *order).reshape(
        batch, channels, *(2 * size for size in sizes)
    )


def place(y: Tensor, weights: Tensor) -> Tensor:
    """An image of twice the size whose phase k is ``weights[:, k] * y``.

    Parameters
    ----------
    y
        ``(b, c, *sizes)``.
    weights
        ``(b or 1, 2^d)``.
    """
    scale = weights.to(y).reshape(*weights.shape, *(1,) * (y.dim() - 1))
    return join(weighed(y.unsqueeze(1), scale))


def weighed(x: Tensor, weights: Tensor) -> Tensor:
    """A product that is 0 where the weights are, also of NaN and infinity.

    Its gradients are those of the product, with such elements as 0.
    """
    none = weights == 0
    if weights.requires_grad:
        return torch.where(none, x.nan_to_num(0.0, 0.0, 0.0), x) * weights
    return x.masked_fill(none, 0.0) * weights


def _per_axis(phases: Tensor, ndim: int) -> Tensor:
    """Phase indices as one 0 or 1 per axis, in a last dimension."""
    return torch.stack([phases >> (ndim - 1 - axis) & 1 for axis in range(ndim)], dim=-1)


def _origin(origin: Tensor | Sequence[int], ndim: int, phases: Tensor) -> Tensor:
    found = torch.as_tensor(origin, device=phases.device)
    if found.is_floating_point() or found.shape[-1:] != (ndim,):
        raise ValueError(
            f"the origin of a tile has {ndim} whole numbers, one per axis, not {origin!r}; give "
            "the global coordinate of its first element at this level"
        )
    return found


def local_phases(phases: Tensor, origin: Tensor | Sequence[int], ndim: int) -> Tensor:
    """What global phases are called in a tile.

    Parameters
    ----------
    phases
        Global indices, of any shape.
    origin
        Global coordinate of the tile's first element at this level; negative in an extended border.
    ndim
        Spatial axes.
    """
    local = (_per_axis(phases, ndim) - _origin(origin, ndim, phases)) % 2
    return sum((local[..., axis] << (ndim - 1 - axis) for axis in range(1, ndim)),
               local[..., 0] << (ndim - 1))  # fmt: skip


def next_origin(phases: Tensor, origin: Tensor | Sequence[int], ndim: int) -> Tensor:
    """Where a tile's first element lies at the next level, in that level's global coordinates."""
    start = _origin(origin, ndim, phases) - _per_axis(phases, ndim)
    return -torch.div(-start, 2, rounding_mode="floor")
