"""Resident memory of a run, as a pure function of its shapes.

Everything that lives at the same time is added up, process by process::

    coordinator   interpreter, network            only where workers do the blocks
    worker        interpreter, weights
                  reading      the input of the block, and of the next one, read ahead
                  fields       of the cell
                  and the larger of
                    forward    one tile's input and its activations (by their life in the trace),
                               or chunks being decoded, or read whole for statistics
                    writing    what is made of the cell, or compressing it

Nothing in it grows with the volume. What is kept of segments, about 400 bytes each while a window
is measured and 100 while they are merged, is left out: how many there will be, no shape tells. A
device holds weights and activations instead, and the worker what is copied to it and back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["INTERPRETER_BYTES", "MemoryEstimate", "Storage", "estimate_memory"]

INTERPRETER_BYTES = 440_000_000
"""Python with torch, tensorstore and the clustering libraries loaded: 415 MB measured at rest, and
what small things a run adds. The libraries' own pages are counted in every process, though they
share them, as the system counts them too."""

_CUDA_BYTES = 2_500_000_000
"""What the libraries of CUDA add to a process."""

_CONTEXT_BYTES = 600_000_000
"""What a process takes of a device before it has put anything there."""

_WEIGHT_COPIES = 3
"""The loaded weights, their reordered copy for the convolution kernels, and the reader's buffer."""

_SCRATCH = 1.1
"""Scratch of convolution kernels and the allocator, relative to the live activations."""

_STORE_COPIES = 2
"""A chunk as array and as encoded bytes, while it is written or read."""

_UNDER_WAY = 3
"""Passes whose input or fields lie in pinned memory while a device is kept busy."""


_DECODED_COPIES = 1.5
"""A chunk that is decoded, and what of it is still encoded, as a rule less."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What a run reads and writes, voxel by voxel.

    Parameters
    ----------
    itemsize
        Bytes of a voxel of the volume.
    cell_bytes
        What is made of each voxel of a cell while the cell is written, beside its fields.
    extent, chunk_shape, decoded_bytes
        Of the volume: its shape, and what is decoded together; 0 bytes where nothing is.
    decoders
        How many chunks are decoded at once.
    merging_bytes
        What clustering the whole, and merging all cells, takes when they are written.
    read_whole
        Bytes of a chunk that passes over the volume read whole, while nothing is computed.
    """

    itemsize: int
    cell_bytes: int = 0
    extent: tuple[int, ...] = ()
    chunk_shape: tuple[int, ...] = ()
    decoded_bytes: int = 0
    decoders: int = 1
    merging_bytes: int = 0
    read_whole: int = 0

    def decoding(self, shape: Sequence[int]) -> int:
        """Bytes that decoding takes while a region of a shape is read."""
        if not self.decoded_bytes:
            return 0
        chunks = [
            min(-(-size // chunk) + 1, -(-extent // chunk))
            for size, extent, chunk in zip(shape, self.extent, self.chunk_shape, strict=True)
        ]
        live = min(math.prod(chunks), self.decoders)
        return math.ceil(live * self.decoded_bytes * _DECODED_COPIES)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Predicted resident bytes, part by part; those of one worker, unless they say otherwise.

    Parameters
    ----------
    interpreter, weights, reading, forward, fields, writing, merging
        Parts of one process that does blocks.
    workers
        How many of them there are.
    coordinator
        The process that hands out blocks; 0 where it does them itself.
    device
        Bytes of a device that one worker takes; 0 without one.
    """

    interpreter: int
    weights: int
    reading: int
    forward: int
    fields: int
    writing: int
    merging: int = 0
    workers: int = 1
    coordinator: int = 0
    device: int = 0

    @property
    def worker(self) -> int:
        """Bytes of one worker at its worst moment: what takes turns never overlaps."""
        predicting = self.reading + self.fields + max(self.forward, self.writing)
        return self.interpreter + self.weights + max(predicting, self.merging)

    @property
    def peak(self) -> int:
        """Bytes of all processes together."""
        return self.coordinator + self.workers * self.worker

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "worker": self.worker, "peak": self.peak}


def estimate_memory(
    *,
    parameter_bytes: int,
    activation_bytes: int,
    input_shape: Sequence[int],
    block_input_shape: Sequence[int],
    cell_shape: Sequence[int],
    in_channels: int,
    field_channels: float,
    storage: Storage,
    itemsize: int,
    saves_fields: bool,
    blocks: int = 2,
    workers: int = 1,
    on_device: bool = False,
) -> MemoryEstimate:
    """Predict the memory of a run.

    Parameters
    ----------
    parameter_bytes, activation_bytes
        Of the network, and of its live tensors for one tile.
    input_shape, block_input_shape, cell_shape
        What a tile reads, what a block reads, and the cell, in voxels.
    in_channels, field_channels
        Channels of the volume, and numbers per voxel of all fields together.
    storage
        What is read and written.
    itemsize
        Bytes of a number in the fields.
    saves_fields
        Whether fields are written.
    blocks, workers
        How many there are.
    on_device
        Whether passes run on a device with a memory of its own.
    """
    tile, block, cell = (math.prod(s) for s in (input_shape, block_input_shape, cell_shape))
    live_blocks = min(2, math.ceil(blocks / workers))
    read = block * in_channels * storage.itemsize
    decoding = storage.decoding(block_input_shape)
    reading = read * (live_blocks + _STORE_COPIES - 1)
    if live_blocks > 1:  # the next block is decoded beside a pass
        reading, decoding = reading + max(0, decoding - read), 0
    gather = tile * in_channels * (storage.itemsize + itemsize)
    passed = math.ceil(tile * itemsize * (in_channels + field_channels))
    fields = math.ceil(cell * field_channels * itemsize)
    activations = math.ceil(activation_bytes * _SCRATCH)
    interpreter = INTERPRETER_BYTES + (_CUDA_BYTES if on_device else 0)
    return MemoryEstimate(
        interpreter=interpreter,
        weights=parameter_bytes * _WEIGHT_COPIES,
        reading=reading,
        forward=max(
            gather + (_UNDER_WAY * passed if on_device else activations),
            decoding,
            storage.read_whole + (0 if live_blocks > 1 else decoding),
        ),
        fields=fields * (2 if on_device else 1),  # a cell is written while the next is computed
        writing=max(cell * storage.cell_bytes, fields * _STORE_COPIES if saves_fields else 0),
        merging=storage.merging_bytes,
        workers=workers,
        coordinator=interpreter + parameter_bytes if workers > 1 else 0,
        device=_CONTEXT_BYTES + 2 * parameter_bytes + activations + _UNDER_WAY * passed
        if on_device
        else 0,
    )
