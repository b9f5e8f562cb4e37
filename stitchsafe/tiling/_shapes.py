"""Choosing tile, cell and block within a memory budget.

The model's card proposes; the budget disposes. Shapes that the user asks for are taken as they are
or refused, never rounded in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stitchsafe.coordinates import ceil_to, floor_to
from stitchsafe.errors import PlanError

__all__ = ["Shapes", "choose_shapes", "format_bytes"]

_DEFAULT_TILE = {2: 1024, 3: 128}
_LEAST_CELL = {2: 256, 3: 64}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Tile and cell."""

    tile: tuple[int, ...]
    cell: tuple[int, ...]


def choose_shapes(
    *,
    period: Sequence[int],
    extent: Sequence[int],
    preferred_tile: Sequence[int] | None,
    tile_shape: Sequence[int] | None,
    window: Sequence[int] | None,
    max_memory: int,
    peak: Callable[[Shapes], int],
    largest: Sequence[int | None] | None = None,
    refuses: Callable[[Shapes], str] = lambda shapes: "",
) -> Shapes:
    """The largest preferred shapes whose predicted memory fits.

    Parameters
    ----------
    period, extent
        Of the network and the volume, per axis.
    preferred_tile
        The card's tile; a default where there is no card.
    tile_shape
        The user's tile, which is kept or refused.
    window
        Clustering window, where labels are made.
    max_memory
        Budget in bytes.
    peak
        Predicted bytes for some shapes.
    largest
        Per axis, the largest tile that a network of one input size only leaves room for.
    refuses
        What else speaks against some shapes; empty where nothing does.

    Raises
    ------
    PlanError
        If a shape is misaligned, or the budget is too small; the message says what would do.
    """
    reach = tuple(ceil_to(e, p) for e, p in zip(extent, period, strict=True))
    largest = largest or (None,) * len(reach)
    if tile_shape is not None:
        asked = _requested(tile_shape, window, period, reach)
        _refuse_too_large(asked.tile, largest)
        candidates: Iterator[Shapes] = iter([asked])
    else:
        start = preferred_tile or (_DEFAULT_TILE[len(extent)],) * len(extent)
        start = [s if most is None else most for s, most in zip(start, largest, strict=True)]
        candidates = _descending(start, window, period, reach)
    least: tuple[int, Shapes] | None = None
    reason = ""
    for shapes in candidates:
        if why := refuses(shapes):
            reason = why
            continue
        need = peak(shapes)
        if need <= max_memory:
            return shapes
        if least is None or need < least[0]:
            least = need, shapes
    if least is None:
        raise PlanError(
            f"{reason}; "
            + ("give a smaller --tile-shape" if tile_shape is not None else "no tile is smaller")
        )
    raise PlanError(
        f"a memory budget of {format_bytes(max_memory)} is too small: the least that would do is "
        f"{format_bytes(least[0], up=True)} (tiles of {_text(least[1].tile)}, cells of "
        f"{_text(least[1].cell)}); raise --max-memory to that"
        + (" or give smaller tiles by --tile-shape" if tile_shape is not None else "")
    )


def _requested(
    tile: Sequence[int],
    window: Sequence[int] | None,
    period: Sequence[int],
    reach: Sequence[int],
) -> Shapes:
    if len(tile) != len(period):
        raise PlanError(
            f"a tile of shape {_text(tile)} has {len(tile)} axes, and the network {len(period)}"
        )
    for size, step in zip(tile, period, strict=True):
        if size < 1 or size % step:
            wanted = ",".join(
                str(max(p, floor_to(t, p))) for t, p in zip(tile, period, strict=True)
            )
            raise PlanError(
                f"a tile of shape {_text(tile)} is not a multiple of the network's period "
                f"{_text(period)}; take --tile-shape {wanted}"
            )
    tile = tuple(min(t, r) for t, r in zip(tile, reach, strict=True))
    if window is None:
        return Shapes(tile, _cell_of(tile, reach))
    _refuse_misaligned(window, period)
    if any(w % t and not t == r <= w for w, t, r in zip(window, tile, reach, strict=True)):
        raise PlanError(
            f"clustering windows of {_text(window)} voxels do not hold whole tiles of "
            f"{_text(tile)}; take a tile that divides the window"
        )
    return Shapes(tile, _cell_of_window(window, tile, reach))


