"""Memory that runs out: smaller tiles before anything is finished, and what would do after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heard import Heard
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.errors import MemoryShortageError, PlanError
from stitchsafe.networks import TorchNetwork


class Scarce:
    """Passes for which torch finds no memory: over more than so many voxels, or from the n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, voxels: int = 10**12) -> None:
        self.voxels, self.passes, self.passed = voxels, 10**12, 0
        self.run = TorchNetwork._here
        monkeypatch.setattr(TorchNetwork, "_here", lambda *given: self(*given))

    def __call__(self, network: TorchNetwork, batch: np.ndarray) -> Any:
        self.passed += 1
        if batch.size > self.voxels or self.passed > self.passes:
            torch.empty(2**50, dtype=torch.uint8)  # torch's own error, not an imitation
        return self.run(network, batch)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "tiny", ndim=2, window=(48, 48), tile=(48, 48))
    np.save(tmp_path / "volume.npy", smooth_volume(96, 96))
    return tmp_path


def predict(here: Path, out: str, **options: Any) -> tuple[Any, Heard]:
    heard = Heard()
    given = {"threads": 1, "max_memory": 10**10, "image": "none", **options}
    made = stitchsafe.predict(here / "volume.npy", here / "tiny", here / out, events=heard, **given)
    return made, heard


def test_before_anything_is_finished_smaller_tiles_are_taken(here, monkeypatch) -> None:
    Scarce(monkeypatch, voxels=40 * 40)
    made, heard = predict(here, "small.zarr")
    assert made.plan.recipe.tile_shape != (48, 48)
    assert "memory ran out with tiles of 48,48, before anything was finished" in heard
    assert "asked for" in heard
    predict(here, "asked.zarr", tile_shape=made.plan.recipe.tile_shape)
    assert content_of(here / "small.zarr") == content_of(here / "asked.zarr")
    assert stitchsafe.verify(here / "small.zarr").ok


def test_a_tile_that_was_asked_for_is_not_made_smaller(here, monkeypatch) -> None:
    Scarce(monkeypatch, voxels=40 * 40)
    with pytest.raises(PlanError, match=r"tiles of 48,48, before .* give --tile-shape \d+,\d+"):
        predict(here, "out.zarr", tile_shape=(48, 48))
    assert not (here / "out.zarr").exists()


def test_where_no_tile_is_small_enough_the_run_ends(here, monkeypatch) -> None:
    Scarce(monkeypatch, voxels=10)
    tiny_model(here / "tiny", ndim=2, window=(48, 48), tile=(8, 8))
    with pytest.raises(PlanError, match=r"memory ran out with tiles of .*; no tile is smaller"):
        predict(here, "out.zarr")


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"block_shape": (48, 96)}, r"with --block-shape 48,48: it goes on from there"),
        ({}, r"free some memory, .* or start again with --tile-shape \d+,\d+ --overwrite"),
    ],
)
def test_after_that_it_says_what_would_do_and_goes_on(here, monkeypatch, options, flags) -> None:
    scarce = Scarce(monkeypatch)
    scarce.passes = 3
    with pytest.raises(MemoryShortageError, match=flags) as shortage:
        predict(here, "out.zarr", **options)
    assert shortage.value.exit_code == 3
    scarce.passes = 10**12
    again, _ = predict(here, "out.zarr")
    assert again.progress.blocks_resumed > 0
    predict(here, "other.zarr")
    assert content_of(here / "out.zarr") == content_of(here / "other.zarr")


LIMITED = """
import re, resource, sys
from pathlib import Path
import stitchsafe.pipeline, tensorstore, stitchsafe.cli
held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv.pop(1)),) * 2)
stitchsafe.cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")
def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    """A pass over the tile of the card takes more than the system gives."""
    wide = {"base_channels": 96, "growth": 1, "convs_per_level": 1, "kernel_size": [1, 1]}
    tiny_model(tmp_path / "wide", ndim=2, window=(640, 640), **wide)
    np.save(tmp_path / "volume.npy", smooth_volume(640, 640))
    command = [
        sys.executable, "-c", LIMITED, str(900_000_000), "predict", "volume.npy", "-m", "wide",
        "-o", "out.zarr", "--save", "fields", "--threads", "1", "--max-memory", "9GB",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "memory ran out with tiles of 640,640, before anything was finished" in ended.stderr
    assert stitchsafe.verify(tmp_path / "out.zarr", cells=1).ok
