"""Geometry of networks: exact numbers, refusals, and stitched against whole."""

from __future__ import annotations

import json

import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stitchsafe.geometry as geometry
from stitchsafe.errors import ModelError, PlanError, UnsafeNetworkError
from stitchsafe.geometry import NetworkGeometry, agrees, analyse_module, trace
from stitchsafe.nn import UNet

torch.set_num_threads(1)


class ValidUNet(nn.Module):
    """Two valid convolutions per level on both sides, 2-D."""

    def __init__(self, levels, factor=2, learnt=True):
        super().__init__()
        self.factor, w = factor, 2
        pair = lambda c: nn.Sequential(nn.Conv2d(c, w, 3), nn.ReLU(True), nn.Conv2d(w, w, 3))  # noqa: E731
        self.down = nn.ModuleList([pair(1 if i == 0 else w) for i in range(levels)])
        self.bottom = pair(w)
        up = (
            (lambda: nn.ConvTranspose2d(w, w, factor, factor))
            if learnt
            else (lambda: nn.Upsample(scale_factor=factor))
        )
        self.up = nn.ModuleList([up() for _ in range(levels)])
        self.join = nn.ModuleList([pair(2 * w) for _ in range(levels)])

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, self.factor)
        x = self.bottom(x)
        for up, block in zip(self.up, self.join, strict=True):
            x, skip = up(x), skips.pop()
            a, b = ((s - t) // 2 for s, t in zip(skip.shape[2:], x.shape[2:], strict=True))
            skip = skip[:, :, a : a + x.shape[2], b : b + x.shape[3]]
            x = block(torch.cat([skip, x], 1))
        return x


@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize(("levels", "context"), [(1, 8), (2, 20), (3, 44), (4, 92), (5, 188)])
def test_context_of_the_u_net(levels, context, learnt):
    found = analyse_module(ValidUNet(levels, learnt=learnt), ndim=2, channels=1)
    assert found.verdict == "safe"
    axis = found.axes[0]
    # From three levels on natural outputs are 4 + k·period, so whole periods reach 4 further on.
    rest = 4 if levels > 2 else 0
    assert axis.receptive_field == 2 * context + rest + axis.period
    assert axis.context == (context, context + rest)
    assert axis.period == axis.input_step == 2**levels
    assert axis.output_offset == context
    assert axis.output_size(axis.input_min) == (4 if levels > 1 else 2)
    assert not axis.padded
    assert NetworkGeometry.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_stitched_equals_whole_on_the_lattice_and_not_off_it():
    torch.manual_seed(0)
    net = ValidUNet(2).double().eval()
    axis = analyse_module(net, ndim=2, channels=1).axes[0]
    x = torch.rand(1, 1, 100, 44, dtype=torch.float64)
    with torch.no_grad():
        whole = net(x)
        aligned = net(x[:, :, 8:])
        off = net(x[:, :, 6:94])
    assert whole.shape[2] == axis.output_size(100)
    assert torch.allclose(aligned, whole[:, :, 8:], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(off, whole[:, :, 6 : 6 + off.shape[2]], rtol=1e-6)


BREAKERS = {
    "instance": (nn.InstanceNorm2d(2), "instance"),
    "group": (nn.GroupNorm(1, 2), "group"),
    "adaptive": (nn.AdaptiveAvgPool2d(3), "adaptive"),
    "global": (nn.AdaptiveAvgPool2d(1), "whole of space"),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "circular"),
    "corners": (
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners",
    ),
    "softmax": (nn.Softmax(3), "whole of space"),
    "batch": (nn.BatchNorm2d(2, track_running_stats=False), "statistics"),
    "factor": (nn.Upsample(scale_factor=1.5), "no whole factor"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKERS)
def test_what_breaks_locality_is_named(name):
    layer, word = BREAKERS[name]
    found = analyse_module(nn.Sequential(nn.Conv2d(1, 2, 3), layer), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert found.breaks[0].layer == "1"
    assert word in found.breaks[0].reason
    with pytest.raises(UnsafeNetworkError, match="layer 1"):
        found.require_safe()


class Data(nn.Module):
    def forward(self, x):
        return x * 2 if x[0, 0, 0, 0] > 0 else x


class Place(nn.Module):
    def forward(self, x):
        return x + torch.arange(x.shape[3]) / 7


class Scaled(nn.Module):
    def forward(self, x):
        return x / x.shape[3]


class Written(nn.Module):
    def forward(self, x):
        y = torch.relu(x)
        y[..., :1].mul_(0)
        return y


@pytest.mark.parametrize("net", [Data(), Place(), Scaled(), Written()])
def test_what_is_not_analysed_is_never_safe(net):
    assert analyse_module(net, ndim=2, channels=1).verdict == "unsafe"


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["conv", "down", "up", "repeat"]),
            st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
        ), min_size=1, max_size=5,
    )
)  # fmt: skip
def test_measured_dependence_is_the_traced_one(layers):
    built = []
    for kind, k, s, p, d in layers:
        if kind == "conv":
            built.append(nn.Conv1d(1, 1, k, padding=p, dilation=d))
        elif kind == "down":
            built.append(nn.Conv1d(1, 1, k, stride=s, padding=p, dilation=d))
        elif kind == "up":
            built.append(nn.ConvTranspose1d(1, 1, k, s, p, dilation=d))
        else:
            built.append(nn.Upsample(scale_factor=s))
    net = nn.Sequential(*built).double().eval()
    for weight in net.parameters():
        nn.init.uniform_(weight, 0.5, 1.0)
    size = 96
    x = torch.rand(1, 1, size, dtype=torch.float64, requires_grad=True)
    try:
        y = net(x)
    except RuntimeError:
        return
    (maps,) = trace(net, (size,), 1).facts()
    for index in range(maps[0].before, min(maps[0].clean, maps[0].before + 40)):
        (grad,) = torch.autograd.grad(y[0, 0, index], x, retain_graph=True)
        touched = grad[0, 0].nonzero().flatten().tolist()
        interval = maps[0].element(index)
        assert (touched[0], touched[-1]) == interval if touched else interval is None