def _refuse_too_large(tile: Sequence[int], largest: Sequence[int | None]) -> None:
    fitting = [t if most is None else min(t, most) for t, most in zip(tile, largest, strict=True)]
    if list(tile) != fitting:
        raise PlanError(
            f"a tile of shape {_text(tile)} and its context do not fit the one input size that the "
            f"network takes; take --tile-shape {_text(fitting)}"
        )


def _descending(
    start: Sequence[int],
    window: Sequence[int] | None,
    period: Sequence[int],
    reach: Sequence[int],
) -> Iterator[Shapes]:
    """Shapes from the preferred tile down to one period, the longest axis shrinking first."""
    if window is not None:
        _refuse_misaligned(window, period)
    ladders = [
        _ladder(s, p, r, None if window is None else window[axis])
        for axis, (s, p, r) in enumerate(zip(start, period, reach, strict=True))
    ]
    while True:
        tile = tuple(ladder[0] for ladder in ladders)
        if window is None:
            yield Shapes(tile, _cell_of(tile, reach))
        else:
            yield Shapes(tile, _cell_of_window(window, tile, reach))
        shrinkable = [axis for axis, ladder in enumerate(ladders) if len(ladder) > 1]
        if not shrinkable:
            return
        longest = max(shrinkable, key=lambda axis: (ladders[axis][0], axis))
        ladders[longest] = ladders[longest][1:]


def _ladder(start: int, period: int, reach: int, window: int | None) -> list[int]:
    """Tile sizes to try along one axis, largest first: the whole axis where it is short, then
    divisors of the window, if there is one.
    """
    if window is not None:
        start = min(start, window)
    whole = [reach] if reach <= start else []
    largest = max(period, floor_to(start, period))
    if window is not None:
        sizes = [s for s in range(largest, 0, -period) if window % s == 0 and s < reach]
    else:
        sizes = [min(largest, reach)]
        while sizes[-1] > period:
            sizes.append(max(period, floor_to(sizes[-1] * 3 // 4, period)))
        sizes = [s for s in sizes if s < reach]
    return [*whole, *sizes] or [period]


def _refuse_misaligned(window: Sequence[int], period: Sequence[int]) -> None:
    if len(window) != len(period) or any(w % p for w, p in zip(window, period, strict=True)):
        raise PlanError(
            f"clustering windows of {_text(window)} voxels are not multiples of the network's "
            f"period {_text(period)}; the model's card must declare multiples"
        )


def _cell_of_window(
    window: Sequence[int], tile: Sequence[int], reach: Sequence[int]
) -> tuple[int, ...]:
    """The window as whole tiles, no more of them than the volume needs."""
    return tuple(
        min(ceil_to(w, t), ceil_to(r, t)) for w, t, r in zip(window, tile, reach, strict=True)
    )


def _cell_of(tile: Sequence[int], reach: Sequence[int]) -> tuple[int, ...]:
    """Whole tiles, at least as large as makes a sensible chunk."""
    least = _LEAST_CELL[len(tile)]
    return tuple(
        t * max(1, min(least // t, math.ceil(r / t))) for t, r in zip(tile, reach, strict=True)
    )


def _text(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


def format_bytes(count: int, *, up: bool = False) -> str:
    """Bytes for people, in the decimal units that ``--max-memory`` takes."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            value = count / size
            text = math.ceil(value * 100) / 100 if up else round(value, 2)
            return f"{text:g}{unit}"
    return f"{count}B"
