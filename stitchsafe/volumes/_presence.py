"""Which chunks of an array are there, and since when, found without fetching any.

On a disk by their directory entries, on object stores and in archives by listing, plane by plane of
the grid, and on web servers, which list nothing, by asking for each one's header.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import tensorstore

from stitchsafe.volumes._place import Place, PlaceError
from stitchsafe.volumes._tensorstore import context

__all__ = ["Shards", "absent", "stamp_of"]

Cell = tuple[int, ...]
Item = TypeVar("Item")

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
            for batch in _batches(cells, 1024):
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


@dataclass(frozen=True)
class Shards:
    """Files that hold several chunks each, and an index of those that they hold.

    Parameters
    ----------
    shape, chunk_shape
        Of a shard, and of a chunk in it.
    index
        How the index is encoded, and at which end of the file.
    """

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    index: Mapping[str, Any]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Shards | None:
        """The shards of a Zarr v3 array; None where it has none that can be looked into."""
        codecs = metadata.get("codecs") or [{}]
        if codecs[0].get("name") != "sharding_indexed":
            return None
        said = codecs[0]["configuration"]
        index = {"index_codecs": said["index_codecs"]}
        index["index_location"] = said.get("index_location", "end")
        shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        return cls(tuple(shape), tuple(said["chunk_shape"]), index)

    def absent(
        self, place: Place, shards: Iterable[tuple[Cell, str]], index: Sequence[slice]
    ) -> Iterator[str]:
        """Which chunks of a region are in none of some shards, of which only the index is read.

        Parameters
        ----------
        place
            The array.
        shards
            Positions on the grid of shards, and their paths below the array.
        index
            The region.
        """
        grid = [s // c for s, c in zip(self.shape, self.chunk_shape, strict=True)]
        spec = {"driver": "zarr3_sharding_indexed", "grid_shape": grid, **self.index}
        for batch in _batches(iter(shards), _AT_ONCE):
            asked = [
                tensorstore.KvStore.open(
                    {**spec, "base": (place / name).file_spec}, context=context()
                )
                .result()
                .list()
                for _, name in batch
            ]
            for (cell, name), answer in zip(batch, asked, strict=True):
                try:
                    held = {tuple(np.frombuffer(key, ">u4").tolist()) for key in answer.result()}
                except ValueError:
                    continue  # who reads it is told
                for chunk in itertools.product(*self._wanted(cell, index)):
                    if chunk not in held:
                        yield f"{name}:{','.join(map(str, chunk))}"

    def _wanted(self, cell: Cell, index: Sequence[slice]) -> list[range]:
        """Along each axis, the chunks of a shard that a region needs."""
        wanted = []
        for at, asked, size, chunk in zip(cell, index, self.shape, self.chunk_shape, strict=True):
            begin, end = max(asked.start - at * size, 0), min(asked.stop - at * size, size)
            wanted.append(range(begin // chunk, -(-end // chunk)))
        return wanted


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


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    return iter(lambda: list(itertools.islice(items, size)), [])


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
    raise PlaceError(
        f"{place} does not answer whether it is there ({failed}); check the address and the "
        "network",
        passing=not (isinstance(failed, HTTPError) and failed.code < 500)
        and not isinstance(getattr(failed, "reason", None), socket.gaierror),
    )
