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
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.errors import InterruptedRunError, VolumeError
from stitchsafe.volumes._place import Place, PlaceError
from stitchsafe.volumes._presence import Shards, absent, stamp_of
from stitchsafe.volumes._servers import explained, is_unreachable
from stitchsafe.volumes._tensorstore import first_line, open_existing
from stitchsafe.volumes._volume import Array

__all__ = ["ZarrNode", "ZarrSource", "read_node"]

_DENIED = re.compile("ignored by server|PERMISSION_DENIED|UNAUTHENTICATED")


@dataclass(frozen=True)
class ZarrNode:
    """A group or an array of a Zarr hierarchy: where it lies and what its metadata say."""

    path: Place
    zarr_format: int
    kind: str
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def children(self) -> dict[str, str]:
        """Names of the groups and arrays directly below, with their kind.

        A web server lists nothing; there they are those of consolidated metadata.

        Raises
        ------
        PlaceError
            There are no consolidated metadata, and the place cannot be listed.
        """
        consolidated = self.metadata.get("consolidated_metadata") or {}
        known = consolidated.get("metadata")
        if self.path.kind != "file" and isinstance(known, Mapping):
            return {name: node["node_type"] for name, node in known.items() if "/" not in name}
        found = {}
        for name in self.path.children():
            child = read_node(self.path / name)
            if child is not None:
                found[name] = child.kind
        return found


def read_node(where: Path | Place) -> ZarrNode | None:
    """The Zarr node at a place, or None if there is none.

    Raises
    ------
    VolumeError
        There are metadata that cannot be read.
    PlaceError
        The place cannot be reached.
    """
    path = Place.of(where)
    metadata = _read_json(path / "zarr.json")
    if metadata is not None:
        kind = metadata.get("node_type")
        if metadata.get("zarr_format") != 3 or kind not in ("array", "group"):
            raise VolumeError(
                f"{path}/zarr.json describes neither a Zarr v3 array nor a group; "
                "choose a folder that is one"
            )
        return ZarrNode(path, 3, kind, metadata, metadata.get("attributes") or {})
    for name, kind in ((".zarray", "array"), (".zgroup", "group")):
        metadata = _read_json(path / name)
        if metadata is not None:
            return ZarrNode(path, 2, kind, metadata, _read_json(path / ".zattrs") or {})
    return None


def _read_json(path: Place) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PlaceError:
        raise
    except (OSError, ValueError) as error:
        raise VolumeError(
            f"the metadata {path} cannot be read: {first_line(error)}; restore that file"
        ) from error
    if not isinstance(data, dict):
        raise VolumeError(f"the metadata {path} are not a JSON object; restore that file")
    return data


class ZarrSource:
    """A Zarr array, wherever it lies.

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
            return open_existing(node.path.spec, zarr_format=node.zarr_format), True
        except (ValueError, OSError, NotImplementedError) as refusal:
            if is_unreachable(refusal):
                raise PlaceError(f"{node.path} {explained(refusal)}", passing=True) from refusal
            reason = first_line(refusal)
        import zarr  # only what tensorstore refuses needs it

        try:
            if node.path.local is not None:
                return zarr.open_array(node.path.local, mode="r"), False
            from stitchsafe.volumes._zarr_store import PlaceStore

            return zarr.open_array(PlaceStore(node.path), mode="r"), False
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
            if is_unreachable(error):
                raise InterruptedRunError(
                    f"the Zarr array {self._node.path} can no longer be reached, after several "
                    f"attempts: {first_line(error)}; check the network, then run "
                    "the same command again"
                ) from error
            if self._node.path.local is None and _DENIED.search(str(error)):
                raise VolumeError(f"the Zarr array {self._node.path} {explained(error)}") from error
            raise VolumeError(
                f"the Zarr array {self._node.path} cannot be read at "
                f"{','.join(f'{s.start}:{s.stop}' for s in index)}: {first_line(error)}; restore "
                "the damaged chunk, or leave it out with --roi"
            ) from error

    def absent_chunks(self, index: tuple[slice, ...]) -> Iterator[str]:
        ranges, key = self._stored(index)
        files = set()
        for name in absent(self._node.path, ranges, key):
            files.add(name)
            yield name
        if (shards := Shards.of(self._node.metadata)) is not None:
            there = ((c, key(c)) for c in itertools.product(*ranges) if key(c) not in files)
            yield from shards.absent(self._node.path, there, index)

    def stamp(self, index: tuple[slice, ...]) -> str | None:
        if (folder := self._node.path.local) is None:
            return None
        ranges, key = self._stored(index)
        return stamp_of(folder / key(cell) for cell in itertools.product(*ranges))

    @property
    def decoded_bytes(self) -> int:
        return int(math.prod(self.chunks) * self.dtype.itemsize)

    def _stored(
        self, index: tuple[slice, ...]
    ) -> tuple[list[range], Callable[[tuple[int, ...]], str]]:
        grid, key = _stored_grid(self._node)
        pairs = zip(index, grid, strict=True)
        return [range(s.start // c, -(-s.stop // c)) for s, c in pairs], key


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
