"""Networks and losses by import path, weights to start from, and temperatures by name."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import stitchsafe
from stitchsafe.errors import (
    InputError,
    InterruptedRunError,
    ModelError,
    PlanError,
    StitchsafeError,
)
from stitchsafe.networks import load_folder
from stitchsafe.nn import UNet, schedule
from stitchsafe.training import (
    Batch,
    Checkpoint,
    Objective,
    TrainingConfig,
    TrainingWindow,
    model_config,
    train,
)
from stitchsafe.training._network import build_network, refuse_unfit_labels

MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, channels=2):
        super().__init__()
        first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.body = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second)
        self.up = nn.ConvTranspose2d(4, channels, 2, stride=2)

    def forward(self, x):
        return self.up(self.body(x))


def centre(fields, batch):
    return {"centre": 0.5 * fields["embedding"].square().mean()}


def wrong(fields, batch):
    return fields["embedding"]


def detached(fields, batch):
    return fields["embedding"].detach().mean()


class Failing(Net):
    steps = 0

    def forward(self, x):
        Failing.steps += 1
        if Failing.steps > 2:
            raise RuntimeError("of the third")
        return super().forward(x)


calls = []


def failing(fields, batch):
    calls.append(None)
    if len(calls) == 3:
        return fields["embeding"].mean()
    return fields["embedding"].square().mean()


def unasked(fields):
    return fields["embedding"].mean()


def nothing_at_all(fields, batch):
    return None


def bare(fields, batch):
    return 1.0


def leaving(fields, batch):
    raise SystemExit(0)


class Folded(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.sum()

    @staticmethod
    def backward(context, gradient):
        raise OSError("no")


def folding(fields, batch):
    return Folded.apply(fields["embedding"])


def overwriting(fields, batch):
    made = fields["embedding"].exp()
    value = made.mean()
    made.zero_()
    return value


names = iter("ab")


def changing(fields, batch):
    return {next(names): fields["embedding"].square().mean()}


class Cut(Net):
    def forward(self, x):
        made = super().forward(x)
        return made[..., :5] if self.training else made


class Named(Net):
    def forward(self, x):
        made = super().forward(x)
        return {"foreground": made[:, :1], "embedding": made[:, 1:]}


class Wide(Net):
    def forward(self, x):
        made = super().forward(x)
        return made[:, :1], made[:, 1:]


number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "own",
            "data": {"kind": "disks", "spacing": 7, "radius": 2.5},
            "input": {"axes": "yx"},
            "network": {"name": "unet", "arguments": {"ndim": 2, "levels": 1, "base_channels": 2}},
            "window": [8, 8],
            "optimiser": {"steps": 2},
        }
        | changes
    )


def test_a_network_of_ones_own_is_trained_and_predicts(own: str, tmp_path: Path) -> None:
    named = {"name": f"{own}:Net", "arguments": {"channels": 5}}
    with pytest.raises(ModelError, match="add --trust-model"):
        train(config(network=named), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    train(config(network=named), tmp_path / "run", device="cpu", trust_model=True)
    image = np.random.default_rng(0).random((40, 40), dtype=np.float32)
    with pytest.raises(ModelError, match="add --trust-model"):
        stitchsafe.predict(image, model=tmp_path / "run", save="fields")
    found = stitchsafe.predict(image, model=tmp_path / "run", save="fields", trust_model=True)
    assert found.fields["embedding"].shape == (5, 40, 40)


def test_a_network_that_does_not_exist_is_named(own: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'Net'"):
        train(config(network={"name": f"{own}:Nett"}), tmp_path / "run", trust_model=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Named", "returns foreground, embedding, and the training needs embedding, foreground"),
        ("Wide", "foreground of own_.* has 4 channels, and its loss takes 1"),
    ],
)
def test_outputs_in_another_order_are_refused(
    own: str, tmp_path: Path, name: str, words: str
) -> None:
    named = {"name": f"{own}:{name}", "arguments": {"channels": 2 if name == "Named" else 5}}
    with pytest.raises(ModelError, match=words):
        train(
            config(network=named, foreground={}), tmp_path / "run", device="cpu", trust_model=True
        )


def test_a_loss_of_ones_own_is_added(own: str, tmp_path: Path) -> None:
    loss = f"{own}:centre"
    with pytest.raises(ModelError, match=r"the loss .* add --trust-model"):
        train(config(loss=loss), tmp_path / "run")
    result = train(config(loss=loss), tmp_path / "run", device="cpu", trust_model=True)
    assert set(result.losses) == {"loss", "pull", "push", "regular", "centre"}
    alone = train(
        config(loss=loss, embedding=None), tmp_path / "alone", device="cpu", trust_model=True
    )
    assert set(alone.losses) == {"loss", "centre"}
    assert alone.losses["loss"] == alone.losses["centre"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "cannot be imported"),
        ("number", "is a int"),
        ("wrong", "a loss is one scalar tensor"),
        ("detached", "does not depend on the network's fields"),
        ("unasked", r"own_.*:unasked takes \(fields\), and is called with .* fields and the batch"),
        ("nothing_at_all", "nothing_at_all returned None, a NoneType; a loss is one scalar tensor"),
        ("bare", r"bare returned 1.0, a float; a loss is one scalar tensor"),
        ("leaving", r"the loss own_.*:leaving failed with SystemExit: 0 \(.*, line \d+\)"),
        (
            "folding",
            r"backward pass of the loss own_.*:folding failed with OSError: no \(.*line \d+",
        ),
        ("overwriting", r"backward pass of the loss own_.*:overwriting failed with RuntimeError: "),
        (
            "changing",
            r"changing has the terms loss, b now, and had loss, a before; return the same",
        ),
    ],
)
def test_what_is_no_loss_is_refused(own: str, tmp_path: Path, name: str, words: str) -> None:
    asked = config(loss=f"{own}:{name}", embedding=None)
    with pytest.raises(StitchsafeError, match=words):
        train(asked, tmp_path / "run", device="cpu", trust_model=True)


def test_a_loss_that_fails_is_named_with_its_line_and_the_checkpoint_stays(
    own: str, tmp_path: Path
) -> None:
    """And where only that loss is learnt from, the run has fields and no labels."""
    asked = config(
        loss=f"{own}:failing", embedding=None, optimiser={"steps": 4}, checkpoint_every=2
    )
    line = MODULE[: MODULE.index("embeding")].count("\n") + 1
    words = rf"the loss {own}:failing failed with KeyError: 'embeding' \(.*{own}.py, line {line}\)"
    with pytest.raises(InterruptedRunError, match=words) as failed:
        train(asked, tmp_path / "run", device="cpu", trust_model=True)
    assert isinstance(failed.value.__cause__, KeyError)  # which --debug shows
    assert not [t for t in threading.enumerate() if t.name.startswith("stitchsafe-examples")]
    assert train(asked, tmp_path / "run", device="cpu", trust_model=True).resumed_from == 2
    assert load_folder(tmp_path / "run").config.labels is None
    assert "none: what its heads give are fields" in (tmp_path / "run" / "card.md").read_text()
    image = np.zeros((24, 24), dtype=np.float32)
    found = stitchsafe.predict(image, model=tmp_path / "run", save="fields")
    assert found.fields["embedding"].shape == (3, 24, 24)
    with pytest.raises(ModelError, match="does not say what its outputs mean"):
        stitchsafe.predict(image, model=tmp_path / "run")


def test_a_network_that_fails_is_named_with_its_line(own: str) -> None:
    asked = config(network={"name": f"{own}:Failing", "arguments": {"channels": 5}})
    module = build_network(asked, folder=Path(), trust=True)
    window = TrainingWindow((8, 8), (14, 14), (3, 3), (0, 0))
    zeros = torch.zeros((1, 8, 8), dtype=torch.int64)
    batch = Batch(torch.zeros((1, 1, 14, 14)), zeros, zeros, zeros > 0, zeros.float())
    objective = Objective(asked, window)
    for _ in range(2):
        objective(module, batch)
    words = rf"the network {own}:Failing failed with RuntimeError: of the third \(.*line \d+\)"
    with pytest.raises(InterruptedRunError, match=words):
        objective(module, batch)


def test_a_network_that_returns_another_shape_in_training_is_named(
    own: str, tmp_path: Path
) -> None:
    asked = config(network={"name": f"{own}:Cut", "arguments": {"channels": 5}}, window=[8, 7])
    words = (
        rf"the network {own}:Cut returns embedding of the shape \(1, 5, 8, 5\) in training, and "
        r"\(1, channels, 8, 8\) was expected"
    )
    with pytest.raises(ModelError, match=words):
        train(asked, tmp_path / "run", device="cpu", trust_model=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": {}, "embedding": None}, "validation scores labels.*heads are embedding"),
        ({"labels": {"from": "foreground", "window": [8, 8]}}, "head foreground.*has embedding"),
        ({"labels": {"from": "embeddings", "window": [8, 8], "bandwith": 1}}, "'bandwidth'"),
    ],
)
def test_labels_that_no_head_can_give_are_refused(
    own: str, changes: dict[str, Any], words: str
) -> None:
    asked = config(loss=f"{own}:centre", **changes)
    labels = model_config(asked, Checkpoint(), (2, 2), channels=[3], command="").labels
    with pytest.raises(InputError, match=words):
        refuse_unfit_labels(labels, asked)


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    still = {"optimiser": {"steps": 1, "learning_rate": 1e-12}}
    train(config(seed=5), tmp_path / "first", device="cpu")
    begun = load_file(tmp_path / "first" / "weights.safetensors")
    for given in (tmp_path / "first", tmp_path / "first" / "weights.safetensors"):
        run = tmp_path / f"from-{given.name}"
        train(config(**still), run, init=given, device="cpu")
        found = load_file(run / "weights.safetensors")
        assert all(torch.allclose(found[name], begun[name], atol=1e-9) for name in begun)
        for name in ("config.yaml", "card.md"):
            assert str(tmp_path) not in (run / name).read_text()
        assert load_folder(run).config.training["init"] == given.name
    shutil.rmtree(tmp_path / "first")  # which has had its part
    more = config(optimiser={"steps": 2, "learning_rate": 1e-12}, init=str(given))
    assert train(more, run, device="cpu").resumed_from == 1


def test_weights_of_other_shapes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_file(UNet(ndim=2, levels=1, base_channels=3).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="has the shape"):
        train(config(), tmp_path / "run", init=tmp_path / "w.safetensors", device="cpu")
    with pytest.raises(ModelError, match="cannot be read"):
        train(config(), tmp_path / "run", init=tmp_path / "none.safetensors", device="cpu")
    assert not (tmp_path / "run").exists()


def polyphase(**options: Any) -> dict[str, Any]:
    return {
        "name": "unet",
        "arguments": {
            "ndim": 2, "levels": 1, "base_channels": 2, "downsampling": "lps", "upsampling": "lpu",
            "downsampling_options": options,
        },
    }  # fmt: skip


def test_the_temperature_falls_by_a_course_of_the_paper(tmp_path: Path) -> None:
    course = {"schedule": "cifar10-circular"}
    changes = {"network": polyphase(), "temperature": course, "optimiser": {"steps": 4}}
    train(config(**changes), tmp_path / "run", device="cpu")
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    (tau,) = (tensor for name, tensor in kept.items() if name.endswith("tau"))
    assert float(tau) == pytest.approx(schedule("cifar10-circular")(1 + 3 * 250 // 4))


@pytest.mark.parametrize(
    ("network", "course", "words"),
    [
        (polyphase(), {"schedule": "cifar"}, "choose one of cifar10-circular"),
        (polyphase(), {"schedule": "segmentation-resnet101"}, "give backbone=temperature"),
        (polyphase(), {"schedule": "imagenet-standard"}, "in_evaluation: softmax"),
        (None, {"schedule": "cifar10-circular"}, "no learnable polyphase layers"),
    ],
)
def test_courses_that_do_not_fit_are_refused(
    tmp_path: Path, network: dict[str, Any] | None, course: dict[str, Any], words: str
) -> None:
    changes = {"network": network} if network else {}
    with pytest.raises(PlanError, match=words):
        train(config(temperature=course, **changes), tmp_path / "run", device="cpu")
