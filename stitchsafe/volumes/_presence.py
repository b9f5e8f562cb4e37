"""Which chunks of an array are there, and since when, found without fetching any.

On a disk by their directory entries, on object stores and in archives by listing, plane by plane of
the grid, and on web servers, which list nothing, by asking for each one's header.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from stitchsafe.volumes._place import Place, PlaceError

__all__ = ["absent", "stamp_of"]

Cell = tuple[int, ...]

_AT_ONCE = 16
_ATTEMPTS = 4
_TIMEOUT = 30


def absent(place: Place, ranges: Sequence[range], key: Callable[[Cell], str]) -> Iterator[str]:
    """The paths of those of some chunks that do not lie in a store, in the order of the grid.

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
        yield from (name for name in map(key, cells) if not (place.local / name).is_file())
    elif place.kind == "http":
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for batch in _batches(cells):
                names = [key(cell) for cell in batch]
                answers = pool.map(_answers, [place / name for name in names])
                yield from (name for name, found in zip(names, answers, strict=True) if not found)
    else:
        for leading in ranges[0] if ranges else (None,):
            first = [] if leading is None else [[leading]]
            plane = [key(cell) for cell in itertools.product(*first, *ranges[1:])]
            if plane:
                begin = os.path.commonprefix(plane)  # noqa: RUF071 (of text, not of a path)
                there = set(place.listing(begin))
                yield from (name for name in plane if name not in there)


def stamp_of(files: Iterable[Path]) -> str:
    """Digest of the sizes and times of files; an equal one says that none has been written since.

    The time of the last change of any kind is among them, which no copying tool sets back.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            found = file.stat()
            line = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        except FileNotFoundError:
            line = "absent"
        digest.update(f"{file.name} {line}\n".encode())
    return digest.hexdigest()


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
