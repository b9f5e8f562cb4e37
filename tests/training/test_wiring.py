"""Each setting of ``train.yaml`` does what it says, where nothing else would show it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_volumes import cells, examples, seeded, training, write
from tiny_training import Stop, tiny
from torch import Tensor, nn

from stitchsafe.metrics import Scores
from stitchsafe.nn import LPD
from stitchsafe.training import Batch, Objective, TrainingWindow, _train, train
from stitchsafe.training._losses import discriminative_loss, foreground_loss

HEADS = {"embedding": 2, "foreground": 1, "affinities": 1}


@pytest.fixture
def batch() -> Batch:
    """Two instances with a gap of a voxel between them, and another that touches one."""
    instances = torch.zeros((1, 8, 8), dtype=torch.long)
    instances[..., :3], instances[..., 4:], instances[:, 5:, 4:] = 1, 2, 3
    clusters = torch.where(instances > 0, instances, -1)
    weight = torch.ones(1, 8, 8)
    weight[..., 3] = 3
    return Batch(torch.zeros(1, 1, 8, 8), instances, clusters, instances > 0, weight)


@pytest.fixture
def outputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, channels, 8, 8) for channels in HEADS.values()]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def told(batch: Batch, outputs: list[Tensor], **changes: Any) -> dict[str, float]:
    """The loss and its terms."""
    arguments = {"ndim": 2, "levels": 1, "heads": HEADS}
    config = tiny(
        network={"name": "unet", "arguments": arguments},
        **{"embedding": {}, "foreground": {}, "affinities": {"offsets": [[1, 0]]}} | changes,
    )
    objective = Objective(config, TrainingWindow((8, 8), (8, 8), (0, 0), (0, 0)))
    found = objective(lambda image: outputs, batch)
    return {name: float(term.detach()) for name, term in found.items()}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"norm": 1}, {"norm": 1}),
        ({"delta_pull": 0.75}, {"delta_pull": 0.75}),
        ({"delta_push": 0.5}, {"delta_push": 0.5}),
        ({"weights": [2, 3, 5]}, {"weights": (2.0, 3.0, 5.0)}),
        ({"pairs": "touching"}, {"pairs": "touching"}),
        ({"pairs": "touching", "neighbours": 2}, {"pairs": "touching", "reach": 2}),
    ],
)
def test_settings_of_the_embedding_loss(
    batch: Batch, outputs: list[Tensor], said: dict[str, Any], meant: dict[str, Any]
) -> None:
    found = told(batch, outputs, embedding=said)
    wanted = discriminative_loss(outputs[0], batch.clusters, neighbourhood=batch.instances, **meant)
    assert found["pull"] == pytest.approx(float(wanted.pull.detach()))
    assert found["push"] == pytest.approx(float(wanted.push.detach()))
    rest = found["foreground"] + found["affinities"]
    assert found["loss"] - rest == pytest.approx(float(wanted.total.detach()), rel=1e-4)
    others = {key: value for key, value in said.items() if key != list(said)[-1]}
    assert found["loss"] != pytest.approx(told(batch, outputs, embedding=others)["loss"], rel=1e-3)


def test_the_share_of_dice(batch: Batch, outputs: list[Tensor]) -> None:
    found = told(batch, outputs, foreground={"dice": 0.7})["foreground"]
    given = (outputs[1], batch.foreground, batch.weight)
    assert found == pytest.approx(float(foreground_loss(*given, dice=0.7).detach()))
    assert found != pytest.approx(float(foreground_loss(*given).detach()), rel=1e-3)


@pytest.mark.parametrize("name", ["embedding", "foreground", "affinities"])
def test_weights_of_losses(batch: Batch, outputs: list[Tensor], name: str) -> None:
    said = {"offsets": [[1, 0]]} if name == "affinities" else {}
    one = told(batch, outputs)
    two = told(batch, outputs, **{name: said | {"weight": 2.5}})
    part = one.get(name, one["pull"] + one["push"] + 1e-4 * one["regular"])
    assert two["loss"] - one["loss"] == pytest.approx(1.5 * part, rel=1e-4)


def drawn(folder: Path, *, window: TrainingWindow | None = None, **changes: Any) -> Any:
    said = write(folder, "npy", *cells())
    asked = training(said, **{"augmentation": {"symmetries": False}} | changes)
    given = () if window is None else (window,)
    return examples(folder, asked, *given).draw(seeded(3))


def test_the_weight_of_voxels_between_instances(tmp_path: Path) -> None:
    for weight in (1, 5):
        found = drawn(tmp_path, foreground={"reach": 2, "boundary_weight": weight}).weight
        assert set(np.unique(found)) == {1, weight}


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ({"invert": 1.0}, lambda x, y: np.allclose(y, 1 - x, atol=1e-6)),
        (
            {"gamma": 0.5},
            lambda x, y: np.ptp(np.log(y[x > 0.1]) / np.log(x[x > 0.1])) < 1e-3,
        ),
        ({"contrast": 0.5}, lambda x, y: np.ptp(y[x > 0.1] / x[x > 0.1]) < 1e-4),
        ({"brightness": 0.5}, lambda x, y: np.ptp(y - x) < 1e-5),
        ({"noise": 0.5}, lambda x, y: abs(np.corrcoef(x.ravel(), (y - x).ravel())[0, 1]) < 0.1),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_changes_of_intensity(
    tmp_path: Path, change: dict[str, float], meant: Callable[[Any, Any], bool]
) -> None:
    plain = drawn(tmp_path).image
    plain = np.where(np.abs(plain - 1) < 1e-6, np.float32(1), plain)
    found = drawn(tmp_path, augmentation={"symmetries": False} | change).image
    assert not np.allclose(found, plain, atol=1e-3)
    inside = (plain > 0) & (np.abs(plain - 1) > 1e-2)
    assert meant(plain[inside], found[inside])


def test_only_what_lies_in_the_middle_of_its_input_is_turned(tmp_path: Path) -> None:
    """An input with more context on one side would be fed to the network the wrong way round."""
    centred = TrainingWindow((8, 8, 8), (16, 16, 16), (4, 4, 4), (0, 0, 0))
    aside = TrainingWindow((8, 8, 8), (16, 16, 16), (4, 4, 3), (0, 0, 0))
    for window, turns in ((centred, True), (aside, False)):
        plain = drawn(tmp_path, window=window).image
        found = drawn(tmp_path, window=window, augmentation={"symmetries": True}).image
        assert np.array_equal(found, plain) != turns


SEEN: list[tuple[bool, torch.dtype]] = []
"""Of each pass of a `Watched` network, in a test."""


class Watched(nn.Module):
    """A small network that tells how it is run."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), *more)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        SEEN.append((self.training, made.dtype))
        return made


