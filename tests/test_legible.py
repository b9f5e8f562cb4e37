"""Text of strangers cannot steer the terminal that it is shown on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import package, small_package

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.legible import legible

HARM = "net\x1b[2Jnone\x9b31m\nstitchsafe: all is safe\u202eedom\x07"
STEERING = "\x1b\x9b\u202e\x07"


def test_what_steers_is_written_out() -> None:
    assert legible("a\x1b[31m") == r"a\x1b[31m"
    assert legible("a\nb\u202ec") == r"a\nb\u202ec"
    assert legible("a\nb", keeping="\n") == "a\nb"
    assert legible("\ud800") == r"\ud800"
    for text in ("plain", "ångström µm 細胞", "×·…"):
        assert legible(text) == text


def test_a_description_cannot_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    content = package()
    content["name"] = HARM
    content["outputs"][0]["postprocessing"].append({"id": f"do{HARM}"})
    folder = small_package(tmp_path / "package", **content)
    np.save("image.npy", np.zeros((64, 64), np.float32))
    verdict = stitchsafe.check(folder, trust_model=True)
    assert HARM.splitlines()[0] in verdict.model
    for color in (False, True):
        shown = verdict.describe(color=color)
        assert r"net\x1b[2Jnone\x9b31m\nstitchsafe" in shown
        assert "\x1b[2J" not in shown
        assert not set(STEERING[1:]) & set(shown)
    given = ["-m", "package", "--trust-model", "--save", "fields"]
    for words in (
        ["check", "package", "--trust-model"],
        ["predict", "image.npy", *given],
        ["plan", "image.npy", *given, "--skip-postprocessing"],
    ):
        with pytest.raises(SystemExit):
            main(words)
        ended = capsys.readouterr()
        assert r"\x1b[2J" in ended.out + ended.err
        assert not set(STEERING) & set(ended.out + ended.err)


def test_code_that_ends_the_program_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("stitchsafe.check", ends)
    with pytest.raises(SystemExit) as caught:
        main(["check", "anything"])
    assert caught.value.code == 3
    assert "ended the program (SystemExit: 0)" in capsys.readouterr().err
