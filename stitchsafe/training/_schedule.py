"""Courses of the learning rate and of temperatures: pure functions of the step.

So resuming needs no state of theirs.
"""

from __future__ import annotations

import bisect
import math

from torch import nn

from stitchsafe.errors import PlanError
from stitchsafe.nn import LPD, MultirateLinear, StepDecay, schedule
from stitchsafe.training._loop_config import OptimiserConfig, TemperatureConfig

__all__ = ["learning_rate", "refuse_unfit_temperature", "temperature"]


def learning_rate(settings: OptimiserConfig, step: int) -> float:
    """The learning rate of a step, from 0; see `OptimiserConfig` for the courses."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.learning_rate * (warm * _decayed(settings, step))


def _decayed(settings: OptimiserConfig, step: int) -> float:
    share = step / settings.steps
    if settings.decay == "none":
        return 1.0
    if settings.decay == "step":
        return math.pow(settings.factor, bisect.bisect_right(settings.milestones, share))
    if settings.decay == "polynomial":
        course = math.pow(1 - share, settings.power)
    else:
        course = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.floor + (1 - settings.floor) * course


def temperature(
    config: TemperatureConfig, step: int, steps: int
) -> tuple[StepDecay | MultirateLinear, int]:
    """The course of the temperature, and its epoch at a step: all steps are its epochs' length."""
    course = schedule(config.schedule, backbone=config.backbone)
    return course, 1 + step * course.epochs // steps


def refuse_unfit_temperature(config: TemperatureConfig | None, module: nn.Module) -> None:
    """Refuse a course that is not known, or that the network does not follow.

    Raises
    ------
    PlanError
        If so; or if the course ends soft, and the network's layers take an argmax afterwards.
    """
    if config is None:
        return
    try:
        course = schedule(config.schedule, backbone=config.backbone)
    except ValueError as error:
        raise PlanError(f"temperature: {error}") from error
    layers = [each for each in module.modules() if isinstance(each, LPD)]
    if not layers:
        raise PlanError(
            f"the temperature follows {config.schedule!r}, and the network has no learnable "
            "polyphase layers; take downsampling: lps, or leave temperature out"
        )
    soft = course.soft(course.epochs)
    if soft and any(each.pick.in_evaluation != "softmax" for each in layers):
        raise PlanError(
            f"the temperature's course {config.schedule!r} ends with softmax in evaluation, and "
            "the network takes the argmax; give downsampling_options: {in_evaluation: softmax}"
        )
