"""Hypothesis strategies and settings that several rooms share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.strategies import DrawFn, SearchStrategy

from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet


def analysing() -> settings:
    """For tests each of whose examples analyses a network, which takes a second.

    How many there are is the profile's to say: see `pytest_configure` in conftest.py. Explaining a
    failure traces torch line by line, which takes for ever.
    """
    return settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


@dataclass(frozen=True)
class Case:
    """A network, its arguments for the failure message, and a volume shape."""

    arguments: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    seed: int

    @property
    def channels(self) -> int:
        """Of the input."""
        return int(dict(self.arguments).get("in_channels", 1))

    def network(self, dtype: torch.dtype = torch.float64) -> UNet:
        torch.manual_seed(self.seed)
        network = UNet(**dict(self.arguments)).to(dtype).eval()
        for parameter in network.parameters():
            # Larger than torch's defaults, so that signals survive depth and seams show.
            torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim > 1 else 0.1)
        return network

    def analysed(self, dtype: torch.dtype = torch.float64) -> TorchNetwork:
        """The network with its geometry, which is found once for each architecture."""
        network = TorchNetwork(self.network(dtype))
        structure = repr(self.arguments)
        if structure in _ANALYSED:
            vars(network)["geometry"] = _ANALYSED[structure]
        _ANALYSED[structure] = network.geometry
        return network


_ANALYSED: dict[str, NetworkGeometry] = {}


def factors(ndim: int, levels: int) -> SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Pooling factors per level and axis: 2, 3, or anisotropic."""
    # Factor 3 on three levels of three axes needs more memory than a test should take.
    largest = 2 if (ndim, levels) == (3, 3) else 3
    isotropic = st.integers(2, largest).map(lambda f: (f,) * ndim)
    level = st.one_of(isotropic, st.just((1,) + (2,) * (ndim - 1)))
    return st.tuples(*[level] * levels)


@st.composite
def unet_cases(draw: DrawFn) -> Case:
    """Random U-Nets (2-D/3-D, 1 to 3 levels) with random volume sizes, some below one tile."""
    ndim = draw(st.sampled_from([2, 3]))
    levels = draw(st.integers(1, 3))
    arguments = {
        "ndim": ndim,
        "in_channels": draw(st.integers(1, 2)),
        "levels": levels,
        "factors": draw(factors(ndim, levels)),
        "growth": draw(st.sampled_from([1, 1.5])),
        "padding": draw(st.sampled_from(["valid", "same"])),
        "upsampling": draw(st.sampled_from(["learnt", "nearest"])),
        "convs_per_level": 1 if ndim == levels == 3 else draw(st.integers(1, 2)),
        **_SMALL,
    }
    return _sized(draw, arguments)


_SMALL = {"base_channels": 2, "heads": {"embedding": 2}}
_KNOWN: tuple[dict[str, Any], ...] = (
    {"ndim": 2, "levels": 1, "factors": ((3, 3),), "padding": "valid", "upsampling": "nearest"},
    {"ndim": 2, "levels": 2, "factors": ((2, 2), (3, 3)), "padding": "same"},
    {"ndim": 2, "levels": 3, "factors": ((2, 2), (1, 2), (2, 2)), "convs_per_level": 1},
    {"ndim": 3, "levels": 1, "factors": ((1, 2, 2),), "padding": "same", "in_channels": 2},
    {"ndim": 3, "levels": 2, "factors": ((1, 2, 2), (2, 2, 2)), "upsampling": "nearest"},
)


@st.composite
def known_unet_cases(draw: DrawFn) -> Case:
    """A few U-Nets with random volume sizes, where it is not the networks that should differ.

    To analyse one takes a second, and what follows from its geometry a moment.
    """
    return _sized(draw, {**draw(st.sampled_from(_KNOWN)), **_SMALL})


def _sized(draw: DrawFn, arguments: dict[str, Any]) -> Case:
    shape = draw(shapes(arguments["ndim"]))
    return Case(tuple(arguments.items()), shape, draw(st.integers(0, 2**16)))


def shapes(ndim: int) -> SearchStrategy[tuple[int, ...]]:
    """Extents of volumes, some below one tile."""
    return st.tuples(*[st.integers(1, 40 if ndim == 2 else 22)] * ndim)
