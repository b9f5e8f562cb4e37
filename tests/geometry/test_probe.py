"""The probe: within the trace, equal to it with positive weights; wrong facts are caught."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from strategies import factors
from torch import nn

from stitchsafe.geometry import NetworkGeometry, probe
from stitchsafe.geometry import analyse_module as analyse
from stitchsafe.networks._positive import positive_weights
from stitchsafe.nn import UNet

torch.set_num_threads(1)
# The phase that explains failures traces Python itself, which breaks torch's own tracing.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def runner(module: nn.Module):
    module = module.double().eval()

    def run(batch):
        with torch.inference_mode():
            returned = module(torch.from_numpy(batch))
        tensors = returned if isinstance(returned, (tuple, list)) else (returned,)
        return tuple(tensor.numpy() for tensor in tensors)

    return run


def both(module: nn.Module, geometry: NetworkGeometry):
    own = probe(runner(module), geometry)
    generic = probe(runner(positive_weights(module)), geometry, positive=True)
    return own, generic


class Skip(nn.Module):
    """Pools, comes back, and meets what came in."""

    def __init__(self, conv, width: int, factor: tuple[int, ...]) -> None:
        super().__init__()
        self.pool = {nn.Conv2d: nn.MaxPool2d, nn.Conv3d: nn.MaxPool3d}[conv](factor)
        self.up, self.join = nn.Upsample(scale_factor=factor), conv(2 * width, width, 1)

    def forward(self, x):
        return self.join(torch.cat([x, self.up(self.pool(x))], 1))


@st.composite
def layers(draw, ndim: int, width: int):
    """One local operator with `width` channels, often anisotropic."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    back = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[ndim]
    most = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[ndim]
    mean = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[ndim]

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    kind = draw(st.sampled_from(["conv", "strided", "max", "mean", "back", "nearest", "skip"]))
    if kind == "skip":
        return nn.Sequential(nn.ReLU(), Skip(conv, width, each(1, 3)))
    if kind == "conv":
        kernel, dilation = each(1, 4), each(1, 3)
        padding = tuple(
            draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True)
        )
        return conv(width, width, kernel, padding=padding, dilation=dilation)
    if kind == "nearest":
        return nn.Upsample(scale_factor=each(1, 2))
    stride = each(1, 2)
    if kind == "back":
        kernel = tuple(draw(st.integers(s, 3)) for s in stride)
        return back(width, width, kernel, stride)
    kernel = tuple(draw(st.integers(s, 3)) for s in stride)
    if kind == "strided":
        return conv(width, width, kernel, stride, padding=draw(st.integers(0, 1)))
    padding = draw(st.integers(0, 1)) if min(kernel) > 1 else 0
    if kind == "max":
        return most(kernel, stride, padding)
    return mean(kernel, stride, padding, count_include_pad=draw(st.booleans()))


@st.composite
def networks(draw):
    ndim, width = draw(st.sampled_from([2, 2, 3])), 2
    first = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    rows = [first(1, width, draw(st.integers(1, 3)), padding=draw(st.integers(0, 1)))]
    rows += [draw(layers(ndim, width)) for _ in range(draw(st.integers(1, 3 if ndim == 3 else 5)))]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    net = nn.Sequential(*rows)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return ndim, net


@settings(deadline=None, max_examples=20, phases=PHASES)
@given(networks())
def test_within_the_trace_and_equal_with_positive_weights(drawn):
    ndim, net = drawn
    geometry = analyse(net, ndim=ndim, channels=1)
    assume(geometry.verdict == "safe")
    own, generic = both(net, geometry)
    assert own.contradictions == generic.contradictions == ()
    assert generic.wider == ()
    for measured, traced in zip(generic.axes, geometry.axes, strict=True):
        assert measured.period == traced.period
        assert measured.context == traced.context
        assert measured.receptive_field == traced.receptive_field
        assert measured.output_offset == traced.output_offset
    for number, axis in enumerate(generic.axes):
        for seen, output in zip(axis.outputs, geometry.outputs, strict=True):
            assert seen.support == output.axes[number].support


@settings(deadline=None, max_examples=6, phases=PHASES)
@given(st.data())
def test_u_nets_are_what_was_traced(data):
    ndim = data.draw(st.sampled_from([2, 2, 3]))
    levels = data.draw(st.integers(1, 2))
    torch.manual_seed(data.draw(st.integers(0, 100)))
    net = UNet(
        ndim=ndim, in_channels=data.draw(st.integers(1, 2)), levels=levels,
        factors=data.draw(factors(ndim, levels)), base_channels=2, growth=1,
        padding=data.draw(st.sampled_from(["valid", "same"])),
        upsampling=data.draw(st.sampled_from(["learnt", "nearest"])), heads={"embedding": 2},
        convs_per_level=1,
    )  # fmt: skip
    geometry = analyse(net, ndim=ndim, channels=_channels(net))
    own, generic = both(net, geometry)
    assert own.contradictions == generic.contradictions == own.skipped == ()
    assert generic.equal
    assert [axis.context for axis in generic.axes] == list(geometry.context)
    assert [axis.period for axis in generic.axes] == list(geometry.period)
    assert [axis.output_offset for axis in generic.axes] == list(geometry.output_offset)