def watched(monkeypatch: pytest.MonkeyPatch, *more: nn.Module) -> list[Watched]:
    """The networks of trainings from here on."""
    made: list[Watched] = []
    SEEN.clear()

    def build(config: object, *, folder: Path, trust: bool) -> Watched:
        torch.manual_seed(0)
        made.append(Watched(*more))
        return made[-1]

    monkeypatch.setattr(_train, "build_network", build)
    return made


def judged(module: nn.Module, *given: object) -> Scores:
    module.eval()  # as predicting does
    return Scores(0.5, 1, 1, 1.0, 1.0, {0.5: 0.5}, 1, 1)


@pytest.mark.parametrize(
    ("said", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_precision_of_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, dtype: torch.dtype
) -> None:
    watched(monkeypatch)
    train(tiny(precision=said, optimiser={"steps": 2}), tmp_path / "run", device="cpu")
    assert [kind for training, kind in SEEN if training] == [dtype] * 2


def test_a_network_trains_on_after_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch norms would stand still otherwise, and nothing drop out any more."""
    made = watched(monkeypatch, nn.BatchNorm2d(3))
    asked = tiny(validation={"every": 1, "count": 1, "size": [16, 16]}, optimiser={"steps": 3})
    train(asked, tmp_path / "run", device="cpu", judge=judged)
    assert [training for training, _ in SEEN[-3:]] == [True] * 3
    assert int(made[0].body[1].num_batches_tracked) == 3


def test_what_drops_out_is_the_same_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watched(monkeypatch, nn.Dropout(0.5))
    asked = tiny(optimiser={"steps": 6, "batch": 1}, checkpoint_every=2)
    train(asked, tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(asked, tmp_path / "parts", device="cpu", events=Stop(5))
    torch.rand(7)
    train(asked, tmp_path / "parts", device="cpu")
    whole, parts = made[0].state_dict(), made[2].state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watching(self: torch.optim.AdamW, *given: object) -> object:
        weights = itertools.chain(*(group["params"] for group in self.param_groups))
        norms.append(float(nn.utils.get_total_norm([each.grad for each in weights])))
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", watching)
    for name, clip in (("free", None), ("clipped", 0.25)):
        asked = tiny(optimiser={"steps": 2, "clip": clip})
        train(asked, tmp_path / name, device="cpu")
    assert min(norms[:2]) > 1
    assert norms[2:] == pytest.approx([0.25, 0.25], rel=1e-3)


def test_averages_turn_soft_with_what_they_average(tmp_path: Path) -> None:
    """Else validation would judge, and the model have, another rule than was trained."""
    arguments = {
        "ndim": 2, "levels": 1, "base_channels": 2, "downsampling": "lps", "upsampling": "lpu",
        "downsampling_options": {"in_evaluation": "softmax"},
    }  # fmt: skip
    asked = tiny(
        network={"name": "unet", "arguments": arguments},
        temperature={"schedule": "imagenet-standard"},
        optimiser={"steps": 4, "ema": 0.9},
        validation={"every": 1, "count": 1, "size": [16, 16]},
    )
    soft: list[bool] = []

    def judge(module: nn.Module, *given: object) -> Scores:
        soft.extend(layer.pick.soft for layer in module.modules() if isinstance(layer, LPD))
        return judged(module)

    train(asked, tmp_path / "run", device="cpu", judge=judge)
    assert soft == [False, False, False, True]
