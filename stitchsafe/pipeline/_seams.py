"""How much an inexact result changes at its seams, measured on whole faces of its tiles.

For some seams, the elements on both sides are computed once as the result has them, and once more
by a tile of another grid that reads elsewhere: what they differ by is what a seam may show there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi, floor_to
from stitchsafe.engine import FieldMaker
from stitchsafe.pipeline._samples import Seams, elsewhere, magnitude

__all__ = ["measure_at_seams"]

_PLACES = 16


def measure_at_seams(maker: FieldMaker, per_axis: int) -> Seams:
    """Compare both sides of some seams with what another tile gives for them.

    Parameters
    ----------
    maker
        Makes the result's fields.
    per_axis
        How many seams across each axis, at most; each takes up to three passes.
    """
    other = elsewhere(maker)
    seams = elements = 0
    difference = largest = 0.0
    if other.grid == maker.grid:
        return Seams(0, 0.0, 0.0)
    for region in _regions(maker, other, per_axis):
        known = maker.fields(region, maker.read(region))
        found = other.fields(region, other.read(region))
        seams += 1
        elements += sum(field.elements(region).size for field in maker.recipe.fields)
        apart = [found[name] - known[name] for name in known]
        difference = max(difference, magnitude(apart))
        largest = max(largest, magnitude(known.values()))
    return Seams(elements, difference, largest, seams)


def _regions(maker: FieldMaker, other: FieldMaker, per_axis: int) -> Iterator[Roi]:
    """What two tiles that meet at a seam and one tile of the other grid all answer for.

    Seams are spread evenly across each axis. Along the others, of some places the one is taken
    where the three answer for most.
    """
    roi, tile = maker.recipe.roi, maker.grid.tile_shape
    generator = np.random.default_rng(maker.recipe.seed)

    def region(axis: int, seam: int) -> Roi:
        point = generator.integers(roi.offset, roi.end)
        point[axis] = seam - 1
        own = _tile_at(point, tile)
        shape = [2 * t if k == axis else t for k, t in enumerate(tile)]
        found = _tile_at(point, other.grid.tile_shape).intersect(Roi(own.offset, tuple(shape)))
        return found.intersect(roi)

    for axis, (size, begin, end) in enumerate(zip(tile, roi.offset, roi.end, strict=True)):
        inner = range(floor_to(begin, size) + size, end, size)
        chosen = np.unique(np.linspace(0, len(inner) - 1, per_axis).astype(int)) if inner else ()
        for place in chosen:
            tried = (region(axis, inner[int(place)]) for _ in range(_PLACES))
            yield max(tried, key=lambda each: each.size)


def _tile_at(point: NDArray[np.int64], tile: Sequence[int]) -> Roi:
    return Roi(tuple(floor_to(int(p), t) for p, t in zip(point, tile, strict=True)), tuple(tile))
