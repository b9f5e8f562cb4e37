"""Models in every form on the command line: --weights, --arg, --trust-model, and exit codes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import small_package
from safetensors.torch import save_file

from stitchsafe.cli.parsing import parse_arguments
from stitchsafe.errors import InputError
from stitchsafe.nn import UNet

Run = Callable[..., Any]
FACTORY = "stitchsafe.nn:UNet"
ARGUMENTS = ("--arg", "ndim=2", "--arg", "levels=1", "--arg", "heads={'x': 2}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((40, 48), np.float32))
    save_file(UNet(ndim=2, levels=1, heads={"x": 2}).state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def refused(run: Run, place: Path, *words: str | Path, saying: str) -> None:
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    ended = run(*words, "--quiet")
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert saying in ended.err, ended.err
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_check_plan_predict_and_verify_take_a_factory(run: Run, place: Path) -> None:
    given = (*ARGUMENTS, "--weights", "w.safetensors")
    checked = run("check", FACTORY, *given, "--json")
    assert (checked.code, json.loads(checked.out)["verdict"]) == (0, "safe")
    words = ("image.npy", "-m", FACTORY, *given, "--save", "fields")
    assert run("plan", *words).code == 0
    assert run("predict", *words, "-o", "out.zarr").code == 0
    assert run("verify", "out.zarr", "-m", FACTORY, *given).code == 0
    assert run("verify", "out.zarr", "--trust-model").code == 0
    refused(run, place, "verify", "out.zarr", saying=f"--model {FACTORY}")


def test_trust_is_asked_for_and_taken(run: Run, place: Path) -> None:
    small_package(place / "package")
    refused(run, place, "check", "package", saying="--trust-model")
    words = ("predict", "image.npy", "-m", "package", "--save", "fields", "-o", "out.zarr")
    refused(run, place, *words, saying="--trust-model")
    assert run("check", "package", "--trust-model").code == 0
    assert run(*words, "--trust-model").code == 0


def test_wrong_models_are_one_line_and_code_2(run: Run, place: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (os.mkdir, (str(place / "ran"),))

    (place / "trap.pth").write_bytes(pickle.dumps(Trap()))
    check = ("check", FACTORY, *ARGUMENTS)
    refused(run, place, *check, "--weights", "trap.pth", saying="runs code when it is loaded")
    assert not (place / "ran").exists()
    torch.save({"a": torch.zeros(1)}, place / "other.pth")
    refused(run, place, *check, "--weights", "other.pth", saying="1 unexpected, first a)")
    refused(run, place, *check, "--weights", "absent.pth", saying="absent.pth")
    refused(run, place, "check", FACTORY, "--arg", "depth=3", saying="unexpected keyword")
    refused(run, place, "check", "no_package:make", saying="no module 'no_package'")
    refused(run, place, "check", "disks-2d", "--arg", "a=1", saying="takes no arguments")
    refused(run, place, *check, "--arg", "ndim", saying="not name=value")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-3", 1e-3), ("-2", -2), ("(2, 2)", (2, 2)), ("{'x': 1}", {"x": 1}),
        ("True", True), ("None", None), ("valid", "valid"), ("'a b'", "a b"), ("a=b", None),
        ("a/b-c.d", "a/b-c.d"), ("[1, [2]]", [1, [2]]),
    ],
)  # fmt: skip
def test_arguments_are_python_literals_or_words(text: str, value: object) -> None:
    if text == "a=b":
        with pytest.raises(InputError, match="no Python literal"):
            parse_arguments([f"name={text}"])
        return
    found = parse_arguments([f"name={text}"])["name"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("texts", "saying"),
    [
        (["levels"], "not name=value"), (["=3"], "not name=value"), (["a b=3"], "not name=value"),
        (["a=1", "a=2"], "twice"), (["a=true"], "write a=True"), (["a=null"], "write a=None"),
        (["a={x: 1}"], "no Python literal"), (["a=print()"], "no Python literal"),
        (["a=" + "[" * 9000], "no Python literal"), (["a="], "no Python literal"),
    ],
)  # fmt: skip
def test_arguments_of_other_forms_are_refused(texts: list[str], saying: str) -> None:
    with pytest.raises(InputError, match=saying):
        parse_arguments(texts)
