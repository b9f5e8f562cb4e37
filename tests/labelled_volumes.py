"""A small labelled volume in many guises, and trainings on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from stitchsafe.coordinates import Roi
from stitchsafe.training import Example, TrainingConfig, TrainingWindow, draw_disks, open_examples
from stitchsafe.volumes import ArrayStore

SHAPE = (24, 40, 36)
WINDOW = TrainingWindow((8, 10, 12), (16, 22, 24), (4, 6, 6), (0, 0, 0))


def cells(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Touching blocks of many ids with background between some, and an image that shows them."""
    generator = np.random.default_rng(seed)
    block = tuple(-(-n // 6) for n in shape)
    ids = generator.integers(0, 9, block).astype(np.uint16) * 7
    for axis in range(len(shape)):
        ids = ids.repeat(6, axis)
    labels = np.ascontiguousarray(ids[tuple(slice(n) for n in shape)])
    noise = generator.integers(0, 30, shape)
    return (labels * 3 + noise).astype(np.uint8), labels


def balls(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    image, labels = draw_disks(shape, np.random.default_rng(0), radius=(3, 4), density=0.1)
    return (image[0] * 200).astype(np.uint8), labels.astype(np.uint16)


def write(folder: Path, kind: str, raw: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Write both arrays, and return what ``train.yaml`` says of them."""
    pair = {"image": raw, "labels": labels}
    if kind == "h5":
        with h5py.File(folder / "cells.h5", "w") as file:
            file["raw"], file["labels"] = raw, labels
        return {"path": "cells.h5"}
    if kind == "npz":
        np.savez(folder / "cells.npz", raw=raw, truth=labels)
        return {"path": "cells.npz", "labels": "truth"}
    for name, array in pair.items():
        if kind == "npy":
            np.save(folder / f"{name}.npy", array)
        elif kind == "tif":
            tifffile.imwrite(folder / f"{name}.tif", array)
        else:
            store = ArrayStore.create(
                folder / f"{name}.zarr", shape=array.shape, dtype=array.dtype.str, chunks=(8, 16, 8)
            )
            store.write(Roi.whole(array.shape), array)
    return {name: f"{name}.{kind}" for name in pair}


def training(data: dict[str, Any], **changes: Any) -> TrainingConfig:
    axes = changes.pop("axes", "zyx")
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "tiny",
            "data": {"kind": "volume"} | data,
            "input": {"axes": axes, "normalize": "percentile"},
            "network": {
                "name": "unet",
                "arguments": {
                    "ndim": len(axes), "levels": 1, "base_channels": 2,
                    "heads": {"embedding": 2, "foreground": 1},
                },
            },
            "window": [8] * len(axes),
            "embedding": {"reach": 1, "background": "ignored"},
            "foreground": {"reach": 2, "boundary_weight": 3},
            "optimiser": {"steps": 1},
        }
        | changes
    )  # fmt: skip


def examples(folder: Path, config: TrainingConfig, window: TrainingWindow = WINDOW):
    return open_examples(config, window, folder=folder)


def seeded(step: int = 0) -> np.random.Generator:
    return np.random.default_rng((0, step, 0))


def same(a: Example, b: Example) -> bool:
    names = ("image", "instances", "clusters", "foreground", "weight")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
