"""The device that a user asks for, and the devices that there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stitchsafe.errors import InputError
from stitchsafe.networks._cuda import Accelerator

__all__ = ["Devices", "find_devices", "is_device"]

_FORM = re.compile(r"auto|cpu|cuda(:\d+(,\d+)*)?")


@dataclass(frozen=True, slots=True)
class Devices:
    """Where passes run.

    Parameters
    ----------
    kind
        ``cpu`` or ``cuda``: what a recipe holds.
    places
        The devices, as ``cpu`` or ``cuda:1``: a worker has one of them.
    model
        Of the accelerators, which are all the same; None for a processor.
    memory
        Bytes of the least of them; None for a processor, or where nothing tells.
    """

    kind: str
    places: tuple[str, ...]
    model: str | None = None
    memory: int | None = None


def is_device(text: str) -> bool:
    """Whether `text` has the form of a device."""
    return _FORM.fullmatch(text) is not None


def find_devices(asked: str, there: Sequence[Accelerator]) -> Devices:
    """The devices that are meant.

    Parameters
    ----------
    asked
        ``auto`` takes the first accelerator, or else the processor; ``cuda`` the first
        accelerator; ``cuda:0,1`` those.
    there
        The accelerators that the network can run on.

    Raises
    ------
    InputError
        If one is not there, or they are of different models, whose bits differ.
    """
    if not is_device(asked):
        raise InputError(f"device cannot be {asked!r}; it is one of auto, cpu, cuda, cuda:0,1")
    if asked == "cpu" or (asked == "auto" and not there):
        return Devices("cpu", ("cpu",))
    listed = asked.partition(":")[2]
    indices = list(dict.fromkeys(int(i) for i in listed.split(","))) if listed else [0]
    if not there:
        raise InputError(
            f"no CUDA device: {asked} is asked for, and none is found that the network can run on; "
            "give --device cpu, or install a driver and a build of the library that fit"
        )
    for index in indices:
        if index >= len(there):
            raise InputError(
                f"no CUDA device {index}: there are {len(there)} (0 to {len(there) - 1}); give "
                "some of those by --device"
            )
    chosen = [there[index] for index in indices]
    models = sorted({each.model for each in chosen})
    if len(models) > 1:
        raise InputError(
            f"the devices {asked} are of different models ({', '.join(models)}), whose results "
            "differ in their last bits; give devices of one model"
        )
    known = [each.memory for each in chosen if each.memory is not None]
    places = tuple(f"cuda:{index}" for index in indices)
    return Devices("cuda", places, models[0], min(known, default=None))
