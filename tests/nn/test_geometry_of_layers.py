"""What the analysis says of each layer, with the reason, and that it is true of tiles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from stitching import field_maker, own_pass, stitched
from torch import Tensor, nn

from stitchsafe.geometry import analyse_module
from stitchsafe.nn import (
    APS,
    LPD,
    LPU,
    LowPass,
    LowPassPool,
    PPool2d,
    PPool3d,
    StrideOneMax,
    pinned,
)


def fixed(alpha: float, *given, **more) -> nn.Module:
    return PPool2d(*given, alpha=alpha, learnable=False, **more)


@pytest.mark.parametrize(
    ("layer", "period", "receptive"),
    [
        (LowPass(3, padding="valid"), 1, 3),
        (LowPass(4, padding="valid"), 1, 4),
        (StrideOneMax(2, padding="valid"), 1, 2),
        (PPool2d(3, 1), 1, 3),
        (fixed(0.0, 2, 1, dilation=2), 1, 3),
        (PPool2d(2), 2, 2),
        (fixed(3.0, 3, 3), 3, 3),
        (fixed(math.inf, 2), 2, 2),
        (LowPassPool(3, padding="valid"), 2, 3),
        (LowPassPool(3, padding="valid", max_pool=2, stride=3), 3, 4),
    ],
)
def test_bounded_windows_are_safe(layer, period, receptive):
    """Stride 1: fully equivariant. Strided: periodic, with the stride for its period."""
    found = analyse_module(layer, ndim=2, channels=2)
    assert found.verdict == "safe"
    assert [axis.period for axis in found.axes] == [period] * 2
    assert [axis.receptive_field for axis in found.axes] == [receptive] * 2
    assert not any(axis.padded for axis in found.axes)


def test_three_dimensions_have_a_period_per_axis():
    found = analyse_module(PPool3d((1, 2, 3)), ndim=3, channels=2)
    assert [axis.period for axis in found.axes] == [1, 2, 3]


@pytest.mark.parametrize("layer", [LowPass(3, padding="zeros"), LowPass(3, padding="reflect"),
                                   PPool2d(3, 2, 1)])  # fmt: skip
def test_padding_belongs_to_the_border_only(layer):
    found = analyse_module(layer, ndim=2, channels=2)
    assert found.verdict == "safe"
    assert all(axis.padded for axis in found.axes)


@pytest.mark.parametrize("layer", [LowPass(3), LowPassPool(2), LPD(2, 2, low_pass=3)])
def test_circular_padding_inside_tiles_is_unsafe(layer):
    found = analyse_module(layer, ndim=2, channels=2)
    assert found.verdict == "unsafe"
    assert "circular padding" in found.breaks[0].reason


class Net(nn.Module):
    """One level of downsampling and upsampling between convolutions without padding."""

    def __init__(self, down: nn.Module, *, ndim: int = 2, taps: int | None = None) -> None:
        super().__init__()
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.first, self.down, self.inner = conv(1, 3, 3), down, conv(3, 3, 3)
        self.up, self.last = LPU(low_pass=taps, padding="valid"), conv(6, 2, 3)
        self.given = None

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x).tanh()
        y, selection = self.down(skip, self.given)
        x = self.up(self.inner(y).tanh(), selection)
        for axis in range(2, x.dim()):
            less = skip.shape[axis] - x.shape[axis]
            skip = skip.narrow(axis, less // 2, x.shape[axis])
        return self.last(torch.cat([skip, x], 1))


def lps(ndim: int = 2, **more) -> nn.Module:
    return LPD(ndim, 3, score_padding="valid", padding="valid", **more)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (
            Net(lps(low_pass=3), taps=3),
            "learnable polyphase downsampling, chosen by means over its",
        ),
        (Net(lps(3, max_pool=3, in_evaluation="softmax"), ndim=3), "learnable polyphase downsamp"),
        (Net(APS(2)), "adaptive polyphase sampling, chosen by norms of its input"),
        (Net(LPD(2, 3)), "scores pad circularly"),
    ],
)
def test_selections_need_consensus(net, reason):
    """Whole-input: safe once the phases are decided for the whole; the period is pooling's."""
    found = analyse_module(net, ndim=net.first.weight.dim() - 2, channels=1)
    assert found.verdict == "safe with consensus"
    assert not found.breaks
    ((layer, what),) = found.consensus
    assert layer == "down.pick"
    assert reason in what
    assert all(axis.period == 2 for axis in found.axes)
    assert all(axis.context[0] >= 4 for axis in found.axes)


