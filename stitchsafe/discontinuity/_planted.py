"""Ways in which people tile that are not exact, to see what their seams look like, and find them.

Each takes an image, and a `forward` that gives a field of the size of what it is given (as a
network does that pads its input), and returns the field of the image, put together from tiles.

=============== ==================================================================================
`snapped`       each tile is predicted by itself, with nothing around it; the last one is moved back
                into the image and overwrites
`blended`       tiles overlap and are averaged with weights of a bell shape, as MONAI's
                `sliding_window_inference` does it
`misaligned`    each tile reads all the context it needs, from an origin off the network's lattice
`normalised`    each tile reads all it needs, and its intensities are scaled by themselves
=============== ==================================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi, grid_cells

__all__ = ["Forward", "blended", "cut_labels", "misaligned", "normalised", "snapped"]

Image = NDArray[np.floating]
Field = NDArray[np.floating]
Forward = Callable[[Image], Field]
"""From (*spatial) to (channels, *spatial)."""


def snapped(image: Image, forward: Forward, tile: Sequence[int]) -> Field:
    """Tiles with nothing around them."""
    found: Field | None = None
    for box in _snapped(image.shape, tile):
        part = forward(image[box.slices])
        found = _begun(found, part, image.shape)
        found[(slice(None), *box.slices)] = part
    assert found is not None  # an image has voxels
    return found


def blended(image: Image, forward: Forward, tile: Sequence[int], overlap: float = 0.25) -> Field:
    """Overlapping tiles, averaged with a Gaussian's weights."""
    stride = [max(1, int(t * (1 - overlap))) for t in tile]
    bell = np.ones((), np.float32)
    for size in tile:
        place = np.arange(size) - (size - 1) / 2
        bell = bell[..., None] * np.exp(-0.5 * (place / (0.125 * size)) ** 2)
    bell = np.maximum(bell, max(float(bell.min()), 1e-3)).astype(np.float32)
    found: Field | None = None
    weights = np.zeros(image.shape, np.float32)
    for box in _snapped(image.shape, tile, stride):
        part = forward(image[box.slices])
        found = _begun(found, part, image.shape)
        weight = bell[tuple(slice(0, size) for size in box.shape)]
        found[(slice(None), *box.slices)] += part * weight
        weights[box.slices] += weight
    assert found is not None  # an image has voxels
    return found / weights


def misaligned(
    image: Image, forward: Forward, tile: Sequence[int], margin: Sequence[int], period: int
) -> Field:
    """Tiles with all of their context, each other one off the lattice by half a period."""
    return _with_margin(image, forward, tile, margin, shift=period // 2)


def normalised(
    image: Image,
    forward: Forward,
    tile: Sequence[int],
    margin: Sequence[int],
    scaled: Callable[[Image], Image] | None = None,
) -> Field:
    """Tiles with all of their context, each scaled by itself; by mean and deviation if not said."""
    by_itself = scaled or (lambda part: (part - part.mean()) / (part.std() + 1e-6))
    return _with_margin(image, lambda part: forward(by_itself(part)), tile, margin)


def cut_labels(labels: NDArray[Any], tile: Sequence[int]) -> NDArray[np.int64]:
    """Labels of tiles that were never merged: an object has another label in each."""
    found = np.zeros(labels.shape, np.int64)
    highest = 0
    for box in grid_cells(Roi.whole(labels.shape), tile):
        part = labels[box.slices]
        _, index = np.unique(np.append(part.reshape(-1), 0), return_inverse=True)
        numbered = index[:-1].reshape(part.shape) + highest
        found[box.slices] = np.where(part != 0, numbered, 0)
        highest += int(index.max()) + 1
    return found


def _with_margin(
    image: Image, forward: Forward, tile: Sequence[int], margin: Sequence[int], shift: int = 0
) -> Field:
    """Disjoint crops; where a tile has odd parity it reads `shift` voxels farther before it."""
    found: Field | None = None
    whole = Roi.whole(image.shape)
    for box in grid_cells(whole, tile):
        odd = sum(o // t for o, t in zip(box.offset, tile, strict=True)) % 2
        before = [m + (shift if odd else 0) for m in margin]
        grown = box.grow(before, margin).intersect(whole)
        part = forward(image[grown.slices])[(slice(None), *box.relative_to(grown).slices)]
        found = _begun(found, part, image.shape)
        found[(slice(None), *box.slices)] = part
    assert found is not None  # an image has voxels
    return found


def _snapped(
    shape: Sequence[int], tile: Sequence[int], stride: Sequence[int] | None = None
) -> Iterator[Roi]:
    """Tiles at each stride, the last of which end with the image."""
    starts = [
        [min(k * step, max(size - length, 0)) for k in range(_count(size, length, step))]
        for size, length, step in zip(shape, tile, stride or tile, strict=True)
    ]
    for corner in itertools.product(*starts):
        yield Roi(corner, tuple(map(min, tile, shape)))


def _count(size: int, length: int, step: int) -> int:
    return 1 + max(0, math.ceil((size - length) / step))


def _begun(found: Field | None, part: Field, shape: Sequence[int]) -> Field:
    return np.zeros((part.shape[0], *shape), np.float32) if found is None else found