def _channels(net):
    return next(p.shape[1] for p in net.parameters() if p.dim() > 1)


torch.manual_seed(1)
PADDED = UNet(
    ndim=2, in_channels=1, levels=2, base_channels=2, padding="same", heads={"embedding": 2}
)
VALID = UNet(
    ndim=2, in_channels=1, levels=2, base_channels=2, padding="valid", heads={"embedding": 2}
)


@functools.cache
def geometry_of(net: nn.Module) -> NetworkGeometry:
    """Of a network of two dimensions that several tests have."""
    return analyse(net, ndim=2, channels=1)


def altered(geometry: NetworkGeometry, number: int, *, output=None, **joint) -> NetworkGeometry:
    """The geometry with other facts along one axis."""
    axes = list(geometry.axes)
    axes[number] = replace(axes[number], **joint)
    outputs = []
    for each in geometry.outputs:
        own = list(each.axes)
        own[number] = replace(own[number], **(output or {}))
        outputs.append(replace(each, axes=tuple(own)))
    return replace(geometry, axes=tuple(axes), outputs=tuple(outputs))


def shortened(geometry, number, before, after):
    first, last = geometry.axes[number].context
    return (first - before, last - after)


WRONG = {
    "context before": lambda g: altered(g, 1, context=shortened(g, 1, 1, 0)),
    "context after": lambda g: altered(g, 1, context=shortened(g, 1, 0, 1)),
    "context of an output": lambda g: altered(
        g, 0, output={"context": shortened(g, 0, 1, 0)}
    ),
    "receptive field": lambda g: altered(g, 0, receptive_field=g.receptive_field[0] - 1),
    "receptive field of an output": lambda g: altered(
        g, 1, output={"receptive_field": g.receptive_field[1] - 1}
    ),
    "period": lambda g: altered(g, 0, period=g.period[0] // 2),
    "offset": lambda g: altered(g, 1, output_offset=g.output_offset[1] + 1),
    "offset of an output": lambda g: altered(g, 1, output={"offset": 3}),
    "start": lambda g: altered(g, 1, output={"start": 1}),
    "shrinkage": lambda g: altered(g, 1, shrinkage=g.axes[1].shrinkage + 1),
    "shrinkage of an output": lambda g: altered(
        g, 1, output={"shrinkage": g.outputs[0].axes[1].shrinkage + 1}
    ),
    "scale": lambda g: altered(g, 0, output={"scale": Fraction(1, 2)}),
    "first voxels": lambda g: altered(
        g, 0, output={"support": moved(g.outputs[0].axes[0].support, 1, 0)}
    ),
    "last voxels": lambda g: altered(
        g, 0, output={"support": moved(g.outputs[0].axes[0].support, 0, 1)}
    ),
    "all of it": lambda g: altered(
        g, 1,
        context=shortened(g, 1, 1, 0), receptive_field=g.receptive_field[1] - 1,
        output={
            "support": moved(g.outputs[0].axes[1].support, 1, 0), "context": shortened(g, 1, 1, 0),
            "receptive_field": g.receptive_field[1] - 1,
        },
    ),
    "one phase": lambda g: altered(
        g, 0, output={"support": (None, *g.outputs[0].axes[0].support[1:])}
    ),
    "sizes": lambda g: altered(g, 1, input_step=g.axes[1].input_step // 2),
    "least size": lambda g: altered(g, 1, input_min=g.axes[1].input_min - 1),
}  # fmt: skip


def moved(support, first, last):
    return tuple(None if s is None else (s[0] + first, s[1] - last) for s in support)


@pytest.mark.parametrize("net", [PADDED, VALID], ids=["padded", "valid"])
@pytest.mark.parametrize("fact", WRONG)
def test_every_wrong_fact_is_caught(fact, net):
    geometry = geometry_of(net)
    wrong = WRONG[fact](geometry)
    assert wrong != geometry
    found = probe(runner(positive_weights(net)), wrong, positive=True)
    assert found.contradictions, fact
    torch.manual_seed(0)
    assert probe(runner(net), wrong, thorough=False).contradictions, fact
    assert all(text.startswith("along ") for text in found.contradictions)


class Gathered(nn.Module):
    """Not local at all, in a way that stays below what a glance at the middle shows."""

    def forward(self, x):
        return x + 1e-6 * x.mean((2, 3), keepdim=True)


def test_what_is_far_away_is_seen_however_little_it_adds():
    local = nn.Conv2d(1, 1, 3, padding=1)
    geometry = analyse(local, ndim=2, channels=1)
    found = probe(runner(nn.Sequential(local, Gathered())), geometry)
    assert any("responds to voxel" in text for text in found.contradictions)


def test_a_wider_trace_is_said_to_be_wider_and_no_contradiction():
    wide, narrow = nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 3, padding=1)
    geometry = analyse(wide, ndim=2, channels=1)
    found = probe(runner(positive_weights(narrow)), geometry, positive=True)
    assert found.contradictions == ()
    assert not found.equal
    assert any("receptive field measured 3, traced 5" in text for text in found.wider)
    assert any("phase 0 responds at most to voxel -1" in text for text in found.wider)


def test_float32_rounding_contradicts_nothing():
    torch.manual_seed(0)
    net = UNet(
        ndim=2, in_channels=1, levels=3, base_channels=8, padding="same", heads={"embedding": 2}
    )
    geometry = analyse(net, ndim=2, channels=1)

    def run(batch):
        assert batch.dtype == np.float32
        with torch.inference_mode():
            return (net(torch.from_numpy(batch)).numpy(),)

    assert probe(run, geometry, dtype=np.float32).contradictions == ()


def test_what_needs_too_much_memory_is_skipped_aloud():
    geometry = geometry_of(PADDED)
    found = probe(
        runner(PADDED), geometry, bytes_needed=lambda shape: 8 * int(np.prod(shape)), max_bytes=10
    )
    assert found.axes == ()
    assert len(found.skipped) == 2
    assert "GB are allowed" in found.skipped[0]
    assert not found.equal


def test_outputs_of_other_scales_and_starts():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3)
            self.more = nn.ConvTranspose2d(2, 1, 2, 2)

        def forward(self, x):
            x = self.fine(x)
            return x, self.coarse(nn.functional.max_pool2d(x, 2)), self.more(x)

    geometry = analyse(Heads(), ndim=2, channels=1)
    assert geometry.verdict == "safe"
    own, generic = both(Heads(), geometry)
    assert own.contradictions == ()
    assert generic.equal, generic
    assert [str(o.scale) for o in generic.axes[0].outputs] == ["1", "1/2", "2"]


