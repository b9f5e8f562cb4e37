"""A volume larger than its memory budget, through the real command, with its memory watched."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.networks import ModelConfig, save_folder
from stitchsafe.nn import UNet
from stitchsafe.volumes import ArrayStore

BUDGET = 1_500_000_000


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A network that marks what is brighter than its surroundings."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    arguments = {
        "ndim": 3, "levels": 1, "base_channels": 2, "growth": 1, "convs_per_level": 1,
        "heads": {"foreground": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    module = UNet(**arguments)
    config = {
        "format": "stitchsafe-model/1", "name": "tiny",
        "network": {"name": "unet", "arguments": arguments},
        "input": {"axes": "zyx", "normalize": "zscore"},
        "outputs": [{"name": "foreground", "channels": 1, "activation": "sigmoid"}],
        "labels": {"from": "foreground", "window": [128, 128, 128], "min_size": 10},
        "tiling": {"tile_shape": [128, 128, 128]},
    }  # fmt: skip
    save_folder(folder, module, ModelConfig.model_validate(config))
    return folder


def generate(path: Path, size: int) -> None:
    """Smooth bright blobs on a dark ground, float32, written chunk by chunk."""
    volume = ArrayStore.create(path, shape=(size,) * 3, dtype="float32", chunks=(128,) * 3)
    for cell in grid_cells(Roi.whole(volume.shape), (128,) * 3):
        waves = [
            np.sin(np.arange(o, o + s, dtype=np.float32) * 0.13 + axis)
            for axis, (o, s) in enumerate(zip(cell.offset, cell.shape, strict=True))
        ]
        field = waves[0][:, None, None] * waves[1][:, None] * waves[2]
        noise = np.random.default_rng(cell.offset).normal(0, 0.01, cell.shape)
        volume.write(cell, (field + noise).astype(np.float32))


class Watch(threading.Thread):
    """Largest resident memory of a process and all that it starts."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = psutil.Process(pid), 0

    def run(self) -> None:
        while True:
            try:
                family = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(p.memory_info().rss for p in family))
            except psutil.Error:
                return
            time.sleep(0.05)


def predict_within(volume: Path, model: Path, out: Path) -> tuple[dict, int]:
    command = [
        sys.executable, "-m", "stitchsafe", "predict", str(volume), "-m", str(model),
        "-o", str(out), "--max-memory", str(BUDGET), "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        watch = Watch(process.pid)
        watch.start()
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()
    return json.loads(stdout), watch.peak


@pytest.mark.parametrize("size", [160, pytest.param(1024, marks=pytest.mark.slow)])
@pytest.mark.timeout(7200)
def test_memory_stays_within_the_budget(tmp_path, tiny_model, size):
    """1024 voxels a side are 4 GiB of float32; the budget is the same as for 160."""
    generate(tmp_path / "volume.zarr", size)
    answer, peak = predict_within(tmp_path / "volume.zarr", tiny_model, tmp_path / "out.zarr")
    print(json.dumps({k: v for k, v in answer.items() if k != "plan"}), peak)
    assert peak <= BUDGET
    assert peak <= answer["plan"]["peak_memory_bytes"] <= BUDGET
    assert answer["instances"] > 0
