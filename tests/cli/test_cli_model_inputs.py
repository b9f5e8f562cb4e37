"""--input-channels and --model-axes: what a model does not say of its inputs, said by the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_graphs import constant, model, saved, smoothing, value
from torch import nn

import stitchsafe
from stitchsafe.cli.parsing import parse_counts, parse_layouts
from stitchsafe.errors import InputError, ModelError
from stitchsafe.networks import TorchNetwork, load_network

Run = Callable[..., Any]

FACTORIES = '''
"""Networks of which nothing says how many channels they take."""
import torch
from torch import nn

class Two(nn.Module):
    """An image, and a guide that is pooled; behind them a mask that may be left out."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image, self.guide = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, image, guide, mask=None):
        both = self.image(image) + nn.functional.avg_pool2d(self.guide(guide), 3, 1, 1)
        return both if mask is None else both * mask[:, :, 1:-1, 1:-1]

class Linear(nn.Module):
    """A matrix over the channels, in two spatial axes only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))

    def forward(self, x):
        return nn.functional.avg_pool2d(torch.einsum("oc,bchw->bohw", self.weight, x), 3, 1)

class Untraceable(nn.Module):
    def forward(self, a, b):
        return torch.from_numpy(a.numpy()).mean(1, keepdim=True) + b.mean(1, keepdim=True)

class Anywhere(nn.Module):
    def forward(self, x):
        return x * 2
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "strangers_own.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "strangers_own", raising=False)
    monkeypatch.chdir(tmp_path)
    volume = np.random.default_rng(0).normal(size=(3, 40, 34)).astype(np.float32)
    np.save(tmp_path / "image.npy", volume)
    return tmp_path


def refused(run: Run, *words: str | Path, saying: str) -> None:
    ended = run(*words, "--quiet")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
    assert saying in ended.err, ended.err


# --input-channels


def test_several_inputs_by_every_command(run: Run, place: Path) -> None:
    two, given = "strangers_own:Two", ("--input-channels", "1,2")
    refused(run, "check", two, saying="takes 2 inputs (image, guide)")
    refused(run, "check", two, saying="--input-channels 1,1")
    checked = json.loads(run("check", two, *given, "--json").out)
    assert [(i["channels"], i["layout"]) for i in checked["inputs"]] == [(1, "bcyx"), (2, "bcyx")]
    words = ("image.npy", "-m", two, *given, "--save", "fields", "--axes", "cyx")
    words += ("--tile-shape", "8,12", "--threads", "1")
    assert run("plan", *words).code == 0
    assert run("predict", *words, "-o", "out.zarr").code == 0
    again = json.loads(run("predict", *words, "-o", "out.zarr", "--json").out)
    assert again["blocks_resumed"] == again["blocks_total"]
    assert run("verify", "out.zarr", "-m", two, *given).code == 0
    assert run("verify", "out.zarr", "--trust-model").code == 0  # reloads it as it was
    refused(run, "verify", "out.zarr", saying="--input-channels 1,2, or add --trust-model")
    refused(run, "verify", "out.zarr", *given, saying="go with a model")
    refused(run, "verify", "out.zarr", "-m", two, saying="--input-channels")

    import strangers_own

    x = np.load("image.npy")
    tensor = torch.from_numpy(np.pad(x, [(0, 0), (1, 1), (1, 1)], "reflect"))[None]
    with torch.no_grad():
        whole = strangers_own.Two()(tensor[:, :1], tensor[:, 1:])[0].numpy()
    made = stitchsafe.predict(
        x, two, axes="cyx", input_channels=(1, 2), tile_shape=(8, 12), save="fields", threads=1
    ).fields["output"]
    assert np.abs(made - whole).max() <= 1e-5 * np.abs(whole).max()


def test_what_is_left_out_may_be_given(place: Path) -> None:
    network = load_network("strangers_own:Two", input_channels=(1, 2, 1))
    assert (network.channels, network.geometry.verdict) == (4, "safe")
    known = load_network("strangers_own:Two", input_channels=(1, 2))
    assert known.fingerprint != network.fingerprint


def test_channels_are_part_of_what_a_network_is(place: Path) -> None:
    import strangers_own

    module = strangers_own.Untraceable()
    found = [TorchNetwork(module, ndim=2, channels=given) for given in ((1, 2), (2, 1))]
    assert [network.geometry.program for network in found] == ["", ""]
    assert found[0].fingerprint != found[1].fingerprint


def test_other_numbers_are_refused(run: Run, place: Path) -> None:
    two = ("check", "strangers_own:Two", "--input-channels")
    refused(run, *two, "3", saying="takes 2 or more inputs (image, guide)")
    refused(run, *two, "1,2,1,1", saying="--input-channels 1,2,1,1 states 4")
    refused(run, *two, "2,1", saying="does not take inputs of 2,1 channels")
    refused(run, *two, "1,0", saying="'1,0' is not a list of positive whole numbers")
    for wrong in ((), (0,), 1.5, "ab"):
        with pytest.raises(ModelError, match="input_channels cannot be"):
            load_network("strangers_own:Two", input_channels=wrong)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="input_channels cannot be"):
            stitchsafe.plan(np.zeros((9, 9)), "strangers_own:Two", input_channels=wrong)  # type: ignore[arg-type]


def test_one_input_without_a_convolution(run: Run, place: Path) -> None:
    linear = "strangers_own:Linear"
    refused(run, "check", linear, saying="--input-channels 1")
    checked = json.loads(run("check", linear, "--input-channels", "3", "--json").out)
    assert (checked["axes"], checked["inputs"][0]["channels"]) == ("yx", 3)
    made = stitchsafe.predict(
        np.load("image.npy"), linear, axes="cyx", input_channels=3, save="fields"
    )
    assert made.fields["output"].shape == (2, 40, 34)
    refused(run, "check", "strangers_own:Anywhere", "--input-channels", "3", saying="TorchNetwork(")
    torch.manual_seed(0)
    assert load_network(nn.Conv3d(3, 1, 3), input_channels=3).ndim == 3


def test_models_that_say_it_take_no_channels(run: Run, place: Path) -> None:
    refused(run, "check", "disks-2d", "--input-channels", "1", saying="takes no input_channels")
    path = saved(place, misread())
    refused(run, "check", path, "--input-channels", "1", saying="takes no input_channels")


# --model-axes


def misread() -> Any:
    """Volumes of one channel whose axis of channels the graph adds: their sizes tell nothing."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["a"]),
        helper.make_node("Conv", ["a", "weight"], ["b"], pads=[1] * 6),
        helper.make_node("Squeeze", ["b", "one"], ["y"]),
    ]
    weights = [smoothing(ndim=3), constant("one", [1], np.int64)]
    return model(nodes, inputs=[value("x", [1, "z", "h", "w"])], weights=weights, ndim=2)


