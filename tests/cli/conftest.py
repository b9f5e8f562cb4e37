"""The real program in this process, a tiny model, and a volume that it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from reader_files import random_volume, write_ome_zarr

from stitchsafe.cli import main

NETWORK = {"ndim": 3, "in_channels": 1, "levels": 1, "base_channels": 2, "heads": {"embedding": 2}}
CONFIG = {
    "format": "stitchsafe-model/1",
    "name": "tiny",
    "network": {"name": "unet", "arguments": NETWORK},
    "input": {"axes": "zyx", "channels": 1, "voxel_size": [10, 10, 10], "unit": "nanometer"},
    "outputs": [{"name": "embedding", "channels": 2}],
    "labels": {"from": "embeddings", "bandwidth": 0.5, "window": [16, 16, 16]},
    "tiling": {"tile_shape": [16, 16, 16]},
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    import torch
    from safetensors.torch import save_file

    from stitchsafe.nn import UNet

    torch.manual_seed(0)
    save_file(UNet(**NETWORK).state_dict(), folder / "weights.safetensors")  # type: ignore[arg-type]
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a volume that the model fits."""
    monkeypatch.chdir(tmp_path)
    write_ome_zarr(tmp_path / "volume.zarr", random_volume(20, 24, 24), nanometers=10)
    return tmp_path
