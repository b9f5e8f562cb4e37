"""A place as a store of zarr-python, for arrays that tensorstore refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from stitchsafe.volumes._place import Place

__all__ = ["PlaceStore"]

_NO_KEYS: tuple[str, ...] = ()


class PlaceStore(Store):
    """Reads below a place; what is asked for of a key is cut out of the whole of it."""

    def __init__(self, place: Place) -> None:
        super().__init__(read_only=True)
        self.place = place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlaceStore) and other.place == self.place

    __hash__ = None  # type: ignore[assignment]

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    @property
    def supports_listing(self) -> bool:
        return False

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        try:
            found = await asyncio.to_thread((self.place / key).read_bytes)
        except FileNotFoundError:
            return None
        if isinstance(byte_range, RangeByteRequest):
            found = found[byte_range.start : byte_range.end]
        elif isinstance(byte_range, OffsetByteRequest):
            found = found[byte_range.offset :]
        elif isinstance(byte_range, SuffixByteRequest):
            found = found[max(0, len(found) - byte_range.suffix) :]
        return prototype.buffer.from_bytes(found)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread((self.place / key).is_file)

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        for key in _NO_KEYS:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        del prefix
        for key in _NO_KEYS:
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        del prefix
        for key in _NO_KEYS:
            yield key
