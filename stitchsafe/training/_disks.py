"""Synthetic disks: bright, alike, and countable.

Either on a regular grid (`spacing`), the setting of Rumberger et al. (2021): binary disks
``x² + y² < 25``, where a network with period f^l can tell at most
``(f^l / gcd(f^l, spacing))^d`` of them apart by its structure; or thrown at random without touching
(`spacing` None), for a network that is to be of use.

The paper's other settings are these, with `spacing` a multiple of the period, so that a network
sees all disks alike unless something else tells them apart:

* slight noise (`noise`) or a slight deformation (`elastic`) that does (figures 6 and 7);
* an image that is 1 everywhere, of which every voxel is to have an id of its own (`image` "ones",
  `labels` "voxels"; figures 4 and 5): what the network's structure alone can tell apart.

References
----------
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stitchsafe.training._data_config import DisksConfig
from stitchsafe.training._deformation import Elastic, margins, warp

__all__ = ["draw_as_said", "draw_disks"]

Labels = npt.NDArray[np.int32]
Places = list[tuple[tuple[float, ...], float]]

_GAP = 2  # voxels between disks at random places


def draw_disks(
    shape: Sequence[int],
    generator: np.random.Generator,
    *,
    spacing: int | None = None,
    origin: Sequence[int] | None = None,
    radius: float | tuple[float, float] = 5.0,
    jitter: float = 0.0,
    density: float = 0.25,
    elastic: Elastic | None = None,
    noise: float = 0.0,
    image: Literal["disks", "ones"] = "disks",
    labels: Literal["disks", "voxels"] = "disks",
) -> tuple[npt.NDArray[np.float32], Labels]:
    """One image of disks (balls in 3-D) and its labels.

    Parameters
    ----------
    shape
        Voxels per axis.
    generator
        Where all randomness comes from.
    spacing
        Distance of the grid of centres in voxels; None for random places.
    origin
        A centre of the grid, in voxels; a random one by default.
    radius
        In voxels, the same for all, or the least and the largest; voxels strictly nearer than it
        to the centre belong.
    jitter
        Standard deviation of the centres about the grid, in voxels.
    density
        About this share of the image is covered, where places are random.
    elastic
        Deforms image and labels alike; intensities are interpolated linearly, labels are those of
        the nearest voxel.
    noise
        Standard deviation of the noise that is added to the image of 0 and 1.
    image
        "ones" for an image that is 1 everywhere (before noise), whatever the labels.
    labels
        "voxels" gives every voxel a label of its own, whatever the image.

    Returns
    -------
    image
        ``(1, *shape)`` float32.
    labels
        ``(*shape)`` int32, 1..n; 0 is background.
    """
    shape = tuple(shape)
    drawn = np.ones(shape, dtype=np.float32)
    found = np.arange(1, drawn.size + 1, dtype=np.int32).reshape(shape)
    if image == "disks" or labels == "disks":
        sizes = (float(radius), float(radius)) if isinstance(radius, int | float) else radius
        grid = _Grid(spacing, origin, jitter) if spacing else None
        bright, ids = _deformed(shape, grid, sizes, density, elastic, generator)
        drawn = bright if image == "disks" else drawn
        found = ids if labels == "disks" else found
    if noise:
        drawn += generator.normal(0, noise, shape).astype(np.float32)
    return drawn[None], found


def draw_as_said(
    data: DisksConfig, shape: Sequence[int], generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], Labels]:
    """One image of disks as ``train.yaml`` says, and its labels.

    Raises
    ------
    InputError
        If sizes are said for another number of axes.
    """
    settings = data.model_dump(exclude={"kind", "elastic"})
    elastic = data.elastic.of(len(shape), "data.elastic") if data.elastic else None
    return draw_disks(shape, generator, elastic=elastic, **settings)


@dataclass(frozen=True)
class _Grid:
    spacing: int
    origin: Sequence[int] | None
    jitter: float


def _deformed(
    shape: tuple[int, ...],
    grid: _Grid | None,
    radius: tuple[float, float],
    density: float,
    elastic: Elastic | None,
    generator: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], Labels]:
    """Disks of 0 and 1 and their labels, of a canvas as large as the deformation needs."""
    if elastic is None:
        labels = _disks(shape, (0,) * len(shape), grid, radius, density, generator)
        return (labels > 0).astype(np.float32), labels
    displacement = elastic.draw(shape, generator)
    before, after = zip(*margins(displacement), strict=True)
    canvas = tuple(b + n + a for b, n, a in zip(before, shape, after, strict=True))
    labels = _disks(canvas, before, grid, radius, density, generator)
    image = warp((labels > 0).astype(np.float32), displacement, before, order=1)
    seen = np.asarray(warp(labels, displacement, before, order=0), dtype=np.int32)
    ids, numbered = np.unique(seen, return_inverse=True)
    numbered = numbered.reshape(shape) + (ids[0] != 0)
    return np.asarray(image, dtype=np.float32), numbered.astype(np.int32)


def _disks(
    shape: tuple[int, ...],
    corner: Sequence[int],
    grid: _Grid | None,
    radius: tuple[float, float],
    density: float,
    generator: np.random.Generator,
) -> Labels:
    """Labels of a canvas whose voxel `corner` is the image's first."""
    labels = np.zeros(shape, dtype=np.int32)
    places = (
        _on_grid(shape, corner, grid, radius, generator)
        if grid is not None
        else _at_random(shape, radius, density, generator)
    )
    number = 0
    for centre, size in places:
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
    return labels


