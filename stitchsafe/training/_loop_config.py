"""What a training says of its loop, in ``train.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stitchsafe.training._data_config import DataConfig
from stitchsafe.training._schema import Natural, Positive, Share, Strict

__all__ = ["LogsConfig", "OptimiserConfig", "TemperatureConfig", "ValidationConfig"]

Score = Literal["adapted_rand_error", "voi", "ap"]


class OptimiserConfig(Strict):
    """AdamW, its steps, and the course of its learning rate behind a linear warm-up.

    A step takes `accumulate` passes of `batch` examples, shared evenly by all devices.

    ============== =====================================================================
    decay          factor of the learning rate after the share t of all steps
    ============== =====================================================================
    ``cosine``     ``floor + (1 - floor) (1 + cos πt) / 2``
    ``polynomial`` ``floor + (1 - floor) (1 - t)^power``
    ``step``       ``factor`` to the power of how many of the `milestones` (shares) t has passed
    ``none``       1
    ============== =====================================================================

    `ema` averages the weights exponentially, each step keeping that share of the average; what is
    judged and exported are the averages then. In the first steps it keeps less.
    """

    steps: Positive
    batch: Positive = 1
    accumulate: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Natural = 0
    decay: Literal["cosine", "polynomial", "step", "none"] = "cosine"
    floor: Share = 0.02
    power: Annotated[float, Field(gt=0)] = 0.9
    milestones: tuple[Share, ...] = (0.6, 0.85)
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> OptimiserConfig:
        owners = {
            "power": ("polynomial",),
            "milestones": ("step",),
            "factor": ("step",),
            "floor": ("cosine", "polynomial"),
        }
        for name, decays in owners.items():
            if self.decay not in decays and getattr(self, name) != _default(name):
                raise ValueError(
                    f"{name} belongs to decay: {' or '.join(decays)}, and decay is {self.decay}; "
                    "leave it out"
                )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {self.milestones} are not in order; sort them")
        return self


def _default(name: str) -> object:
    return OptimiserConfig.model_fields[name].default


class ValidationConfig(Strict):
    """What is judged while training, and how often, by stitched prediction and instance scores.

    `data` has the form of a training's data; without it these are the images that are kept back, or
    `count` synthetic ones drawn for this alone. `score` decides what is best: the adapted Rand
    error or the variation of information (both lower), or the average precision at IoU `threshold`.
    After `patience` validations without a better one the training stops.
    """

    every: Positive = 500
    data: DataConfig | None = None
    count: Positive = 2
    size: tuple[Positive, ...] | None = None
    score: Score = "adapted_rand_error"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Positive | None = None


class TemperatureConfig(Strict):
    """The course of the temperature of LPS layers, over the whole training.

    By its name in tables A10 and A11 of Rojas-Gomez et al. (2022); see `stitchsafe.nn.schedule`.
    `backbone` is where those of segmentation begin.
    """

    schedule: str
    backbone: Annotated[float, Field(gt=0)] | None = None


class LogsConfig(Strict):
    """Logs beside ``history.jsonl``: a table, and files for TensorBoard."""

    csv: bool = False
    tensorboard: bool = False
