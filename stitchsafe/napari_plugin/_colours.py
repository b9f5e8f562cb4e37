"""Fields as colours: the three directions in which their channels vary most are red, green, blue.

The directions come from the voxels that predicting has recorded for `verify`, a few per cell and
spread over the result, so that nothing of a large field has to be read for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Colours", "recorded_values"]

Array = npt.NDArray[Any]
_MOST_FILES = 64
_FEW = 16


@dataclass(frozen=True)
class Colours:
    """A linear map of channels to colours.

    Parameters
    ----------
    mean
        Of the channels, shape (channels,).
    weights
        Shape (3, channels).
    low, high
        Of the three values, what becomes black and what becomes full; shape (3,).
    """

    mean: Array
    weights: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> Colours:
        """From some voxels, shape (channels, voxels); with fewer channels or voxels, greys."""
        values = np.asarray(values, np.float64)
        values = values[:, np.isfinite(values).all(axis=0)]
        channels = values.shape[0]
        if values.shape[1] < _FEW:
            values = np.concatenate([values, np.eye(channels), np.zeros((channels, 1))], axis=1)
        mean = values.mean(axis=1)
        vectors = np.linalg.svd(np.cov(values).reshape(channels, channels))[0].T[:3]
        # A direction has no sign of its own: the largest weight is positive.
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
        vectors = vectors * np.where(largest < 0, -1.0, 1.0)
        weights = vectors[np.arange(3) % len(vectors)] if len(vectors) < 3 else vectors
        along = weights @ (values - mean[:, None])
        low, high = np.percentile(along, (1, 99), axis=1)
        return cls(mean, weights, low, np.maximum(high, low + 1e-6))

    def __call__(self, field: Array) -> Array:
        """The colours of a field, shape (channels, *elements): 8 bits, shape (*elements, 3)."""
        along = np.tensordot(self.weights, field.astype(np.float32), axes=1)
        over = (self.weights @ self.mean, self.low, self.high)
        shift, low, high = (each.reshape(3, *[1] * (field.ndim - 1)) for each in over)
        share = np.nan_to_num((along - shift - low) / (high - low)).clip(0, 1)
        return np.moveaxis((share * 255).astype(np.uint8), 0, -1)


def recorded_values(result: Path, field: str) -> Array | None:
    """Values of a field at recorded voxels, shape (channels, voxels); None if there are none."""
    files = sorted((result / ".stitchsafe" / "samples").glob("*.npz"))
    found = []
    for file in _spread(files):
        try:
            with np.load(file) as record:
                found.append(record[f"field_{field}"])
        except (OSError, ValueError, KeyError):
            continue
    return np.concatenate(found, axis=1) if found else None


def _spread(files: Sequence[Path]) -> list[Path]:
    if len(files) <= _MOST_FILES:
        return list(files)
    return [files[n] for n in np.linspace(0, len(files) - 1, _MOST_FILES).astype(int)]
