"""Affinities as an auxiliary: a head of their own, which is learnt and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import stitchsafe
from stitchsafe.training import TrainingConfig, draw_disks


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
