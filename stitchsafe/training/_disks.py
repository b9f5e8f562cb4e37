"""Synthetic disks: bright, alike, and countable.

Either on a regular grid (`spacing`), the setting of Rumberger et al. (2021): binary disks
``x² + y² < 25``, where a network with period f^l can tell at most
``(f^l / gcd(f^l, spacing))^d`` of them apart by its structure; or thrown at random without touching
(`spacing` None), for a network that is to be of use.

References
----------
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["draw_disks"]


def draw_disks(
    shape: Sequence[int],
    generator: np.random.Generator,
    *,
    spacing: int | None = None,
    radius: tuple[float, float] = (5.0, 5.0),
    jitter: float = 0.0,
    density: float = 0.25,
    noise: float = 0.0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """One image of disks (balls in 3-D) and its labels.

    Parameters
    ----------
    shape
        Voxels per axis.
    generator
        Where all randomness comes from.
    spacing
        Distance of the grid of centres in voxels, with a random origin; None for random places.
    radius
        Least and largest radius in voxels; voxels strictly nearer than it to the centre belong.
    jitter
        Standard deviation of the centres about the grid, in voxels.
    density
        About this share of the image is covered, where places are random.
    noise
        Standard deviation of the noise that is added to the image of 0 and 1.

    Returns
    -------
    image
        ``(1, *shape)`` float32.
    labels
        ``(*shape)`` int32, 1..n; 0 is background.
    """
    shape = tuple(shape)
    labels = np.zeros(shape, dtype=np.int32)
    places = (
        _on_grid(shape, spacing, jitter, radius[1], generator)
        if spacing
        else _at_random(shape, radius, density, generator)
    )
    number = 0
    for centre, given in places:
        size = generator.uniform(*radius) if given is None else given
        low = [max(0, int(np.floor(c - size))) for c in centre]
        high = [min(n, int(np.ceil(c + size)) + 1) for c, n in zip(centre, shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.ogrid[box]
        squared = sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True))
        inside = (squared < size**2) & (labels[box] == 0)
        if inside.any():
            number += 1
            labels[box][inside] = number
    image = (labels > 0).astype(np.float32)
    if noise:
        image += generator.normal(0, noise, shape).astype(np.float32)
    return image[None], labels


def _on_grid(
    shape: tuple[int, ...],
    spacing: int,
    jitter: float,
    reach: float,
    generator: np.random.Generator,
) -> list[tuple[tuple[float, ...], float | None]]:
    origin = generator.integers(0, spacing, len(shape))
    margin = int(np.ceil(reach))
    lines = [
        np.arange(o - spacing * (1 + margin // spacing), n + margin + 1, spacing, dtype=float)
        for o, n in zip(origin, shape, strict=True)
    ]
    centres = [tuple(map(float, centre)) for centre in itertools.product(*lines)]
    if jitter:
        moved = np.array(centres) + generator.normal(0, jitter, (len(centres), len(shape)))
        centres = [tuple(map(float, centre)) for centre in moved]
    return [(centre, None) for centre in centres]


def _at_random(
    shape: tuple[int, ...],
    radius: tuple[float, float],
    density: float,
    generator: np.random.Generator,
) -> list[tuple[tuple[float, ...], float | None]]:
    """Disks that keep at least two voxels between them."""
    mean = sum(radius) / 2
    volume = {1: 2.0, 2: np.pi, 3: 4 * np.pi / 3}[len(shape)] * mean ** len(shape)
    wanted = round(density * float(np.prod(shape)) / volume)
    centres = np.empty((0, len(shape)))
    sizes: list[float] = []
    for _ in range(20 * wanted):
        if len(sizes) == wanted:
            break
        size = float(generator.uniform(*radius))
        centre = generator.uniform(-size, np.array(shape) + size)
        apart = np.sqrt(((centres - centre) ** 2).sum(1)) - np.array(sizes)
        if not len(sizes) or apart.min() >= size + 2:
            centres = np.vstack([centres, centre])
            sizes.append(size)
    return [(tuple(map(float, c)), s) for c, s in zip(centres, sizes, strict=True)]
