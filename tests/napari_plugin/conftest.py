"""A screen, a viewer on it, and results to look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zygote import Zygote

Until = Callable[..., None]


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A screen to draw on, whose windows remember nothing of the user's own settings."""
    pytest.importorskip("napari", reason="napari comes with the extra napari")
    try:
        import qtpy.QtWidgets  # noqa: F401
    except ImportError as error:
        pytest.skip(f"Qt cannot be loaded ({error}): its system packages are missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NAPARI_CONFIG", "")
        if os.environ.get("DISPLAY"):
            yield
            return
        program = shutil.which("Xvfb")
        if program is None:
            pytest.skip("there is no screen, and no Xvfb to make one (Debian's package xvfb)")
        with subprocess.Popen(
            [program, "-displayfd", "1", "-screen", "0", "1600x1000x24", "-nolisten", "tcp"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            assert server.stdout is not None
            patch.setenv("DISPLAY", f":{server.stdout.readline().strip()}")
            yield
            server.terminate()


@pytest.fixture(scope="session")
def until(screen: None) -> Until:
    """Wait as a person does, while the window goes on, until something is so."""
    from qtpy.QtWidgets import QApplication

    def wait(condition: Callable[[], Any], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            QApplication.processEvents()
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="module")
def viewer(screen: None) -> Iterator[Any]:
    """One window for all tests of a module; `clean` empties it."""
    import napari
    from napari.settings import get_settings

    # Errors are kept, and asked for by the tests; nobody reads their popups.
    get_settings().application.gui_notification_level = "none"
    viewer = napari.Viewer()
    yield viewer
    viewer.close()


@pytest.fixture
def clean(viewer: Any) -> Any:
    """The window without layers, in 2-D."""
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    return viewer


@pytest.fixture
def quick(screen: None, zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widgets' program starts without importing torch each time."""
    from stitchsafe.napari_plugin import _program

    zygote.learn("disks-2d")
    zygote.program(tmp_path / "stitchsafe-program")
    monkeypatch.setattr(_program, "LAUNCHER", [str(tmp_path / "stitchsafe-program")])


@pytest.fixture(scope="session")
def disks() -> np.ndarray[Any, np.dtype[np.float32]]:
    from stitchsafe.napari_plugin._sample_data import sample_disks

    found: np.ndarray[Any, np.dtype[np.float32]] = sample_disks()[0][0]
    return found


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory, disks: Any, zygote: Zygote) -> Path:
    """A 2-D result with image, labels and fields, of several tiles and windows."""
    folder = tmp_path_factory.mktemp("result")
    np.save(folder / "input.npy", disks[:200, :240])
    predict(
        zygote, folder / "input.npy", folder / "disks.zarr", "--voxel-size", "0.5,0.5um",
        "--save", "labels,fields", "--image", "copy", "--tile-shape", "64,64",
    )  # fmt: skip
    return folder / "disks.zarr"


def predict(zygote: Zygote, volume: Path, out: Path, *words: str) -> dict[str, Any]:
    """Predict in another process: a process with a window should be without torch."""
    options = ("--device", "cpu", "--threads", "1", "--max-memory", "4GB", "--json")
    with zygote.start("predict", volume, "-m", "disks-2d", "-o", out, *options, *words) as run:
        output, errors = run.communicate()
    assert run.returncode == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


@pytest.fixture(scope="session")
def predicted(zygote: Zygote) -> Callable[..., dict[str, Any]]:
    """`predict` for tests."""
    return partial(predict, zygote)
