"""Small files that are either whole or absent, on a disk or on an object store."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import IntegrityError
from stitchsafe.volumes import PARTIAL, Place

__all__ = [
    "SUFFIX",
    "file_checksum",
    "load_arrays",
    "load_json",
    "place_checksum",
    "save_arrays",
    "save_bytes",
    "save_json",
]

SUFFIX = PARTIAL

_SEAL = "checksum"
_USUAL_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][biuf]\d)', 'fortran_order': False, "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)


def file_checksum(content: bytes) -> str:
    """CRC-32 of a file's bytes, as the ledger keeps it."""
    return f"{zlib.crc32(content):08x}"


def place_checksum(place: Place) -> str:
    """The `file_checksum` of what lies somewhere, of whatever size.

    Raises
    ------
    OSError
        If it is not there.
    """
    found = 0
    for piece in place.read_pieces():
        found = zlib.crc32(piece, found)
    return f"{found:08x}"


def save_bytes(path: Path | Place, content: bytes | Iterable[bytes]) -> str:
    """Write a file so that a crash leaves the old one, or the new one, whole and on the disk.

    Parameters
    ----------
    content
        The bytes, all or in pieces.

    Returns
    -------
    str
        Its `file_checksum`.
    """
    found = 0

    def told() -> Iterator[bytes]:
        nonlocal found
        for piece in [content] if isinstance(content, bytes) else content:
            found = zlib.crc32(piece, found)
            yield piece

    Place.of(path).write_bytes(told())
    return f"{found:08x}"


def save_json(path: Path | Place, content: dict[str, Any]) -> str:
    """Write a JSON object with its own checksum; equal content is equal bytes.

    Returns
    -------
    str
        The file's `file_checksum`.
    """
    sealed = {**content, _SEAL: _seal(content)}
    return save_bytes(path, (json.dumps(sealed, sort_keys=True, indent=1) + "\n").encode())


def load_json(path: Path | Place) -> dict[str, Any]:
    """What `save_json` wrote.

    Raises
    ------
    IntegrityError
        If it holds anything else.
    OSError
        If it is not there.
    """
    return unseal(Place.of(path).read_bytes(), path)


def unseal(text: bytes, path: object) -> dict[str, Any]:
    """What `save_json` wrote, from its bytes; `path` is named where they are others."""
    try:
        content = json.loads(text)
        sound = content.pop(_SEAL) == _seal(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path) from error
    if not sound:
        raise damaged(path)
    return dict(content)


def damaged(path: object) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged; stitchsafe verify says what else is, and predict --repair mends it"
    )


def _seal(content: dict[str, Any]) -> str:
    return file_checksum(json.dumps(content, sort_keys=True).encode())


def save_arrays(path: Path | Place, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write arrays as an ``.npz``; equal content is equal bytes. Returns the file's checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(sorted(arrays.items())))  # type: ignore[arg-type]
    return save_bytes(path, buffer.getvalue())


def _array(content: bytes) -> NDArray[Any]:
    """The array of an ``.npy``.

    NumPy compiles each header, which takes longer than all else in files of small arrays.
    """
    begin = 10 + int.from_bytes(content[8:10], "little")
    usual = _USUAL_HEADER.fullmatch(content, 0, begin)
    if usual is None:
        unusual: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        return unusual
    shape = tuple(map(int, re.findall(rb"\d+", usual[2])))
    flat = np.frombuffer(content, np.dtype(usual[1].decode()), offset=begin)
    return flat.reshape(shape).copy()


def load_arrays(path: Path | Place, checksum: str | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``.

    Parameters
    ----------
    checksum
        Of the file, where it is known.

    Raises
    ------
    IntegrityError
        If the file is damaged.
    OSError
        If it is not there.
    """
    content = Place.of(path).read_bytes()
    if checksum is not None and file_checksum(content) != checksum:
        raise damaged(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return {name.removesuffix(".npy"): _array(file.read(name)) for name in file.namelist()}
    except Exception as error:  # whatever zip, npy and their headers make of arbitrary bytes
        raise damaged(path) from error
