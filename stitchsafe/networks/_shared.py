"""What networks of torch and of ONNX do alike: refuse sizes, name outputs, and lay them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stitchsafe.errors import ModelError, PlanError
from stitchsafe.geometry import LatticeMismatch, SizeRefusal
from stitchsafe.networks._config import ModelConfig
from stitchsafe.networks._protocol import Network, Output

__all__ = [
    "channels_first",
    "declared_outputs",
    "plain_name",
    "refuse_other_channels",
    "refusing_sizes",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@contextmanager
def refusing_sizes(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Around a trace: a size that the network does not take is an error of the plan.

    Raises
    ------
    PlanError
        If the network does not take that size.
    """
    try:
        yield
    except (SizeRefusal, LatticeMismatch) as error:
        raise PlanError(
            f"{name} does not take an input of {tuple(shape)} voxels: {error}; give another "
            "--tile-shape"
        ) from error


def declared_outputs(config: ModelConfig) -> tuple[Output, ...]:
    """The outputs that a configuration lists."""
    return tuple(Output(each.name, each.channels) for each in config.outputs)


def refuse_other_channels(network: Network, config: ModelConfig, origin: object) -> None:
    """Refuse outputs of other channels than described, as far as they are known.

    Raises
    ------
    ModelError
        If there are.
    """
    found = [output.channels for output in network.geometry.outputs]
    described = [output.channels for output in config.outputs]
    if found and found != described:
        raise ModelError(
            f"{origin} describes outputs of {described} channels, and its network gives {found}; "
            "repair the description"
        )


def plain_name(name: str, place: int, count: int) -> str:
    """A name that a file may have: the network's own where it is one, else by its place."""
    if _NAME.fullmatch(name):
        return name
    return "output" if count == 1 else f"output{place}"


def channels_first(array: Any, layout: str, permute: Callable[[Any, tuple[int, ...]], Any]) -> Any:
    """An array or tensor of any layout as (batch, channels, *space).

    Parameters
    ----------
    array, layout
        What a network gave, and its axes in order; ``1`` stands for one of length 1.
    permute
        Of the library that the array is of.
    """
    space = "".join(sorted((letter for letter in layout if letter in "zyx"), reverse=True))
    if layout == f"bc{space}":
        return array
    order = sorted(range(len(layout)), key=lambda place: f"b1c{space}".index(layout[place]))
    moved = permute(array, tuple(order))
    batch = array.shape[layout.index("b")] if "b" in layout else 1
    return moved.reshape(batch, -1, *moved.shape[len(layout) - len(space) :])