def _on_grid(
    shape: tuple[int, ...],
    corner: Sequence[int],
    grid: _Grid,
    radius: tuple[float, float],
    generator: np.random.Generator,
) -> Places:
    spacing, jitter = grid.spacing, grid.jitter
    origin = (
        generator.integers(0, spacing, len(shape))
        if grid.origin is None
        else np.add(grid.origin, corner) % spacing
    )
    margin = int(np.ceil(radius[1]))
    lines = [
        np.arange(o - spacing * (1 + margin // spacing), n + margin + 1, spacing, dtype=float)
        for o, n in zip(origin, shape, strict=True)
    ]
    centres = [tuple(map(float, centre)) for centre in itertools.product(*lines)]
    if jitter:
        moved = np.array(centres) + generator.normal(0, jitter, (len(centres), len(shape)))
        centres = [tuple(map(float, centre)) for centre in moved]
    return [(centre, float(generator.uniform(*radius))) for centre in centres]


def _at_random(
    shape: tuple[int, ...],
    radius: tuple[float, float],
    density: float,
    generator: np.random.Generator,
) -> Places:
    """Disks that keep at least two voxels between them.

    Each is compared with those in the cells around its own alone: none further away can be near.
    """
    mean = sum(radius) / 2
    volume = {1: 2.0, 2: np.pi, 3: 4 * np.pi / 3}[len(shape)] * mean ** len(shape)
    wanted = round(density * float(np.prod(shape)) / volume)
    reach = 2 * radius[1] + _GAP
    around = list(itertools.product((-1, 0, 1), repeat=len(shape)))
    cells: dict[tuple[int, ...], Places] = {}
    places: Places = []
    for _ in range(20 * wanted):
        if len(places) == wanted:
            break
        size = float(generator.uniform(*radius))
        centre = tuple(generator.uniform(-size, np.array(shape) + size).tolist())
        cell = tuple(int(c // reach) for c in centre)
        gaps = (
            math.dist(centre, other) - its - size
            for step in around
            for other, its in cells.get(tuple(map(operator.add, cell, step)), ())
        )
        if all(gap >= _GAP for gap in gaps):
            places.append((centre, size))
            cells.setdefault(cell, []).append((centre, size))
    return places
