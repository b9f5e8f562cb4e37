"""What a training resumes from: one file, which is either the old one or the new one.

All that the next step depends on is in it: weights, their averages, the optimiser's state, the
gradient scaler's, and how validation stands. What depends on the step alone (examples, learning
rate, temperature, dropout) is not: it is computed anew.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from stitchsafe.errors import StoreError
from stitchsafe.networks import write_whole

__all__ = ["BEST", "LAST", "Checkpoint", "Stateful", "resume", "save"]

LAST, BEST = "checkpoint.pt", "best.pt"


@dataclass
class Checkpoint:
    """Where a training stands.

    Attributes
    ----------
    step
        Steps done.
    seconds
        Time spent on them, over all runs.
    resumed_from
        The step that this run began with.
    losses
        Means of the last steps, by name.
    best, best_step
        The scores of the best validation by name, and its step; empty and 0 before the first.
    waited
        Validations since then.
    stopped
        Whether early stopping ended the training.
    """

    step: int = 0
    seconds: float = 0.0
    resumed_from: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    waited: int = 0
    stopped: bool = False


class Stateful(Protocol):
    """What has a state: modules, optimisers, gradient scalers."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def save(path: Path, parts: Mapping[str, Stateful], state: Checkpoint) -> None:
    """Write a checkpoint durably; a crash meanwhile leaves the one before."""
    content = asdict(state) | {name: part.state_dict() for name, part in parts.items()}
    del content["resumed_from"]
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


def resume(path: Path, parts: Mapping[str, Stateful]) -> Checkpoint:
    """Put a checkpoint's states into the parts; without a file, the start.

    Raises
    ------
    StoreError
        If it is damaged, or not of this training.
    """
    if not path.is_file():
        return Checkpoint()
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(content[name])
        known = {key: content[key] for key in asdict(Checkpoint()) if key in content}
        return Checkpoint(**known | {"resumed_from": int(content["step"])})
    except Exception as error:  # whatever torch makes of arbitrary bytes
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"the checkpoint {path} does not fit this training ({reason}); "
            "choose another folder with -o, or start anew with --overwrite"
        ) from error