def test_a_network_that_gives_its_selection_out_needs_consensus_too():
    found = analyse_module(LPD(2, 2), ndim=2, channels=2)
    assert found.verdict == "safe with consensus"


def test_a_layer_of_which_only_the_selection_is_used_needs_consensus():
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.last = LPD(2, 1), nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            _, selection = self.down(x)
            return self.last(x) * selection.weights[:, :1, None, None]

    found = analyse_module(Chosen(), ndim=2, channels=1)
    assert found.verdict == "safe with consensus"


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random((1, *shape))


def difference(module: nn.Module, shape: tuple[int, ...], tile: tuple[int, ...]) -> float:
    """Between tiles and one pass over the whole, in float64."""
    torch.manual_seed(0)
    maker = field_maker(module.double().eval(), image(*shape), tile)
    (whole,) = own_pass(maker)[0].values()
    return float(np.abs(stitched(maker) - whole).max())


@pytest.mark.parametrize(
    "pool",
    [PPool2d(2, channels=3), PPool2d(3, 2), LowPassPool(3, padding="valid", max_pool=2)],
)  # fmt: skip
def test_tiles_of_pooling_networks_equal_the_whole(pool):
    up = nn.Upsample(scale_factor=2.0, mode="nearest")
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sigmoid(), pool, nn.Conv2d(3, 2, 3), up)
    assert difference(net, (41, 37), (12, 8)) <= 1e-12


@pytest.mark.parametrize(("phase", "down"), [(0, {}), (1, {}), (2, {"low_pass": 3}), (3, {})])
def test_tiles_with_the_same_phases_equal_the_whole(phase, down):
    torch.manual_seed(0)
    net = Net(lps(**down), taps=down.get("low_pass"))
    net.given = pinned(phase, ndim=2)[0]
    assert difference(net, (33, 30), (8, 12)) <= 1e-12


def test_tiles_in_three_dimensions_with_the_same_phases_equal_the_whole():
    torch.manual_seed(0)
    net = Net(lps(3), ndim=3)
    net.given = pinned(5, ndim=3)[0]
    assert difference(net, (12, 14, 13), (8, 8, 4)) <= 1e-12


def test_tiles_that_decide_for_themselves_do_not():
    """Why consensus is needed: FACTS, tiles picked the global phase in 126 of 320 cases."""
    torch.manual_seed(0)
    assert difference(Net(lps()), (33, 30), (8, 12)) > 1e-3


def test_the_support_of_a_selection_is_that_of_all_phases():
    """By perturbation: what may be read under some phase, and nothing beyond."""
    declared = lps().pick.lattice_geometry()
    assert declared["axes"] == [{"stride": 2, "support": [[0, 1]]}] * 2
    reads = set()
    for k, position in itertools.product(range(4), range(-2, 4)):
        x = torch.zeros(1, 3, 8, 8)
        before = LPD(2, 3).eval()(x, pinned(k, ndim=2)[0])[0]
        x[..., 4 + position, 4] = x[..., 4 + position, 5] = 1
        after = LPD(2, 3).eval()(x, pinned(k, ndim=2)[0])[0]
        if not torch.equal(before[..., 2, 2], after[..., 2, 2]):
            reads.add(position)
    assert reads == {0, 1}


def test_a_layer_that_returns_its_tensor_among_others_is_told():
    class Listing(LPD):
        def lattice_geometry(self):
            return self.pick.lattice_geometry()

        def forward(self, x: Tensor):
            return list(super().forward(x))

    found = analyse_module(Listing(2, 1), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert any("begins with one" in each.reason for each in found.breaks)
