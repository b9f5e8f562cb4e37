"""What must be the same for a training to go on: all that its next step depends on.

Not compared are the number of steps (as long as it is not below what is done), the patience with a
validation that gets no better, which only ends a training, texts, labels and
tiling, which only concern what is written; threads, checkpoints and logs; and where data lie, since
`DataRecord` compares what they are. Weights to start from are compared by the name of their file:
once there is a checkpoint, they have had their part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stitchsafe.errors import StoreError
from stitchsafe.training._checkpoint import LAST, resume
from stitchsafe.training._config import TrainingConfig, load_training

__all__ = ["RECORD", "refuse_another"]

RECORD = "train.yaml"
_FREE = (
    "description",
    "card",
    "labels",
    "tiling",
    "threads",
    "checkpoint_every",
    "logs",
)
_PLACES = ("path", "image", "labels")


def refuse_another(run: Path, config: TrainingConfig) -> None:
    """Refuse a run's folder whose training cannot go on as this configuration says.

    Raises
    ------
    StoreError
        Naming what differs; or if more steps are done than are asked for.
    """
    if not (run / RECORD).is_file():
        return
    was, now = _comparable(load_training(run / RECORD)), _comparable(config)
    if (why := _difference(was, now)) is not None:
        raise StoreError(
            f"{run} holds a training with another configuration ({why}); choose another folder "
            "with -o, or start anew with --overwrite"
        )
    done = resume(run / LAST, {}).step
    if config.optimiser.steps < done:
        raise StoreError(
            f"{run} has done {done} steps already, and {config.optimiser.steps} are asked for; "
            f"give {done} or more, choose another folder with -o, or start anew with --overwrite"
        )


def _comparable(config: TrainingConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json", by_alias=True)
    for key in _FREE:
        values.pop(key)
    values["optimiser"].pop("steps")
    if config.init is not None:
        values["init"] = Path(config.init).name
    if values["validation"] is not None:
        values["validation"].pop("patience")
    judged = (values["validation"] or {}).get("data")
    for data in filter(None, (values["data"], judged)):
        for source in (data, *data.get("sources", ())) if data["kind"] != "disks" else ():
            for key in _PLACES:
                source.pop(key, None)
    return values


def _difference(was: Any, now: Any, name: str = "") -> str | None:
    """The first of what differs, in words."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*was, *now)):
            inner = f"{name}.{key}" if name else str(key)
            if (why := _difference(was.get(key), now.get(key), inner)) is not None:
                return why
        return None
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = enumerate(zip(was, now, strict=True))
        found = (_difference(a, b, f"{name}.{number}") for number, (a, b) in pairs)
        return next((why for why in found if why is not None), None)
    if was == now:
        return None
    return f"{name} is {_shown(now)}, and was {_shown(was)}"


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
