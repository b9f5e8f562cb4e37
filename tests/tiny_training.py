"""The smallest training there is, on disks, and a run that is stopped part-way."""

from __future__ import annotations

from typing import Any

from heard import Heard

from stitchsafe.training import TrainingConfig


def content(**changes: Any) -> dict[str, Any]:
    return {
        "format": "stitchsafe-training/1",
        "name": "tiny",
        "data": {"kind": "disks", "spacing": 9, "radius": [3, 3], "noise": 0.05},
        "input": {"axes": "yx"},
        "network": {"name": "unet", "arguments": {"ndim": 2, "levels": 1, "base_channels": 4}},
        "window": [16, 16],
        "optimiser": {"steps": 6, "batch": 2, "learning_rate": 0.003},
        "checkpoint_every": 2,
        "threads": 1,
    } | changes


def tiny(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(content(**changes))


class Stop(Heard):
    """Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def advance(self, count: int = 1) -> None:
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt
