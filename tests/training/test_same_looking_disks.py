"""Rumberger et al. (2021), figures 2a and 2b, through the program: which disks share an id.

A network with period 8 tells 64 positions of an object apart. Disks on a grid of 15 come to lie at
all of them, those on a grid of 16 at one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zygote import Zygote

from stitchsafe.coordinates import Roi
from stitchsafe.training import draw_disks
from stitchsafe.volumes import ArrayStore

CONFIG = """
format: stitchsafe-training/1
name: disks-15
data: {kind: disks, spacing: 15}
input: {axes: yx}
network: {name: unet, arguments: {ndim: 2, levels: 3, base_channels: 12, heads: {embedding: 8}}}
window: [68, 68]
augmentation: {symmetries: false}
optimiser: {steps: 9000, learning_rate: 0.002, warmup: 50, clip: 10}
labels: {from: embeddings, bandwidth: 2.5, window: [128, 128], background: largest-cluster}
tiling: {tile_shape: [128, 128]}
threads: 1
"""
CONTEXT = 44  # no less than what a valid network of this kind reads around a pixel
SIZE = 256


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disks_share_an_id_where_the_period_says_so(tmp_path: Path, zygote: Zygote) -> None:
    (tmp_path / "disks.yaml").write_text(CONFIG)
    trained = zygote.run("train", "disks.yaml", "-o", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert ids(tmp_path, zygote, spacing=15) == 64
    assert ids(tmp_path, zygote, spacing=16) == 1


def ids(here: Path, zygote: Zygote, spacing: int) -> int:
    """Distinct labels of whole disks far enough from the border."""
    image, truth = draw_disks((SIZE, SIZE), np.random.default_rng(7), spacing=spacing)
    volume = ArrayStore.create(
        here / f"{spacing}.zarr", shape=truth.shape, dtype="float32", chunks=(64, 64)
    )
    volume.write(Roi.whole(truth.shape), image[0])
    words = ["predict", f"{spacing}.zarr", "-m", "run", "-o", f"labels{spacing}.zarr"]
    words += ["--clusters", "volume", "--no-parts", "--min-size", "40", "--border", "crop"]
    done = zygote.run(*words, cwd=here)
    assert done.returncode == 0, done.stderr
    found = ArrayStore.open(here / f"labels{spacing}.zarr/labels/instances/0")
    labels = found.read(Roi.whole(truth.shape))
    largest = np.bincount(truth.reshape(-1))[1:].max()
    seen = []
    for disk in range(1, truth.max() + 1):
        where = np.argwhere(truth == disk)
        if len(where) == largest and where.min() >= CONTEXT and where.max() < SIZE - CONTEXT:
            values, counts = np.unique(labels[truth == disk], return_counts=True)
            seen.append(int(values[counts.argmax()]))
    assert len(seen) >= 64
    assert 0 not in seen
    return len(set(seen))
