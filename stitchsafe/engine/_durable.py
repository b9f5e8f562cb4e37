"""Small files that are either whole or absent, on a disk or on an object store."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import IntegrityError
from stitchsafe.volumes import PARTIAL, Place

__all__ = ["SUFFIX", "file_checksum", "load_arrays", "save_arrays", "save_bytes", "save_json"]

SUFFIX = PARTIAL


def file_checksum(content: bytes) -> str:
    """CRC-32 of a file's bytes, as the ledger keeps it."""
    return f"{zlib.crc32(content):08x}"


def save_bytes(path: Path | Place, content: bytes) -> str:
    """Write a file so that a crash leaves the old one, or the new one, whole and on the disk.

    Returns
    -------
    str
        Its `file_checksum`.
    """
    Place.of(path).write_bytes(content)
    return file_checksum(content)


def save_json(path: Path | Place, content: Any) -> None:
    """Write JSON with sorted keys, so that equal content is equal bytes."""
    save_bytes(path, (json.dumps(content, sort_keys=True, indent=1) + "\n").encode())


def save_arrays(path: Path | Place, arrays: dict[str, NDArray[Any]]) -> str:
    """Write arrays as an ``.npz``; equal content is equal bytes. Returns the file's checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(sorted(arrays.items())))  # type: ignore[arg-type]
    return save_bytes(path, buffer.getvalue())


def load_arrays(path: Path | Place) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``.

    Raises
    ------
    IntegrityError
        If the file is damaged.
    OSError
        If it is not there.
    """
    content = Place.of(path).read_bytes()
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise IntegrityError(f"{path} is damaged; start again with --overwrite") from error
