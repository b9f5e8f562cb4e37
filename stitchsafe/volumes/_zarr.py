"""Zarr arrays as sources, v2 and v3: by tensorstore, and by zarr-python what tensorstore refuses.

The metadata files are read here as plain JSON, which also gives what identifies the array and where
its chunks should lie. Data come from tensorstore wherever it opens the array (it is about three
times as fast); zarr-python knows more codecs and data types and takes the rest.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.errors import VolumeError
from stitchsafe.volumes._tensorstore import first_line, open_existing
from stitchsafe.volumes._volume import Array

__all__ = ["ZarrNode", "ZarrSource", "read_node"]


@dataclass(frozen=True)
class ZarrNode:
    """A group or an array of a Zarr hierarchy: where it lies and what its metadata say."""

    path: Path
    zarr_format: int
    kind: str
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def children(self) -> dict[str, str]:
        """Names of the groups and arrays directly below, with their kind."""
        found = {}
        for entry in sorted(self.path.iterdir()):
            child = read_node(entry) if entry.is_dir() else None
            if child is not None:
                found[entry.name] = child.kind
        return found


def read_node(path: Path) -> ZarrNode | None:
    """The Zarr node at a folder, or None if the folder is not one.

    Raises
    ------
    VolumeError
        There are metadata that cannot be read.
    """
    if (path / "zarr.json").is_file():
        metadata = _read_json(path / "zarr.json")
        kind = metadata.get("node_type")
        if metadata.get("zarr_format") != 3 or kind not in ("array", "group"):
            raise VolumeError(
                f"{path}/zarr.json describes neither a Zarr v3 array nor a group; "
                "choose a folder that is one"
            )
        return ZarrNode(path, 3, kind, metadata, metadata.get("attributes") or {})
    for name, kind in ((".zarray", "array"), (".zgroup", "group")):
        if (path / name).is_file():
            metadata = _read_json(path / name)
            extra = path / ".zattrs"
            return ZarrNode(path, 2, kind, metadata, _read_json(extra) if extra.is_file() else {})
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VolumeError(
            f"the metadata {path} cannot be read: {first_line(error)}; restore that file"
        ) from error
    if not isinstance(data, dict):
        raise VolumeError(f"the metadata {path} are not a JSON object; restore that file")
    return data


class ZarrSource:
    """A local Zarr array.

    Raises
    ------
    VolumeError
        Neither tensorstore nor zarr-python can read the array.
    """

    def __init__(self, node: ZarrNode) -> None:
        self._node = node
        handle = self._handle
        self.shape: tuple[int, ...] = tuple(int(s) for s in handle.shape)
        self.dtype = np.dtype(handle.dtype.numpy_dtype if self.by_tensorstore else handle.dtype)
        self.chunks: tuple[int, ...] = (
            tuple(int(c) for c in handle.chunk_layout.read_chunk.shape)
            if self.by_tensorstore
            else tuple(handle.chunks)
        )

    @functools.cached_property
    def _opened(self) -> tuple[Any, bool]:
        node = self._node
        try:
            return open_existing(node.path, zarr_format=node.zarr_format), True
        except (ValueError, OSError, NotImplementedError) as refusal:
            reason = first_line(refusal)
        import zarr  # only what tensorstore refuses needs it

        try:
            return zarr.open_array(node.path, mode="r"), False
        except Exception as error:
            raise VolumeError(
                f"the Zarr array {node.path} cannot be read: {first_line(error)} (tensorstore: "
                f"{reason}); convert it to a common codec and data type"
            ) from error

    @property
    def _handle(self) -> Any:
        return self._opened[0]

    @property
    def by_tensorstore(self) -> bool:
        """Whether tensorstore reads the array; zarr-python otherwise."""
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_opened"}

    @property
    def facts(self) -> Mapping[str, Any]:
        ignored = ("attributes", "consolidated_metadata")
        return {k: v for k, v in self._node.metadata.items() if k not in ignored}

    def read(self, index: tuple[slice, ...]) -> Array:
        try:
            if self.by_tensorstore:
                return np.asarray(self._handle[index].read(order="C").result())
            return np.asarray(self._handle[index])
        except Exception as error:
            raise VolumeError(
                f"the Zarr array {self._node.path} cannot be read at "
                f"{','.join(f'{s.start}:{s.stop}' for s in index)}: {first_line(error)}; restore "
                "the damaged chunk, or leave it out with --roi"
            ) from error

    def absent_chunk(self, index: tuple[slice, ...]) -> str | None:
        ranges, key = self._stored(index)
        names = map(key, itertools.product(*ranges))
        return next((name for name in names if not (self._node.path / name).is_file()), None)

    def _stored(
        self, index: tuple[slice, ...]
    ) -> tuple[list[range], Callable[[tuple[int, ...]], str]]:
        grid, key = _stored_grid(self._node)
        pairs = zip(index, grid, strict=True)
        return [range(s.start // c, -(-s.stop // c)) for s, c in pairs], key

    def missing_chunks(self, index: tuple[slice, ...]) -> int:
        ranges, key = self._stored(index)
        total = math.prod(len(r) for r in ranges)
        names = map(key, itertools.product(*ranges))
        present = sum((self._node.path / name).is_file() for name in names)
        return total - present


def _stored_grid(
    node: ZarrNode,
) -> tuple[tuple[int, ...], Callable[[tuple[int, ...]], str]]:
    """Shape of what lies in one file, and the function from its grid position to its name."""
    metadata = node.metadata
    if node.zarr_format == 2:
        separator = metadata.get("dimension_separator") or "."
        return tuple(metadata["chunks"]), lambda cell: separator.join(map(str, cell)) or "0"
    encoding = metadata.get("chunk_key_encoding", {"name": "default"})
    if isinstance(encoding, str):
        encoding = {"name": encoding}
    is_v2 = encoding.get("name") == "v2"
    configuration = encoding.get("configuration") or {}
    separator = configuration.get("separator", "." if is_v2 else "/")
    prefix = () if is_v2 else ("c",)
    chunks = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    return chunks, lambda cell: separator.join([*prefix, *map(str, cell)]) or "0"