def test_axes_by_every_command(run: Run, place: Path) -> None:
    saved(place, misread(), "m.onnx")
    np.save("volume.npy", np.random.default_rng(0).normal(size=(20, 18, 22)).astype(np.float32))
    refused(run, "check", "m.onnx", saying="--model-axes")
    given = ("--model-axes", "bzyx")
    checked = json.loads(run("check", "m.onnx", *given, "--json").out)
    assert (checked["axes"], checked["inputs"][0]["layout"]) == ("zyx", "bzyx")
    words = ("volume.npy", "-m", "m.onnx", *given, "--save", "fields", "--threads", "1")
    words += ("--tile-shape", "8,8,8")
    assert run("plan", *words).code == 0
    assert run("predict", *words, "-o", "out.zarr").code == 0
    again = json.loads(run("predict", *words, "-o", "out.zarr", "--json").out)
    assert again["blocks_resumed"] == again["blocks_total"]
    assert run("verify", "out.zarr").code == 0  # the axes are those of the result
    assert run("verify", "out.zarr", "-m", "m.onnx", *given).code == 0
    refused(run, "verify", "out.zarr", "-m", "m.onnx", saying="--model-axes")
    refused(run, "verify", "out.zarr", *given, saying="go with a model")
    named = json.loads(run("check", "m.onnx", "--model-axes", "x=bzyx,y=bzyx", "--json").out)
    assert named["inputs"] == checked["inputs"]
    assert named["outputs"][0]["layout"] == "bzyx"


def test_a_wrong_guess_is_put_right(run: Run, place: Path) -> None:
    """Sizes say channels last, and they are first: an image of 8 channels and 3 columns."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    saved(place, model(nodes, inputs=[value("x", [1, 8, 64, 3])]), "m.onnx")
    guessed = json.loads(run("check", "m.onnx", "--json").out)["inputs"][0]
    assert (guessed["layout"], guessed["channels"]) == ("byxc", 3)
    found = run("check", "m.onnx", "--model-axes", "bcyx", "--json")
    right = json.loads(found.out)["inputs"][0]
    assert (right["layout"], right["channels"]) == ("bcyx", 8)


def test_axes_that_fit_nothing_are_refused(run: Run, place: Path) -> None:
    saved(place, misread(), "m.onnx")
    refused(run, "check", "m.onnx", "--model-axes", "bcqx", saying="'bcqx' do not fit 'x'")
    refused(run, "check", "m.onnx", "--model-axes", "z=bzyx", saying="no input or output 'z'")
    refused(run, "check", "m.onnx", "--model-axes", "x=bzyx,x=bzyx", saying="comes twice")
    axes = ("--model-axes", "bcyx")
    refused(run, "check", "disks-2d", *axes, saying="goes with ONNX files")
    refused(run, "check", "strangers_own:Two", *axes, saying="goes with ONNX files")
    with pytest.raises(ModelError, match="takes no model_axes"):
        load_network(nn.Conv2d(1, 1, 3), model_axes="bcyx")


def test_the_options_values() -> None:
    assert parse_counts("1, 02", "--input-channels") == (1, 2)
    assert parse_layouts("bczyx", "--model-axes") == "bczyx"
    assert parse_layouts("a=b:0=byx, c=bcyx", "-") == {"a=b:0": "byx", "c": "bcyx"}
    for wrong in ("", "1,", "1;2", "-1", "1.0"):
        with pytest.raises(InputError, match="positive whole numbers"):
            parse_counts(wrong, "--input-channels")
    for wrong in ("a=", "=bcyx", "a=byx,bcyx"):
        with pytest.raises(InputError, match="name=axes"):
            parse_layouts(wrong, "--model-axes")
