"""The widgets in real windows, in processes of their own: see in_a_window.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = (
    "a_layer_is_planned or a_rectangle",
    "what_the_program_refuses or a_layer_of_a_result",
    "is_stopped",
    "a_model_is_checked",
    "TestInspecting",
    "hundred or samples or remembered",
)
"""Mesa's software OpenGL has crashed in windows that went on from one group to the next."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", GROUPS)
def test_widgets_do_what_is_clicked(group: str, repository: Path) -> None:
    pytest.importorskip("napari", reason="napari comes with the extra napari")
    tests = Path(__file__).with_name("in_a_window.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", group, str(tests)],
        cwd=repository, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0 and " passed" not in done.stdout:
        pytest.skip(done.stdout[-500:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