def test_a_same_padded_network_and_the_proof_per_shape():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.MaxPool2d((1, 2)),
        nn.ConvTranspose2d(2, 1, (1, 2), (1, 2)),
    ).train()
    found = analyse_module(net, ndim=2, channels=1)
    assert net.training
    assert found.period == (1, 2)
    assert found.output_offset == (0, 0)
    assert all(axis.padded for axis in found.axes)
    assert (found.input_step, found.axes[0].context) == ((1, 2), (1, 1))
    agrees(found, trace(net, (9, 12), 1))
    with pytest.raises(PlanError):
        agrees(found, trace(net, (9, 13), 1))


def test_cost_and_errors():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    graph = trace(net, (10, 10), 1)
    assert graph.flops() == 2 * 9 * 4 * 64
    assert graph.activation_bytes(4) == 4 * (100 + 4 * 64)
    with pytest.raises(ModelError):
        NetworkGeometry.from_json({"format": "other"})
    assert set(geometry.__all__) <= set(dir(geometry))


def test_axes_with_different_factors_need_no_size_in_common():
    network = UNet(ndim=2, levels=2, factors=((1, 2), (3, 3)), base_channels=2, convs_per_level=1)
    found = analyse_module(network, ndim=2, channels=1)
    assert found.verdict == "safe"
    assert found.period == (3, 6)


