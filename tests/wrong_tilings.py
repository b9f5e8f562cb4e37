"""Fields of real data that were tiled rightly and wrongly, and which of their faces are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.discontinuity import FaceTable, blended, misaligned, normalised, snapped
from stitchsafe.pipeline._demo import demo_volume

STRIDE = 4
MARGIN = 24

Field = NDArray[np.floating]


def image() -> Field:
    """A cut of the bundled volume, in deviations of its intensity."""
    with h5py.File(demo_volume()) as file:
        data = file["raw"][:48, :192, :192].astype(np.float32)
    return (data - data.mean()) / data.std()


def forward(part: Field) -> Field:
    """What a small network with stride 4 does: fine and coarse channels, and a bend."""
    sizes = [-(-size // STRIDE) * STRIDE for size in part.shape]
    padded = np.pad(part, [(0, n - s) for s, n in zip(part.shape, sizes, strict=True)], "edge")
    shape = [n for size in sizes for n in (size // STRIDE, STRIDE)]
    pooled = padded.reshape(shape).mean(axis=tuple(range(1, 2 * part.ndim, 2)))
    coarse = zoom(gaussian_filter(pooled, 1.5), STRIDE, order=1, grid_mode=True, mode="nearest")
    coarse = coarse[tuple(slice(0, size) for size in part.shape)]
    fine = gaussian_filter(part, 1)
    return np.stack([np.tanh(fine - coarse), np.tanh(2 * coarse), fine * coarse]).astype(np.float32)


TILE = (24, 48, 48)
WAYS: dict[str, Callable[[Field], Field]] = {
    "snapped": lambda x: snapped(x, forward, TILE),
    "blended": lambda x: blended(x, forward, TILE),
    "misaligned": lambda x: misaligned(x, forward, TILE, (MARGIN,) * x.ndim, STRIDE),
    "normalised": lambda x: normalised(x, forward, TILE, (MARGIN,) * x.ndim),
}


def with_wrong_tiles(right: Field, wrong: Field, tile: Sequence[int]) -> tuple[Field, list[Roi]]:
    """The right field but for one in five of the tiles that differ, and these tiles."""
    found, chosen = right.copy(), []
    boxes = [
        box
        for box in grid_cells(Roi.whole(right.shape[1:]), tile)
        if not np.allclose(right[:, *box.slices], wrong[:, *box.slices], atol=1e-3)
    ]
    for box in boxes[2::5]:
        found[:, *box.slices] = wrong[:, *box.slices]
        chosen.append(box)
    return found, chosen


def touches(faces: FaceTable, tiles: Sequence[Roi]) -> NDArray[np.bool_]:
    """Which faces one of the tiles has on exactly one of its sides."""
    sides = []
    for step in (0, 1):
        corner = faces.corner.copy()
        corner[np.arange(len(faces)), faces.axis] -= step
        boxes = [Roi(tuple(c), (1,) * corner.shape[1]) for c in corner.tolist()]
        sides.append(np.array([any(tile.contains(box) for tile in tiles) for box in boxes]))
    wrong: NDArray[np.bool_] = sides[0] != sides[1]
    return wrong


def area_under_roc(scores: NDArray[np.floating], wrong: NDArray[np.bool_]) -> float:
    """The chance that a wrong face ranks before a right one; ties count one half."""
    above, below = scores[wrong][:, None], scores[~wrong][None]
    return float(((above > below) + 0.5 * (above == below)).mean())
