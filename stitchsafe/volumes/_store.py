"""One Zarr array that we write, on a disk or on an object store: atomic, durable, checksummed.

On a disk tensorstore writes each chunk (or shard) to a temporary name, syncs it and renames it, and
an object store shows whole objects only; so a killed process leaves whole chunks or none.
Checksums make a flipped bit raise instead of passing for data:

* Zarr v3: ``bytes | zstd | crc32c`` per chunk; in a shard so for each inner chunk and the index.
  Floats by blosc in place of zstd: with their bytes shuffled, lz4 makes them smaller, and in half
  the time.
* Zarr v2: gzip, whose trailer holds a CRC-32 of the data. (v2's zstd can carry a checksum too, but
  tensorstore refuses that key, and v2 filters with one are read by zarr-python alone.)

Two writers must never share a chunk, nor a shard: the later one would undo the earlier one.
Nothing here checks that; blocks own whole shards by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.errors import IntegrityError, InterruptedRunError, StoreError
from stitchsafe.volumes._place import Place, PlaceError
from stitchsafe.volumes._servers import is_unreachable
from stitchsafe.volumes._tensorstore import context, first_line, is_disk_full, open_existing

__all__ = ["ArrayStore"]


@dataclass(frozen=True, eq=False)
class ArrayStore:
    """A Zarr array, read and written by regions over *all* of its axes.

    Made by :meth:`create` or :meth:`open`. Can be pickled; the copy opens the array again.
    """

    path: Place
    zarr_format: int
    _handle: Any = field(repr=False)

    @classmethod
    def create(
        cls,
        path: str | Path | Place,
        *,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        chunks: Sequence[int],
        shards: Sequence[int] | None = None,
        fill_value: float = 0,
        zarr_format: int = 3,
        dimension_names: Sequence[str] | None = None,
        overwrite: bool = False,
        keep: bool = False,
    ) -> ArrayStore:
        """Create an array; nothing but its metadata is written.

        Parameters
        ----------
        shape, chunks, shards
            In voxels, over all axes. `shards` must be multiples of `chunks`; Zarr v3 only.
        fill_value
            What reads where nothing was written. Chunks full of it are not stored.
        keep
            Take an array of the same metadata that is there already, with what it holds.

        Raises
        ------
        StoreError
            Something is there already, the place cannot be written, or the sizes do not fit.
        """
        path = Place.of(path).absolute
        if not keep and ((path / "zarr.json").is_file() or (path / ".zarray").is_file()):
            if not overwrite:
                raise StoreError(
                    f"the array {path} exists already; choose another output or use --overwrite"
                )
            path.remove()  # of a linked input the link: the input is not ours to remove
        describe = _metadata_v3 if zarr_format == 3 else _metadata_v2
        outer = None if shards is None else tuple(shards)
        metadata = describe(path, tuple(shape), np.dtype(dtype), tuple(chunks), outer, fill_value)
        if zarr_format == 3 and dimension_names is not None:
            metadata["dimension_names"] = list(dimension_names)
        spec = {
            "driver": "zarr3" if zarr_format == 3 else "zarr",
            "kvstore": path.spec,
            "metadata": metadata,
            "recheck_cached_data": True,
        }
        try:
            handle = tensorstore.open(
                spec, create=True, open=keep or None, context=context()
            ).result()
        except (ValueError, OSError) as error:
            if is_disk_full(error):
                raise _no_space(path) from error
            if is_unreachable(error):
                raise _unreachable(path, error) from error
            raise StoreError(
                f"the array {path} cannot be created: {first_line(error)}; choose a place that "
                "can be written with --out"
            ) from error
        return cls(path, zarr_format, handle)

    @classmethod
    def open(cls, path: str | Path | Place) -> ArrayStore:
        """Open an array that exists, for reading and writing.

        Raises
        ------
        StoreError
            There is no Zarr array, or tensorstore cannot read it.
        """
        path = Place.of(path).absolute
        try:
            zarr_format = 3 if (path / "zarr.json").is_file() else 2
            handle = open_existing(path.spec, zarr_format=zarr_format, write=path.writable_kind)
        except PlaceError as error:
            raise error.refusal(StoreError) from error
        except (ValueError, OSError) as error:
            if is_unreachable(error):
                raise _unreachable(path, error) from error
            raise StoreError(
                f"{path} is not an array that stitchsafe wrote: {first_line(error)}; check the path"
            ) from error
        return cls(path, zarr_format, handle)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ArrayStore.open, (self.path,))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._handle.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._handle.dtype.numpy_dtype)
        return dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """What a reader can fetch alone: inner chunks where there are shards."""
        return tuple(self._handle.chunk_layout.read_chunk.shape)

    @property
    def write_chunks(self) -> tuple[int, ...]:
        """What one writer must own: the shards where there are any, else the chunks."""
        return tuple(self._handle.chunk_layout.write_chunk.shape)

    def files(self, roi: Roi) -> dict[str, Roi]:
        """Names of the files that hold a region, each with the part of the array that is in it."""
        chunks, whole = self.write_chunks, Roi.whole(self.shape)
        front = ["c"] if self.zarr_format == 3 else []
        return {
            "/".join([*front, *(str(o // c) for o, c in zip(part.offset, chunks, strict=True))]): (
                Roi(part.offset, chunks).intersect(whole)
            )
            for part in (cell.align_outward(chunks) for cell in grid_cells(roi, chunks))
        }

    def read(self, roi: Roi) -> npt.NDArray[Any]:
        """A region, as a new array of its shape.

        Raises
        ------
        IntegrityError
            Stored bytes fail their checksum.
        """
        self._check(roi)
        try:
            return np.asarray(self._handle[roi.slices].read(order="C").result())
        except (ValueError, OSError) as error:  # of the region nothing is wrong: it was looked at
            if is_unreachable(error):
                raise _unreachable(self.path, error) from error
            if isinstance(error, OSError):
                raise
            raise IntegrityError(
                f"stored bytes in {self.path} are damaged ({first_line(error)}); stitchsafe verify "
                "says what else is, and predict --repair mends it"
            ) from error

    def write(self, roi: Roi, data: npt.NDArray[Any]) -> None:
        """Write a region; returns when the bytes are on the disk.

        Of a file that the region does not fill, the rest is read and kept; one that it fills is
        replaced whatever it holds.

        Raises
        ------
        InterruptedRunError
            The bytes could not be written, for want of space or otherwise.
        ValueError
            Shape or type do not match.
        """
        self._check(roi)
        if data.shape != roi.shape or data.dtype != self.dtype:
            raise ValueError(
                f"{data.dtype} data of shape {data.shape} do not fit the region {roi} of "
                f"{self.dtype} in {self.path}"
            )
        try:
            self._handle[roi.slices].write(data).result()
        except (ValueError, OSError) as error:
            if is_disk_full(error):
                raise _no_space(self.path) from error
            if is_unreachable(error):
                raise _unreachable(self.path, error) from error
            if self._discard_damaged(roi):
                return self.write(roi, data)
            raise InterruptedRunError(
                f"writing to {self.path} failed: {first_line(error)}; mend that, then run the "
                "same command again to go on"
            ) from error

    def _discard_damaged(self, roi: Roi) -> bool:
        """Delete damaged files that a region fills, as far as there are voxels in them.

        At the array's end a file holds more than that, so that it would be read before it is
        written. Returns whether there were any.
        """
        found = False
        for name, part in self.files(roi).items():
            if roi.contains(part):
                try:
                    self.read(part)
                except IntegrityError:
                    (self.path / name).remove()
                    found = True
        return found

    def _check(self, roi: Roi) -> None:
        if not Roi.whole(self.shape).contains(roi):
            raise ValueError(f"the region {roi} reaches out of {self.path} of shape {self.shape}")


def _unreachable(path: Place, error: BaseException) -> InterruptedRunError:
    return InterruptedRunError(
        f"{path} can no longer be reached, after several attempts: {first_line(error)}; check the "
        "network, then run the same command again to go on"
    )


def _no_space(path: Place) -> InterruptedRunError:
    return InterruptedRunError(
        f"no space is left on the disk for {path}; make room, then run the same command again to "
        "go on"
    )


def _metadata_v3(
    path: Place,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    fill_value: float,
) -> dict[str, Any]:
    checksum = {"name": "crc32c"}
    to_bytes = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs: list[dict[str, Any]] = [to_bytes, _compression(dtype), checksum]
    if shards is not None:
        if len(shards) != len(chunks) or any(s % c for s, c in zip(shards, chunks, strict=True)):
            raise StoreError(
                f"the shards {shards} of {path} are not whole chunks {chunks}; use multiples"
            )
        inner = {
            "chunk_shape": chunks,
            "codecs": codecs,
            "index_codecs": [to_bytes, checksum],
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shards or chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": codecs,
        "fill_value": bool(fill_value) if dtype == np.bool_ else dtype.type(fill_value).item(),
    }


def _compression(dtype: np.dtype[Any]) -> dict[str, Any]:
    if dtype.kind != "f":
        return {"name": "zstd", "configuration": {"level": 1}}
    how = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": dtype.itemsize}
    return {"name": "blosc", "configuration": {**how, "blocksize": 0}}


def _metadata_v2(
    path: Place,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    fill_value: float,
) -> dict[str, Any]:
    if shards is not None:
        raise StoreError(
            f"{path} cannot have shards, as Zarr v2 knows none; write OME-Zarr 0.5 instead"
        )
    return {
        "shape": shape,
        "dtype": dtype.newbyteorder("<").str,
        "chunks": chunks,
        "compressor": {"id": "gzip", "level": 1},
        "dimension_separator": "/",
        "fill_value": bool(fill_value) if dtype == np.bool_ else dtype.type(fill_value).item(),
    }
