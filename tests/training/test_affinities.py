"""Affinities as an auxiliary: a head of their own, which is learnt and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_training import tiny

import stitchsafe
from stitchsafe.errors import PlanError
from stitchsafe.training import TrainingConfig, TrainingWindow, draw_disks, train
from stitchsafe.training._losses import affinity_loss
from stitchsafe.training._window import refuse_far_offsets


def config(channels: int = 2, **affinities: Any) -> TrainingConfig:
    heads = {"affinities": channels, "embedding": 2}
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "affinities",
            "data": {"kind": "disks", "spacing": 9, "radius": 3.5},
            "input": {"axes": "yx"},
            "network": {
                "name": "unet",
                "arguments": {"ndim": 2, "levels": 1, "base_channels": 6, "heads": heads},
            },
            "window": [24, 24],
            "affinities": {"offsets": [[0, 1], [3, 0]]} | affinities,
            "optimiser": {"steps": 300, "learning_rate": 0.01},
        }
    )


def test_affinities_are_learnt_and_predicted(tmp_path: Path) -> None:
    result = stitchsafe.train(config(weight=20.0), tmp_path / "run", device="cpu")
    assert "affinities" in result.losses
    image, labels = draw_disks((60, 60), np.random.default_rng(5), spacing=9, radius=3.5)
    found = stitchsafe.predict(image[0], model=tmp_path / "run", save="fields")
    affinities = found.fields["affinities"][:, 12:48, 12:48]
    inside = labels[12:51, 12:49]
    for channel, other in enumerate((inside[:36, 1:], inside[3:, :36])):
        truth = (inside[:36, :36] == other) & (other > 0)
        assert ((affinities[channel] > 0.5) == truth).mean() > 0.95


@pytest.mark.parametrize(
    ("channels", "offsets", "words"),
    [
        (3, [[0, 1], [1, 0]], "3 channels for 2 offsets"),
        (1, [[0, 0]], "does not lead to another"),
        (1, [[0, 0, 1]], "along 2 axes"),
        (1, [], "at least 1"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(
    channels: int, offsets: list[list[int]], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        config(channels, offsets=offsets)


@pytest.mark.parametrize(
    ("places", "offset", "near"),
    [
        ((), (0, 8), (0, 7)),
        ((), (-9, 3), (-7, 3)),
        (((0, 0), (1, 0), (0, 1)), (0, 16), (0, 15)),
        (((0, 0), (1, 0), (0, 1)), (15, 15), None),
        (((0, 0), (1, 0), (0, 1)), (15, -15), ()),
        (((0, 0), (1, 0), (0, 1), (1, 1)), (15, 15), ()),
    ],
)
def test_offsets_that_no_window_shows_are_refused_with_the_largest(
    places: tuple[tuple[int, ...], ...], offset: tuple[int, int], near: tuple[int, ...] | None
) -> None:
    """No pair of voxels would be known: the loss would be 0, whatever the network says."""
    window = TrainingWindow((8, 8), (8, 8), (0, 0), (0, 0), places)
    covered = torch.zeros(1, *(2 * size for size in window.window)).long() - 1
    for y, x in window.shifts():
        covered[:, y : y + 8, x : x + 8] = 1
    for tried, works in ((offset, near == ()), (near or offset, bool(near) or near == ())):
        logits = torch.zeros(1, 1, *covered.shape[1:])
        assert bool(affinity_loss(logits, covered, [tried])) == works
    if near == ():
        refuse_far_offsets(window, [(1, 0), offset])
        return
    words = rf"the offset {offset} of affinities leads out .* 8 x 8 voxels .* fits is {near or ''}"
    with pytest.raises(PlanError, match=words.replace("(", r"\(").replace(")", r"\)")):
        refuse_far_offsets(window, [(1, 0), offset])


def test_a_training_refuses_them_before_anything_is_written(tmp_path: Path) -> None:
    arguments = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"affinities": 1}}
    asked = tiny(
        network={"name": "unet", "arguments": arguments},
        embedding=None,
        affinities={"offsets": [[0, 16]]},
    )
    with pytest.raises(PlanError, match=r"fits is \(0, 15\)"):
        train(asked, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("embedding", [{"weight": 0}, {"weights": [0, 0, 0]}])
def test_a_loss_that_counts_nothing_is_refused(embedding: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="weight of embedding is 0, so nothing would be learnt"):
        tiny(embedding=embedding)
    tiny(embedding=embedding, loss="mine:loss")
