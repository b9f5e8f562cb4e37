"""Every script in examples/experiments/ runs, small, and its table has all rows."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).resolve().parent.parent / "examples" / "experiments"
ROWS = {
    "closed_form_pooling.py": [
        "strided, 25,258 parameters", "closed form for strided, 6,762 parameters",
        "max, 6,378 parameters", "closed form for max, 6,378 parameters",
    ],
    "cluster_decoding.py": [
        "stride 8, bilinear, 32,950 parameters", "stride 8, clusters, 33,186 parameters",
        "stride 16, bilinear, 71,339 parameters", "stride 16, clusters, 70,882 parameters",
        "stride 32, bilinear, 140,683 parameters", "stride 32, clusters, 140,674 parameters",
    ],
    "polynomial_pooling.py": [
        "max", "average", "P-pooling, per layer", "P-pooling, per channel",
    ],
    "shift_consistency.py": [
        "max", "blur (Tri-3)", "APS", "APS, Tri-3", "LPS softmax, Tri-3", "LPS Gumbel, Tri-3",
        "LPS Gumbel",
    ],
}  # fmt: skip


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A few digits and nuclei that are none."""
    rng = np.random.default_rng(0)
    (tmp_path / "classification").mkdir()
    (tmp_path / "dsb2018").mkdir()
    images = rng.integers(0, 255, (150, 28, 28)).astype(np.uint8)
    labels = np.arange(150).astype(np.uint8) % 10
    np.savez(tmp_path / "classification" / "mnist_t10k.npz", images=images, labels=labels)
    for number in range(6):
        labels = np.kron(rng.integers(0, 2, (10, 10)), np.ones((16, 16))).astype(np.uint16)
        image = (100 * labels + rng.integers(0, 50, labels.shape)).astype(np.uint8)
        shown = np.repeat(image[..., None], 3, -1) if number == 4 else image
        np.savez(tmp_path / "dsb2018" / f"{number}.npz", image=shown, labels=labels)
    return tmp_path


def run(name: str, data: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setenv("STITCHSAFE_DATA", str(data))
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.delitem(sys.modules, "common", raising=False)
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(EXPERIMENTS / name), run_name="__main__")


def test_each_experiment_is_here() -> None:
    assert {path.name for path in EXPERIMENTS.glob("*.py")} == {*ROWS, "common.py"}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("default::stitchsafe.nn.TieWarning")
def test_an_experiment_prints_its_table(
    name: str,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(name, small_data, monkeypatch, "--seeds", "2", "--steps", "2")
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == ROWS[name]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert all("±" in line for line in lines[2:])
    command = f"python examples/experiments/{name} --seeds 2 --steps 2"
    assert f"{os.cpu_count()} cores: {command}" in said


@pytest.mark.parametrize("name", ROWS)
def test_without_data_one_line_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name, tmp_path / "none", monkeypatch)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "STITCHSAFE_DATA" in said.err


@pytest.mark.parametrize("count", ["x", "0", "-3", "1.5"])
def test_what_is_no_count_is_refused(
    count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("shift_consistency.py", tmp_path, monkeypatch, f"--steps={count}")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"--steps: '{count}' is no count; give a whole number from 1 on" in said


def test_the_benchmark_of_layers_refuses_no_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["layers.py", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXPERIMENTS.parents[1] / "benchmarks/layers.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "--rounds 0 measures nothing; give at least 1" in capsys.readouterr().err
