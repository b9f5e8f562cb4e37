"""One ATen call, and the registry of what is known of each operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._layout import Breaking, Value

__all__ = ["REDUCTIONS", "SIZED", "Call", "Handlers", "Result", "cost", "without"]

Result = Value | list[Value]


@dataclass(frozen=True)
class Call:
    """One ATen call, its arguments by name, after it ran.

    Parameters
    ----------
    flow
        Where to write.
    name
        Of the operator, without overload.
    arguments
        By name, defaults filled in.
    values
        Of the arguments that depend on the input, by identity of the tensor, in order.
    results
        What it returned.
    layer
        The module that called it.
    given
        All tensors among its arguments.
    constant
        Admits tensors that are constants to a value: that value, or one told apart by its place.
    """

    flow: Flow
    name: str
    arguments: Mapping[str, Any]
    values: Mapping[int, Value]
    results: Sequence[torch.Tensor]
    layer: torch.nn.Module
    given: Sequence[torch.Tensor]
    constant: Callable[[Value, Sequence[torch.Tensor]], Value]

    @property
    def first(self) -> Value:
        """The first argument that depends on the input."""
        return next(iter(self.values.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.results[0].shape)

    def value(self, name: str) -> Value | None:
        """The value of an argument, None where it is a constant."""
        return self.values.get(id(self.arguments.get(name)))

    @property
    def only(self) -> Value:
        """The value of the main argument, where no other depends on the input."""
        main = self.value("input") or self.value("self")
        if main is None or len(self.values) > 1:
            raise Breaking(
                "its weights depend on the input", "use weights that are parameters of the network"
            )
        return main

    def dimension(self, name: str = "dim", default: int = 0) -> int:
        return int(self.arguments.get(name, default)) % max(1, self.first.rank)

    def dimensions(self, name: str = "dim") -> list[int]:
        """Those named, all where none is."""
        given = self.arguments.get(name)
        given = [given] if isinstance(given, int) else given
        rank = self.first.rank
        return sorted(d % rank for d in given) if given else list(range(rank))

    def ints(self, name: str, count: int, default: int) -> tuple[int, ...]:
        given = self.arguments.get(name)
        if given is None or given == []:
            return (default,) * count
        if isinstance(given, int):
            return (given,) * count
        return tuple(given) * (count if len(given) == 1 else 1)


Handler = Callable[[Call], Result]


class Handlers(dict[str, Handler]):
    """What each operator of a group does, by its name."""

    def of(self, *names: str) -> Callable[[Handler], Handler]:
        """Decorate the function that handles some operators."""

        def register(handler: Handler) -> Handler:
            self.update(dict.fromkeys(names, handler))
            return handler

        return register


REDUCTIONS = (
    "mean", "sum", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "prod", "norm",
    "linalg_vector_norm", "logsumexp", "any", "all", "var_mean", "std_mean", "median", "nansum",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip
"""Operators that make one element of several."""

SIZED = {
    "native_group_norm", "native_layer_norm", "slice", "select", "split", "split_with_sizes",
    "unbind", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "permute", "transpose",
    "repeat", "squeeze", "unsqueeze", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d",
}  # fmt: skip
"""Operators whose numbers follow the input's size; the lattice map speaks for them."""


def without(flow: Flow, value: Value, dimensions: Sequence[int]) -> Value:
    """A value whose `dimensions` are 1 long, without them."""
    cleared = tuple(() if d in dimensions else f for d, f in enumerate(value.layout))
    return flow.permute(
        Value(value.index, cleared), [d for d in range(value.rank) if d not in dimensions]
    )


def cost(name: str, arguments: Mapping[str, Any], output: torch.Tensor) -> tuple[int, int, int]:
    """Floating-point operations of a call, elements of its workspace, and of an unfolded input."""
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left = next(arguments[key] for key in ("mat1", "batch1", "self") if key in arguments)
        return 2 * output.numel() * left.shape[-1], 0, 0
    if name != "convolution":
        return 0, 0, 0
    weight = arguments["weight"]
    flops = 2 * math.prod(weight.shape[2:]) * weight.shape[1]
    if arguments["transposed"]:
        return flops * arguments["input"].numel(), 0, 0
    taps = math.prod(weight.shape[2:])
    columns = weight.shape[1] * taps * math.prod(output.shape[2:])
    # Fast kernels unfold nothing; but those of one voxel in three dimensions are left to others.
    return flops * output.numel(), columns if taps == 1 and weight.ndim == 5 else 0, columns
