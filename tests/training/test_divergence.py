"""What is no longer finite never reaches a checkpoint or a model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import tiny
from torch import Tensor, nn

from stitchsafe.errors import InterruptedRunError
from stitchsafe.training import _train, train

OWN = "mine:loss"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A loss that is always finite, and whose gradients are NaN from its third pass on."""
    seen: list[Tensor] = []

    def loss(fields: dict[str, Tensor], batch: object) -> Tensor:
        seen.append(torch.zeros(()))
        made = fields["embedding"]
        return made.square().mean() if len(seen) < 3 else (made.abs() * 0).sqrt().sum()

    monkeypatch.setattr(_train, "find_loss", lambda config, trust: loss)
    return seen


def asked(**optimiser: object):
    given = {"steps": 6, "learning_rate": 0.003} | optimiser
    return tiny(loss=OWN, embedding=None, optimiser=given)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_gradients_that_are_not_finite_stop_the_training(
    own: list[Tensor], tmp_path: Path, clip: float | None
) -> None:
    with pytest.raises(InterruptedRunError, match=r"gradients is nan at step 2.*is kept in .*run"):
        train(asked(clip=clip), tmp_path / "run", device="cpu")
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["module"].values())


def test_a_checkpoint_that_there_is_not_is_not_spoken_of(own: list[Tensor], tmp_path: Path) -> None:
    own += [torch.zeros(())] * 3
    with pytest.raises(InterruptedRunError, match=r"there is no checkpoint yet: .* start anew"):
        train(asked(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("weight", "the weight .*weight"), ("mean", "the statistic .*running_mean")]
)
def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """As a learning rate that is too high makes them, though loss and gradients are finite."""
    step = torch.optim.AdamW.step

    def ruin(self: torch.optim.AdamW, *arguments: object) -> object:
        done = step(self)
        steps.append(None)
        if len(steps) == 4:
            if name == "weight":
                self.param_groups[0]["params"][0].data[0] = float("inf")
            else:
                statistics[0].running_mean.fill_(float("nan"))
        return done

    class Network(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
            statistics.append(self[1])

    steps: list[None] = []
    statistics: list[nn.BatchNorm2d] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    monkeypatch.setattr(_train, "build_network", lambda config, folder, trust: Network())
    with pytest.raises(InterruptedRunError, match=words):
        train(tiny(), tmp_path / "run", device="cpu")
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["module"].values())
