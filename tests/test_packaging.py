"""The wheel, installed somewhere else, is the whole program: code, models, the demo's volume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling comes with the extra dev")


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = command(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ".",
        cwd=repository,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a fresh environment, which borrows what stitchsafe depends on."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    (borrowed,) = (folder / "env" / "lib").glob("python*/site-packages")
    # A folder named in a .pth file is searched, but its own .pth files are not read: so what is
    # borrowed brings along no checkout of stitchsafe.
    (borrowed / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    done = command(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--force-reinstall", "--disable-pip-version-check", wheel,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "env" / "bin" / "stitchsafe"


def test_wheel_holds_every_model_and_the_demo(wheel: Path, repository: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for top, inside in (("models", "_models"), ("examples/data", "_demo")):
        files = [path for path in (repository / top).rglob("*") if path.is_file()]
        assert files, f"{top} is empty"
        for path in files:
            assert f"stitchsafe/{inside}/{path.relative_to(repository / top)}" in held
    assert "stitchsafe/py.typed" in held
    assert not [name for name in held if name.startswith(("tests/", "tools/", "docs/"))]


def test_wheel_tells_napari_of_the_plugin(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel)
    assert "stitchsafe/napari_plugin/napari.yaml" in held.namelist()
    (info,) = [name for name in held.namelist() if name.endswith(".dist-info/METADATA")]
    assert "Classifier: Framework :: napari\n" in held.read(info).decode()
    entries = held.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert "[napari.manifest]\nstitchsafe = stitchsafe.napari_plugin:napari.yaml" in entries


def test_the_installed_program_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import stitchsafe; print(stitchsafe.__file__)"
    shown = command(installed.with_name("python"), "-c", code, cwd=tmp_path)
    assert Path(shown.stdout.strip()).is_relative_to(installed.parent.parent)


def test_the_installed_program_runs(installed: Path, tmp_path: Path) -> None:
    shown = command(installed, "--version", cwd=tmp_path)
    assert (shown.returncode, shown.stdout.split()[0]) == (0, "stitchsafe")
    assert command(installed.with_name("python"), "-m", "stitchsafe", cwd=tmp_path).returncode == 0


def test_the_installed_program_knows_its_models(installed: Path, tmp_path: Path) -> None:
    shown = command(installed, "check", "disks-2d", "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    verdict = json.loads(shown.stdout)
    assert verdict["verdict"] == "safe"
    assert verdict["period"] == [8, 8]
    assert list(tmp_path.iterdir()) == []
