"""Resident memory of a run, as a pure function of its shapes.

Everything that lives at the same time is added up: the interpreter with its libraries, the weights,
one block of input, one tile's activations (by the liveness of the traced graph), the fields of one
cell, and what clustering that cell takes. Nothing in it grows with the volume. Merging, when no
tile is alive any more, takes about 100 bytes per segment; how many there will be, no shape tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["INTERPRETER_BYTES", "MemoryEstimate", "estimate_memory"]

INTERPRETER_BYTES = 480_000_000
"""Python with torch, tensorstore and the clustering libraries loaded, measured at rest."""

_WEIGHT_COPIES = 3
"""The loaded weights, their reordered copy for the convolution kernels, and the reader's buffer."""

_SCRATCH = 1.1
"""Scratch of convolution kernels and the allocator, relative to the live activations."""

_SEGMENT_BYTES = 48
"""Per voxel of a cell: masks, integer labels and sort keys while it is clustered."""

_STORE_COPIES = 2
"""A chunk as array and as encoded bytes, while it is written or read."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Predicted resident bytes, part by part."""

    interpreter: int
    weights: int
    reading: int
    forward: int
    fields: int
    clustering: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: a forward pass and clustering never overlap."""
        held = self.interpreter + self.weights + self.reading + self.fields
        return held + max(self.forward, self.clustering)

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "peak": self.peak}


def estimate_memory(
    *,
    parameter_bytes: int,
    activation_bytes: int,
    input_shape: Sequence[int],
    block_input_shape: Sequence[int],
    cell_shape: Sequence[int],
    in_channels: int,
    field_channels: float,
    source_itemsize: int,
    itemsize: int,
    clusters: bool,
) -> MemoryEstimate:
    """Predict the memory of one process.

    Parameters
    ----------
    parameter_bytes, activation_bytes
        Of the network, and of its live tensors for one tile.
    input_shape, block_input_shape, cell_shape
        What a tile reads, what a block reads, and the cell, in voxels.
    in_channels, field_channels
        Channels of the volume, and numbers per voxel of all fields together.
    source_itemsize, itemsize
        Bytes of a voxel in the volume and in the network.
    clusters
        Whether cells are clustered into instances.
    """
    tile, block, cell = (math.prod(s) for s in (input_shape, block_input_shape, cell_shape))
    reading = block * in_channels * source_itemsize * _STORE_COPIES
    gather = tile * in_channels * (source_itemsize + itemsize)
    fields = math.ceil(cell * field_channels * itemsize)
    clustering = cell * _SEGMENT_BYTES + 3 * fields if clusters else 0
    return MemoryEstimate(
        interpreter=INTERPRETER_BYTES,
        weights=parameter_bytes * _WEIGHT_COPIES,
        reading=reading,
        forward=math.ceil(activation_bytes * _SCRATCH) + gather,
        fields=fields,
        clustering=max(clustering, fields * _STORE_COPIES),
    )
