"""Arrows point down: the import contract of pyproject.toml, and that it bites."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter comes with the extra dev")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # Run from the folder, Python finds that copy of the package first.
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    shutil.copy(repository / "pyproject.toml", tmp_path)
    shutil.copytree(
        repository / "stitchsafe",
        tmp_path / "stitchsafe",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path


def test_the_contract_is_kept(copy: Path) -> None:
    linted = lint(copy)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("stitchsafe/coordinates.py", "import stitchsafe.tiling"),
        ("stitchsafe/tiling/_upward.py", "from stitchsafe.engine import Events"),
        ("stitchsafe/tiling/_sideways.py", "import stitchsafe.networks"),
        ("stitchsafe/attic/__init__.py", "import stitchsafe.errors"),
    ],
    ids=["up from the ground", "up", "sideways", "a room that nobody declared"],
)
def test_the_contract_bites(copy: Path, module: str, line: str) -> None:
    path = copy / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    assert lint(copy).returncode != 0
