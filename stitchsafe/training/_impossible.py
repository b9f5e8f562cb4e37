"""Networks that cannot be, or not for this input and window: refused by the key of ``train.yaml``.

Before any is made: nine poolings of a U-Net would be gigabytes of weights.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from stitchsafe.errors import ModelError, PlanError
from stitchsafe.nn import UNet
from stitchsafe.training._config import TrainingConfig

__all__ = ["refuse_impossible"]

_KEY = "network.arguments"
_PLAUSIBLE = 5


def refuse_impossible(config: TrainingConfig) -> None:
    """Refuse a U-Net that disagrees with the rest of the configuration.

    Raises
    ------
    ModelError
        Naming the key and the nearest value that would do.
    PlanError
        If it pools so often that no window of this size would do.
    """
    arguments = config.network.arguments
    known = inspect.signature(UNet).parameters
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ModelError(f"{_KEY}.{name} is not known to unet; {hint}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ModelError(f"{_KEY} lacks {name}, which unet needs; give it")
    axes, channels = config.input.axes, config.input.channels
    if arguments["ndim"] != len(axes):
        raise ModelError(
            f"{_KEY}.ndim is {arguments['ndim']!r}, and input.axes is {axes}; give ndim: "
            f"{len(axes)}, or other axes"
        )
    if arguments.get("in_channels", 1) != channels:
        raise ModelError(
            f"{_KEY}.in_channels is {arguments.get('in_channels', 1)!r}, and input.channels is "
            f"{channels}; give in_channels: {channels}, or other channels"
        )
    for name, least in (("levels", 0), ("base_channels", 1), ("convs_per_level", 1)):
        value = arguments.get(name, least)
        if not isinstance(value, int) or value < least:
            raise ModelError(
                f"{_KEY}.{name} is {value!r}; the nearest that would do is {name}: {least}"
            )
    _refuse_levels(config, arguments["levels"], arguments.get("factors", 2))


def _refuse_levels(config: TrainingConfig, levels: int, factors: Any) -> None:
    """Refuse a period that no window of this size can come near.

    Up to `_PLAUSIBLE` poolings it may be the window that is wrong: `fit_window` says which would
    do. Factors for each level are as many as there are levels, so with those nothing is suggested.
    """
    if not isinstance(factors, int) or factors < 2 or config.allow_breaking_window:
        return
    whole = config.neighbours > 1 or config.network.arguments.get("padding", "valid") != "valid"
    window, most = min(config.window) + int(whole), 0
    while factors ** (most + 1) < window:
        most += 1
    if levels > max(most, _PLAUSIBLE):
        raise PlanError(
            f"{_KEY}.levels is {levels}, which makes a period of {factors**levels} voxels, and the "
            f"window has {min(config.window)}; the nearest that would do is levels: {most}"
        )
