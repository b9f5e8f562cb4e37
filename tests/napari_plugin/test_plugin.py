"""What napari is told of the plugin, and what it costs to be told."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml

import stitchsafe
from stitchsafe.errors import StitchsafeError

MANIFEST = Path(stitchsafe.__file__).parent / "napari_plugin" / "napari.yaml"


def test_the_manifest_is_valid() -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 comes with the extra napari")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert {widget.display_name for widget in manifest.contributions.widgets} == {
        "Predict",
        "Check model",
        "Seam inspector",
    }


def test_napari_finds_the_plugin() -> None:
    (entry,) = [
        each
        for each in metadata.distribution("stitchsafe").entry_points
        if each.group == "napari.manifest"
    ]
    module, _, name = entry.value.partition(":")
    assert (Path(str(import_module(module).__file__)).parent / name).is_file()


def test_whatever_the_manifest_names_is_there(screen: None) -> None:
    for command in yaml.safe_load(MANIFEST.read_text())["contributions"]["commands"]:
        module, _, name = command["python_name"].partition(":")
        assert callable(getattr(import_module(module), name))


def test_showing_costs_no_torch(screen: None) -> None:
    code = (
        "import sys, stitchsafe.napari_plugin as p; "
        "[getattr(p, name) for name in p.__all__]; "
        "print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_view_without_napari_names_the_command(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(StitchsafeError, match=r"pip install 'stitchsafe\[napari\]'"):
        stitchsafe.view(result)


def test_view_without_a_screen_says_so(
    result: Path, screen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if not sys.platform.startswith("linux"):
        pytest.skip("only there a screen is named by the environment")
    with pytest.raises(StitchsafeError, match="no screen"):
        stitchsafe.view(result)


def test_view_of_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StitchsafeError, match="not a result"):
        stitchsafe.view(tmp_path)