class Wrapped(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 1, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(1, 1, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x) * self.calls


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones_like(x).cumsum(3),
        lambda x: x + torch.sin(torch.ones_like(x[:, :1]).cumsum(2)),
        lambda x: x * torch.ones_like(x).sum((2, 3), keepdim=True),
        lambda x: x / F.avg_pool2d(torch.ones_like(x), 7, 1, padding=3),
        lambda x: x + F.conv2d(torch.ones_like(x), torch.ones(2, 2, 3, 3), padding=1),
        lambda x: x * torch.full((1, 1, 1, 1), float(x.shape[2])),
        lambda x: x * torch.tensor(float(x.shape[2])),
        lambda x: x + torch.full_like(x, x.shape[3]),
        lambda x: x * x.new_full((1, 1, 1, 1), x.shape[2]),
        lambda x: x + torch.scalar_tensor(x.shape[3]),
        lambda x: x + F.pad(torch.zeros_like(x), (1, 1, 1, 1), value=1.0)[..., 1:-1, :-2],
    ],
)
def test_constants_made_by_the_inputs_size_or_position_are_never_safe(function):
    assert analyse_module(Wrapped(function), ndim=2, channels=1).verdict == "unsafe"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones_like(x) * 2,
        lambda x: x * torch.full((1, 1, 1, 1), 3.0),
        lambda x: torch.cat([x, torch.zeros_like(x)], 1)[:, :2],
    ],
)
def test_constants_that_are_the_same_for_every_size_are_safe(function):
    assert analyse_module(Wrapped(function), ndim=2, channels=1).verdict == "safe"


def test_a_module_that_changes_itself_is_not_safe():
    found = analyse_module(Counting(), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert "changes its own attributes" in found.breaks[0].reason


class Halving(nn.Module):
    """Pools and comes back, cut to the size of what came in."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(1, 2, 3, padding=1), pool
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        skip = self.first(x).relu()
        up = F.interpolate(self.pool(skip), scale_factor=2)
        return self.last(torch.cat([skip, up[..., : skip.shape[2], : skip.shape[3]]], 1))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(2, 2, 3, 2, 1),
    ],
)
def test_networks_that_take_odd_sizes_are_said_to(pool):
    axis = analyse_module(Halving(pool), ndim=2, channels=1).axes[0]
    assert (axis.period, axis.input_step) == (2, 1)


class Planar(nn.Module):
    """Pools by (1, 2), then by 2, and crops what comes back: odd sizes take other operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        skip = self.first(x).relu()
        half = F.max_pool2d(skip, (1, 2), ceil_mode=True)
        low = F.interpolate(F.max_pool2d(half, 2, ceil_mode=True), scale_factor=2)
        if low.shape != half.shape:
            low = low[..., : half.shape[2], : half.shape[3]].contiguous() * 1
        up = F.interpolate(half + low, scale_factor=(1, 2))
        return self.last(torch.cat([skip, up[..., : skip.shape[2], : skip.shape[3]]], 1))


def test_axes_share_one_program_where_odd_sizes_take_another():
    found = analyse_module(Planar(), ndim=2, channels=1)
    assert (found.verdict, found.period) == ("safe", (2, 4)), found.breaks
    for axis in found.axes:
        assert axis.input_min % axis.input_step == 0


def test_networks_that_differ_in_an_operator_or_a_constant_differ_in_program():
    functions = [torch.relu, torch.sigmoid, lambda x: x + 1, lambda x: x + 2]
    programs = {analyse_module(Wrapped(f), ndim=2, channels=1).program for f in functions}
    assert len(programs) == len(functions)


def test_a_large_network_is_analysed_without_its_activations():
    net = UNet(ndim=3, levels=4, base_channels=40, growth=2, padding="same", heads={"embedding": 3})
    assert sum(parameter.numel() for parameter in net.parameters()) > 3e7
    process = psutil.Process()
    before = process.memory_info().rss
    graph = trace(net, (128, 128, 128), 1)
    assert analyse_module(net, ndim=3, channels=1).period == (16, 16, 16)
    grown = process.memory_info().rss - before
    assert graph.activation_bytes(4) > 2e9
    assert grown < 0.2 * graph.activation_bytes(4)
