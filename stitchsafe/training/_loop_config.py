"""What a training says of its loop, in ``train.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stitchsafe.training._schema import Natural, Positive, Strict

__all__ = ["OptimiserConfig"]


class OptimiserConfig(Strict):
    """AdamW with a linear warm-up and a cosine decay to 2 % of the learning rate."""

    steps: Positive
    batch: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Natural = 0
    decay: Literal["cosine", "none"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None
