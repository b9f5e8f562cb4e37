"""What a run computes on and in: devices, workers and precision, asked for and taken."""

from __future__ import annotations

from stitchsafe.engine import Events
from stitchsafe.errors import InputError, PlanError
from stitchsafe.networks import Devices, Network, find_devices
from stitchsafe.pipeline._machine import processor_name
from stitchsafe.pipeline._settings import Settings
from stitchsafe.precision import PRECISIONS, precision_named
from stitchsafe.tiling import Recipe

__all__ = [
    "choose_devices",
    "choose_precision",
    "computes_on",
    "device_budget",
    "is_this_machine",
    "places_for",
    "worker_count",
]

_SHARE = 0.9
"""Of a device's memory: what other programs and the fragments between tensors leave."""


def choose_precision(
    settings: Settings, network: Network, stored: Recipe | None, events: Events
) -> str:
    """The type of the arithmetic; what is not what was asked for, or known before, is said.

    Raises
    ------
    PlanError
        If the network does not compute in it.
    """
    own = network.precision
    asked = precision_named(settings.precision)
    if asked is None:  # auto
        if stored is not None:
            return stored.precision
        taken = "float32" if PRECISIONS[own].half and "float32" in network.precisions else own
        if taken != own:
            events.say(
                f"precision: the weights are {own}, computed in {taken}, which holds all their "
                f"values; --precision {PRECISIONS[own].short} computes in their own type"
            )
        return taken
    if asked.name not in network.precisions:
        raise PlanError(
            f"{network.name} computes in {' or '.join(network.precisions)}, as its graph says, and "
            f"not in {asked.name}; leave --precision out"
        )
    if asked.name != settings.precision or asked.name != own:
        events.say(
            f"precision: {settings.precision} asked for, {asked.name} taken"
            + (f"; the weights are {own}" if asked.name != own else "")
        )
    return asked.name


def choose_devices(
    settings: Settings, network: Network, stored: Recipe | None, events: Events
) -> Devices:
    """The devices of a run.

    Raises
    ------
    InputError
        If one is not there.
    """
    asked = settings.device
    if asked == "auto" and stored is not None:
        asked = stored.device
    there = network.accelerators if asked != "cpu" else ()
    devices = find_devices(asked, there)
    if devices.kind == "cpu":
        if settings.max_device_memory is not None:
            raise InputError(
                "max_device_memory bounds the memory of a device, and this run is on the "
                "processor; leave it out, or give --device cuda"
            )
        return devices
    spare = len(there) - len(devices.places)
    events.say(
        f"device: {settings.device} asked for, {', '.join(devices.places)} taken ({devices.model})"
        + (f"; {spare} more could be named by --device cuda:0,1" if spare else "")
    )
    return devices


def worker_count(settings: Settings, devices: Devices) -> int:
    """How many processes do blocks: each device has at least one."""
    return max(settings.workers, len(devices.places))


def device_budget(settings: Settings, devices: Devices, workers: int) -> int | None:
    """Bytes of a device's memory that one worker may take; None where nothing tells."""
    given = settings.max_device_memory
    if given is None and devices.memory is not None:
        given = int(_SHARE * devices.memory)
    if given is None:
        return None
    return given // -(-workers // len(devices.places))


def places_for(recipe: Recipe, network: Network, asked: str = "auto") -> tuple[str, ...]:
    """The devices that passes of a recipe run on here; the processor where there is none."""
    there = network.accelerators if recipe.device != "cpu" else ()
    return find_devices(asked, there).places if there else ("cpu",)


def computes_on(recipe: Recipe, network: Network) -> str:
    """The model of what would compute a recipe here; empty where there is none."""
    if recipe.device == "cpu":
        return processor_name()
    return next((each.model for each in network.accelerators), "")


def is_this_machine(recipe: Recipe, network: Network) -> bool:
    """Whether the bits of the recipe can be expected of this machine."""
    return recipe.build == network.build and recipe.processor == computes_on(recipe, network)
