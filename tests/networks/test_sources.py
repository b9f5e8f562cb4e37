"""Every form in which a user may name a network, and what is said where one cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stitchsafe.errors import ModelError
from stitchsafe.networks import is_factory, load_network
from stitchsafe.nn import UNet

ARGUMENTS = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"x": 1}}
FACTORY = "stitchsafe.nn:UNet"


def made(seed: int = 3) -> UNet:
    torch.manual_seed(seed)
    return UNet(**ARGUMENTS).eval()


def answer(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        result = module(torch.from_numpy(x))
    return (result[0] if isinstance(result, tuple) else result).numpy()


X = np.random.default_rng(0).normal(size=(1, 1, 24, 28)).astype(np.float32)


def with_extra(state: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": 3, "optimizer": {"state": {}}, **state}


SAVED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "safetensors": ("w.safetensors", dict),
    "plain": ("w.pth", dict),
    "under state_dict": ("w.pt", lambda s: with_extra({"state_dict": s})),
    "under model_state_dict": ("w.tar", lambda s: with_extra({"model_state_dict": s})),
    "data parallel": ("w.pth", lambda s: {f"module.{k}": v for k, v in s.items()}),
    "both": ("w.ckpt", lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
    "compiled, parallel": (
        "w.pth",
        lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    ),
    "safetensors by another name": ("w.bin", dict),
}


@pytest.mark.parametrize("form", SAVED)
def test_weights_in_every_form(tmp_path: Path, form: str) -> None:
    name, wrap = SAVED[form]
    module = made()
    path, content = tmp_path / name, wrap(module.state_dict())
    if form.startswith("safetensors"):
        save_file(content, path)
    else:
        torch.save(content, path)
    network = load_network(FACTORY, weights=path, arguments=ARGUMENTS)
    assert network.name == FACTORY
    np.testing.assert_allclose(network.run(X)[0], answer(module, X), atol=1e-6)
    own = load_network(made(4), weights=path)
    np.testing.assert_allclose(own.run(X)[0], answer(module, X), atol=1e-6)


def test_a_module_that_gets_weights_is_left_alone(tmp_path: Path) -> None:
    save_file(made(3).state_dict(), tmp_path / "w.safetensors")
    module = made(4)
    before = answer(module, X)
    load_network(module, weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(answer(module, X), before)


def test_the_fingerprint_follows_the_weights_and_not_their_file(tmp_path: Path) -> None:
    save_file(made(3).state_dict(), tmp_path / "a.safetensors")
    torch.save(made(3).state_dict(), tmp_path / "b.pth")
    torch.save(made(4).state_dict(), tmp_path / "c.pth")
    a, b, c = (
        load_network(FACTORY, weights=tmp_path / name, arguments=ARGUMENTS).fingerprint
        for name in ("a.safetensors", "b.pth", "c.pth")
    )
    assert a == b != c


def refused(saying: str, *given: Any, **options: Any) -> None:
    with pytest.raises(ModelError, match=saying) as caught:
        load_network(*given, **options)
    assert "\n" not in str(caught.value)


def test_other_weights_are_named_by_their_first_keys(tmp_path: Path) -> None:
    state = made().state_dict()
    first, second, *_ = state
    options: dict[str, Any] = {"weights": tmp_path / "w.pth", "arguments": ARGUMENTS}
    torch.save({k: v for k, v in state.items() if k != first}, tmp_path / "w.pth")
    refused(f"1 missing, first {first}\\)", FACTORY, **options)
    torch.save({**state, "other.bias": state[first]}, tmp_path / "w.pth")
    refused(r"1 unexpected, first other\.bias\)", FACTORY, **options)
    torch.save({**state, second: torch.zeros(7)}, tmp_path / "w.pth")
    refused(f"{second} has the shape \\(7,\\)", FACTORY, **options)
    torch.save({f"encoder.{k}": v for k, v in state.items()}, tmp_path / "w.pth")
    refused("missing, first .* unexpected, first encoder", FACTORY, **options)
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    refused("holds a mapping with epoch, lr, and no tensors by name", FACTORY, **options)
    torch.save([1, 2], tmp_path / "w.pth")
    refused("holds a list, and no tensors", FACTORY, **options)
    (tmp_path / "w.pth").unlink()
    refused("cannot be read", FACTORY, **options)


@pytest.mark.parametrize(
    ("model", "saying"),
    [
        ("no_such_package:make", "no module 'no_such_package' to import"),
        ("stitchsafe.nothing:make", "no module 'stitchsafe.nothing' to import"),
        ("stitchsafe.nn:Unet", "there is no 'stitchsafe.nn:Unet'.*UNet"),
        ("stitchsafe.nn:UNet", "failed with no arguments: TypeError"),
        ("stitchsafe.nn:__doc__", "is a str"),
        ("os:getcwd", "made a str, and a network is a torch.nn.Module"),
        ("sys:exit", "SystemExit"),
    ],
)
def test_a_factory_that_makes_no_network(model: str, saying: str) -> None:
    refused(saying, model)


def test_a_factory_is_told_by_its_form() -> None:
    for text in ("a:b", "a.b:c", "a.b:c.d", "_a:B1"):
        assert is_factory(text)
    for text in ("a", "a:", ":b", "a/b:c", "a.h5:raw/x", "a:b:c", "a..b:c", "1a:b", "a:b()"):
        assert not is_factory(text)


def test_the_current_folder_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lying_here.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).mkdir()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    refused("the current folder is not searched by itself", "lying_here:make")
    assert not (tmp_path / "ran").exists()
    assert str(tmp_path) not in sys.path


def test_a_factory_that_fails_to_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "lacking_one.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused("importing broken_one failed: RuntimeError: two lines", "broken_one:make")
    refused(r"no module 'no_such_package' \(for lacking_one\)", "lacking_one:make")


def test_options_that_a_model_does_not_take_are_refused(tmp_path: Path) -> None:
    refused("disks-2d says itself .* takes no weights", "disks-2d", weights="w.pth")
    refused("takes no arguments", "disks-2d", arguments={"levels": 2})
    refused("takes no arguments", made(), arguments={"levels": 2})
    refused("takes no weights", load_network("disks-2d"), weights="w.pth")


SMALL = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1)
).eval()


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_needs_trust_and_sizes_that_vary(tmp_path: Path) -> None:
    example = (torch.zeros(1, 1, 32, 32),)
    auto = torch.export.Dim.AUTO
    torch.export.save(torch.export.export(SMALL, example), tmp_path / "fixed.pt2")
    torch.export.save(
        torch.export.export(SMALL, example, dynamic_shapes=({2: auto, 3: auto},)),
        tmp_path / "small.pt2",
    )
    refused("runs code when it is loaded; add --trust-model", tmp_path / "small.pt2")
    only = load_network(tmp_path / "fixed.pt2", trust=True).geometry
    assert (only.verdict, only.input_step) == ("safe", (0, 0))
    assert only.input_min == (32, 32)
    network = load_network(tmp_path / "small.pt2", trust=True)
    assert (network.name, network.ndim, network.channels) == ("small", 2, 1)
    assert network.geometry.verdict == "safe"
    assert network.geometry.period == (2, 2)
    np.testing.assert_allclose(network.run(X)[0], answer(SMALL, X), atol=1e-6)
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "small.pt2").read_bytes()[:-200])
    refused("damaged", tmp_path / "cut.pt2", trust=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trust", [False, True])
def test_torchscript_is_refused_with_what_to_do(tmp_path: Path, trust: bool) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(SMALL, torch.zeros(1, 1, 32, 32)), path)
    refused("is TorchScript, whose layers cannot be analysed; export .* ONNX", path, trust=trust)
    refused("is a TorchScript archive", made(), weights=path)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    save_file(made().state_dict(), tmp_path / "w.safetensors")
    refused("holds weights alone", tmp_path / "w.safetensors")
    torch.save(made().state_dict(), tmp_path / "w.pth")
    refused("--weights FILE", tmp_path / "w.pth")
    (tmp_path / "empty").mkdir()
    refused(r"has no config\.yaml", tmp_path / "empty")
    refused("cannot be read", "x" * 5000)
