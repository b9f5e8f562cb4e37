"""The files that README and guide speak of, made small: a reader's volumes and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray

__all__ = ["random_volume", "write_files", "write_ome_zarr"]


def write_files(folder: Path, repository: Path) -> None:
    """Write ``volume.zarr``, ``stack.h5``, ``image.tif`` and labels with their truth."""
    raw = _electron_microscopy(repository)
    write_ome_zarr(folder / "volume.zarr", raw, nanometers=10)
    with h5py.File(folder / "stack.h5", "w") as file:
        file["raw"] = raw
    tifffile.imwrite(folder / "image.tif", _disks(), photometric="minisblack")
    truth = np.zeros((8, 32, 32), np.uint32)
    truth[:, 2:14, 2:14] = 1
    truth[:, 18:30, 18:30] = 2
    labels = truth.copy()
    labels[:, 18:30, 24:30] = 3
    np.save(folder / "truth.npy", truth)
    np.save(folder / "labels.npy", labels)


def _electron_microscopy(repository: Path) -> NDArray[np.uint8]:
    """A corner of the demo's volume; noise where the checkout does not hold it."""
    for path in sorted((repository / "examples" / "data").glob("*.h5")):
        with h5py.File(path) as file:
            return np.asarray(file["raw"][:48, :64, :64], np.uint8)
    return random_volume(48, 64, 64)


def _disks() -> NDArray[np.uint8]:
    y, x = np.mgrid[:96, :96]
    return (((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2) < 25).astype(np.uint8)


def random_volume(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def write_ome_zarr(path: Path, raw: NDArray[Any], *, nanometers: float, levels: int = 1) -> None:
    """OME-Zarr 0.5 by hand: so that what programs are tested with is not of their own making."""
    import zarr

    def dataset(level: int) -> dict[str, Any]:
        scale = {"type": "scale", "scale": [nanometers * 2**level] * 3}
        return {"path": str(level), "coordinateTransformations": [scale]}

    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    datasets = [dataset(level) for level in range(levels)]
    multiscale = {"name": "volume", "axes": axes, "datasets": datasets}
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for level in range(levels):
        values = raw[:: 2**level, :: 2**level, :: 2**level]
        array = group.create_array(
            str(level),
            shape=values.shape,
            chunks=(32, 32, 32),
            dtype=raw.dtype,
            dimension_names=list("zyx"),
        )
        array[...] = values
