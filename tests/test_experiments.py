"""Every experiment runs from its one command, tiny, and its table has all rows.

The data are made up; what the experiments find with the real ones is told in docs/layers.md.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parent.parent / "examples" / "experiments"
ROWS = {
    "closed_form_pooling.py": 4,
    "cluster_decoding.py": 6,
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of the shared data: ten images of squares, and digits that are stripes."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    (folder / "dsb2018").mkdir()
    for name in range(10):
        labels = np.zeros((136, 140), np.int32)
        for instance, (y, x) in enumerate(draw.integers(0, 120, (12, 2)), start=1):
            labels[y : y + 16, x : x + 16] = instance
        image = (100 * (labels > 0) + draw.normal(60, 10, labels.shape)).astype(np.uint8)
        np.savez(folder / "dsb2018" / f"{name}.npz", image=image, labels=labels)
    (folder / "classification").mkdir()
    digits = np.repeat(np.arange(10), 25)
    stripes = (np.arange(28) % (digits[:, None] + 2) == 0)[:, None, :].repeat(28, axis=1)
    images = (200 * stripes + draw.integers(0, 50, stripes.shape)).astype(np.uint8)
    np.savez(folder / "classification" / "mnist_t10k.npz", images=images, labels=digits)
    return folder


def run(name: str, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("STITCHSAFE_DATA", str(data))
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "1", "--steps", "2"])
    runpy.run_path(str(EXPERIMENTS / name), run_name="__main__")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_experiment_prints_its_table(
    name: str, made_up: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(name, monkeypatch, made_up)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) == ROWS[name]
    for row in rows:
        first, *cells = row.strip("| ").split(" | ")
        assert first
        assert any(np.isfinite(float(cell)) for cell in cells if cell != "–")
    assert any("seeds 1, steps 2, threads 1" in line for line in lines)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", sorted(ROWS))
def test_without_its_data_it_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name, monkeypatch, tmp_path)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "STITCHSAFE_DATA" in line


def test_no_experiment_is_left_out() -> None:
    assert {path.name for path in EXPERIMENTS.glob("*.py")} - {"common.py"} == set(ROWS)