def test_a_network_that_takes_one_size_is_measured_inside_it_or_skipped_aloud():
    geometry = geometry_of(PADDED)
    fixed = altered(geometry, 1, input_min=64, input_step=0)
    found = probe(runner(PADDED), fixed)
    assert found.contradictions == found.skipped == ()
    assert found.axes[1].input_size == 64
    wrong = altered(fixed, 1, context=shortened(fixed, 1, 1, 0))
    assert probe(runner(PADDED), wrong).contradictions
    small = altered(geometry, 1, input_min=32, input_step=0)
    found = probe(runner(PADDED), small)
    assert [axis.axis for axis in found.axes] == ["y"]
    assert "the only size that the network takes, 32" in found.skipped[0]


def test_a_network_that_never_gives_the_same_twice_contradicts_nothing():
    geometry, inner = geometry_of(VALID), runner(VALID)
    rng = np.random.default_rng(0)

    def run(batch):
        return tuple(y + 1e-6 * rng.standard_normal(y.shape) for y in inner(batch))

    assert probe(run, geometry).contradictions == ()


def test_a_valid_size_that_is_refused_is_a_contradiction():
    geometry, inner = geometry_of(VALID), runner(VALID)

    def run(batch):
        if batch.shape[2] > geometry.input_min[0]:
            raise ValueError("too large for me")
        return inner(batch)

    found = probe(run, geometry)
    assert any("too large for me" in text for text in found.contradictions)


def test_what_gives_no_numbers_is_not_said_to_be_measured():
    geometry = geometry_of(VALID)
    found = probe(lambda batch: tuple(np.nan * y for y in runner(VALID)(batch)), geometry)
    assert "no finite numbers" in found.skipped[0]
    assert not found.equal


CONV = nn.Conv2d(1, 1, 3, padding=1)


def striped(batch, y):
    return y * (1 + 0.1 * (np.arange(y.shape[3]) % 2))


def dim_at_the_beginning(batch, y):
    return y * np.where(np.arange(y.shape[3]) < 3, 0.5, 1)


def dim_at_the_end(batch, y):
    return y * np.where(np.arange(y.shape[3])[::-1] < 3, 0.5, 1)


def other_at_odd_sizes(batch, y):
    return -y if batch.shape[3] % 2 else y


class Halving(nn.Module):
    """Pools and comes back, cut to the size of what came in, so that odd sizes are valid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        skip = self.first(x)
        up = nn.functional.interpolate(
            nn.functional.max_pool2d(skip, 2, ceil_mode=True), scale_factor=2
        )
        return self.last(torch.cat([skip, up[..., : x.shape[2], : x.shape[3]]], 1))


@pytest.mark.parametrize(
    ("spoil", "net", "words"),
    [
        (striped, CONV, "begins 1 voxels later"),
        (dim_at_the_beginning, CONV, "goes on before it"),
        (dim_at_the_end, CONV, "goes on behind it"),
        (other_at_odd_sizes, Halving(), "voxels and one of"),
    ],
)
def test_what_no_support_shows_is_seen_in_windows(spoil, net, words):
    geometry, inner = geometry_of(net), runner(net)
    assert probe(inner, geometry).contradictions == ()
    found = probe(lambda batch: tuple(spoil(batch, y) for y in inner(batch)), geometry)
    assert any(words in text for text in found.contradictions), found.contradictions
    assert all(text.startswith("along x") for text in found.contradictions)
