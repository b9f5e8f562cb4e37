"""Merging and relabelling: how fast, how exact, and in how much memory.

``cells``
    A label volume of some thousand ids is cut into windows, by a network that passes on what it is
    given and embeddings that tell ids apart. Labels must come out as they went in, and printed is
    how many voxels a second merging takes, and relabelling, which reads provisional labels and
    writes final ones; also without the disk.
``rods``
    Volumes of ever more short rods, each over two or three windows: the largest memory of a process
    that predicts, merges and writes them, with the table of all.

::

    python benchmarks/merging.py cells --size 512
    python benchmarks/merging.py rods --sizes 144 312 660
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import stitchsafe
from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.engine import Silent, peak_memory
from stitchsafe.instances import relabel
from stitchsafe.networks import ModelConfig, TorchNetwork
from stitchsafe.volumes import ArrayStore

RELABELLING = {"labels"}
MERGING = {"districts", "contacts", "groups", "walk", "objects", "totals", "order", "merge"}


class Clock(Silent):
    """Adds up the time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._began = "", time.perf_counter()

    def stage(self, name: str, total: int, unit: str) -> None:
        del total, unit
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._began
        self._stage, self._began = name, now

    def of(self, names: set[str]) -> float:
        return sum(s for name, s in self.seconds.items() if name.partition(" ")[0] in names)


def passing_on(channels: int, labels: dict[str, Any], tile: tuple[int, ...]) -> TorchNetwork:
    """A network whose field is its input."""
    module = nn.Conv3d(channels, channels, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.eye(channels)[:, :, None, None, None])
    name = "embedding" if labels["from"] == "embeddings" else "foreground"
    card = {
        "format": "stitchsafe-model/1",
        "name": "passing-on",
        "input": {"axes": "zyx", "channels": channels, "normalize": "none"},
        "outputs": [{"name": name, "channels": channels, "activation": "none"}],
        "labels": labels,
        "tiling": {"tile_shape": list(tile)},
    }
    return TorchNetwork(module, config=ModelConfig.model_validate(card))


def cells_of(size: int, count: int) -> NDArray[np.uint32]:
    """Convex cells of some random points, of blocks of voxels."""
    from scipy.spatial import cKDTree

    coarse = size // 4
    points = np.random.default_rng(0).uniform(0, coarse, (count, 3))
    grid = np.stack(np.meshgrid(*[np.arange(coarse)] * 3, indexing="ij"), axis=-1)
    nearest = cKDTree(points).query(grid.reshape(-1, 3), workers=-1)[1]
    labels = (nearest.reshape((coarse,) * 3) + 1).astype(np.uint32)
    for axis in range(3):
        labels = labels.repeat(4, axis=axis)
    return labels


def measure_cells(size: int, count: int, window: int) -> None:
    import cc3d

    truth = cc3d.connected_components(cells_of(size, count), connectivity=6, out_dtype=np.uint32)
    window_shape = (window,) * 3
    # Two numbers below 251 and 241 by which all ids differ.
    colours = np.stack([truth * 73 % 251, truth * 151 % 241]).astype(np.uint8)
    how = {"from": "embeddings", "window": list(window_shape), "bandwidth": 0.5}
    network, clock = passing_on(2, how, window_shape), Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume = ArrayStore.create(
            folder / "in.zarr", shape=colours.shape, dtype="uint8", chunks=(2, 64, 64, 64)
        )
        volume.write(Roi.whole(colours.shape), colours)
        made = stitchsafe.predict(
            folder / "in.zarr", network, folder / "out.zarr",
            image="none", threads=1, axes="czyx", events=clock,
        )  # fmt: skip
        clock.stage("", 0, "")
        found = ArrayStore.open(folder / "out.zarr/labels/instances/0").read(Roi.whole(truth.shape))
    pairs = np.unique(found.astype(np.int64) * (int(truth.max()) + 1) + truth)
    restored = len(pairs) == made.progress.instances == int(truth.max())
    merging, relabelling = clock.of({*MERGING, "unite", "instances"}), clock.of(RELABELLING)
    plain = _relabelling_alone(truth, window_shape)
    rate = truth.size / 1e6
    print(
        f"{size}^3 voxels, {made.progress.instances} instances, windows of {window}^3: "
        f"{'restored exactly' if restored else 'NOT RESTORED'}\n"
        f"merging            {merging:6.2f} s  {rate / merging:7.1f} Mvoxel/s\n"
        f"relabelling        {relabelling:6.2f} s  {rate / relabelling:7.1f} Mvoxel/s, "
        "reading, compressing and writing included\n"
        f"relabelling alone  {plain:6.2f} s  {rate / plain:7.1f} Mvoxel/s, in memory\n"
        f"both, alone        {merging + plain:6.2f} s  {rate / (merging + plain):7.1f} Mvoxel/s"
    )


def _relabelling_alone(truth: NDArray[np.uint32], window: tuple[int, ...]) -> float:
    """From labels and tables as windows have them: contiguous, and numbered from 1."""
    seconds = 0.0
    for cell in grid_cells(Roi.whole(truth.shape), window):
        ids, local = np.unique(truth[cell.slices], return_inverse=True)
        labels = local.reshape(cell.shape).astype(np.uint32)
        lookup = ids.astype(np.uint16)
        began = time.perf_counter()
        relabel(labels, lookup)
        seconds += time.perf_counter() - began
    return seconds


def write_rods(place: Path, size: int) -> None:
    """Rods of 16 voxels along the last axis, none of which touch."""
    slices = 6
    volume = ArrayStore.create(place, shape=(size,) * 3, dtype="uint8", chunks=(slices, 66, 66))
    plane = np.zeros((size, size), np.uint8)
    plane[::2] = np.arange(size) % 18 < 16
    for begin in range(0, size, slices):
        slab = np.zeros((min(slices, size - begin), size, size), np.uint8)
        slab[::2] = plane
        volume.write(Roi((begin, 0, 0), slab.shape), slab)


def measure_rods(folder: Path) -> str:
    """In a process of its own, whose memory nothing else has enlarged."""
    how, clock = {"from": "foreground", "window": [66, 66, 8]}, Clock()
    network = passing_on(1, how, (66, 66, 8))
    made = stitchsafe.predict(
        folder / "in.zarr", network, folder / "out.zarr",
        image="none", threads=1, save=("labels", "table"), axes="zyx", events=clock,
        block_shape=(66, 66, 88), max_memory=2 * 10**9,
    )  # fmt: skip
    clock.stage("", 0, "")
    peak = peak_memory()
    files = (folder / "out.zarr/.stitchsafe/merged").iterdir()
    segments = sum(len(np.load(file)["ids"]) for file in files)
    merging = clock.of({*MERGING, "unite", "instances"})
    return (
        f"{made.plan.recipe.extent[0]}^3 voxels {segments:9} segments "
        f"{made.progress.instances:9} instances  {peak / 1e6:6.0f} MB at most, "
        f"{made.plan.memory.peak / 1e6:.0f} predicted; "
        f"{sum(clock.seconds.values()):.0f} s in all, {merging:.0f} s of merging"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cells = commands.add_parser("cells")
    cells.add_argument("--size", type=int, default=512)
    cells.add_argument("--count", type=int, default=5000)
    cells.add_argument("--window", type=int, default=64)
    rods = commands.add_parser("rods")
    rods.add_argument("--sizes", type=int, nargs="+", default=[144, 312, 660])
    rods.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.command == "cells":
        measure_cells(asked.size, asked.count, asked.window)
    elif asked.alone:
        print(measure_rods(asked.alone), flush=True)
    else:
        for size in asked.sizes:
            with tempfile.TemporaryDirectory() as name:
                write_rods(Path(name) / "in.zarr", size)
                command = [sys.executable, __file__, "rods", "--alone", name]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
