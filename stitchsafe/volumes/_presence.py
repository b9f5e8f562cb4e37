"""Which chunks of an array are there, found without fetching any.

On a disk by their directory entries, on object stores and in archives by listing, plane by plane of
the grid, and on web servers, which list nothing, by asking for each one's header.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from stitchsafe.volumes._place import Place, PlaceError

__all__ = ["count_present"]

Cell = tuple[int, ...]

_AT_ONCE = 16
_ATTEMPTS = 4
_TIMEOUT = 30


def count_present(place: Place, ranges: Sequence[range], key: Callable[[Cell], str]) -> int:
    """How many of some chunks lie in a store.

    Parameters
    ----------
    place
        The array.
    ranges
        Of the grid, per axis; the chunks are their product.
    key
        From a chunk's position in the grid to its path below the array.

    Raises
    ------
    PlaceError
        If the place cannot be reached.
    """
    cells = itertools.product(*ranges)
    if place.local is not None:
        return sum((place.local / key(cell)).is_file() for cell in cells)
    if place.kind == "http":
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return sum(
                sum(pool.map(_answers, [place / key(cell) for cell in batch]))
                for batch in _batches(cells)
            )
    present = 0
    for leading in ranges[0] if ranges else ():
        plane = [key(cell) for cell in itertools.product([leading], *ranges[1:])]
        if plane:
            begin = os.path.commonprefix(plane)  # noqa: RUF071 (of text, not of a path)
            present += len({*place.listing(begin)}.intersection(plane))
    return present if ranges else int(bool(place.listing(key(()))))


def _batches(cells: itertools.product[Cell]) -> itertools.chain[list[Cell]]:
    return itertools.chain(iter(lambda: list(itertools.islice(cells, 1024)), []))


def _answers(place: Place) -> bool:
    """Whether a web server has something here."""
    request = Request(f"{place.root}/{quote(place.key)}", method="HEAD")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urlopen(request, timeout=_TIMEOUT):
                return True
        except HTTPError as error:
            if error.code in (404, 410):
                return False
            failed: Exception = error
            if error.code < 500:
                break
        except (URLError, OSError) as error:
            failed = error
        if attempt < _ATTEMPTS:
            time.sleep(0.25 * 2**attempt)
    raise PlaceError(f"{place} does not answer whether it is there ({failed}); check the address")
