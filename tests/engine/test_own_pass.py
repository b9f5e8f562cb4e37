"""Fields against the module's own pass over the plain volume, which no tile has a part in.

Outputs that are larger than the input, or rounded up, have nothing cut off the volume, and nothing
added to it: element 0 lies at voxel 0, and what lies beyond the volume is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.strategies import DrawFn
from stitching import field_maker, own_pass, relative_error, stitched, stitched_fields
from torch import nn

from stitchsafe.coordinates import Roi
from stitchsafe.geometry import agrees, probe
from stitchsafe.networks import TorchNetwork


def one(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 1, 1), *layers)


# What each makes of a volume, and the element of its own pass that lies at voxel 0.
LARGER = {
    "convolution": (lambda: one(nn.Conv2d(1, 1, 3, padding=2)), Fraction(1), 1),
    "two convolutions": (
        lambda: one(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding=3)), Fraction(1), 1,
    ),
    "transposed": (lambda: one(nn.ConvTranspose2d(1, 1, 3)), Fraction(1), 1),
    "reflection": (
        lambda: one(nn.ReflectionPad2d(4), nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)), Fraction(1), 2,
    ),
    "convolutions, twice as fine": (
        lambda: one(
            nn.Conv2d(1, 1, 3, padding=2), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1),
            nn.ConvTranspose2d(1, 1, 2, stride=2),
        ), Fraction(2), 2,
    ),
    "transposed by 2": (lambda: one(nn.ConvTranspose2d(1, 1, 3, stride=2)), Fraction(2), 0),
    "transposed by 2, of 6": (lambda: one(nn.ConvTranspose2d(1, 1, 6, stride=2)), Fraction(2), 2),
    "strided by 2, of 5": (
        lambda: one(nn.Conv2d(1, 1, 5, stride=2, padding=3)), Fraction(1, 2), 0,
    ),
    "strided by 2, of 9": (
        lambda: one(nn.Conv2d(1, 1, 9, stride=2, padding=6)), Fraction(1, 2), 1,
    ),
    "maxima, rounded up": (
        lambda: one(nn.MaxPool2d(3, 2, 1, ceil_mode=True)), Fraction(1, 2), 0,
    ),
    "averages, rounded up": (
        lambda: one(nn.AvgPool2d(3, 2, 1, ceil_mode=True)), Fraction(1, 2), 0,
    ),
    "maxima of pairs, rounded up": (
        lambda: one(nn.MaxPool2d(2, ceil_mode=True)), Fraction(1, 2), 0,
    ),
    "strided by 2": (lambda: one(nn.Conv2d(1, 1, 3, stride=2, padding=1)), Fraction(1, 2), 0),
    "strided by 4": (lambda: one(nn.Conv2d(1, 1, 3, stride=4, padding=1)), Fraction(1, 4), 0),
    "down by 4 and up again": (
        lambda: one(
            nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(1, 1, 3, stride=2, padding=1),
            nn.Upsample(scale_factor=4), nn.Conv2d(1, 1, 3, padding=1),
        ), Fraction(1), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGER)
def test_a_field_is_the_modules_own_pass_whatever_the_size(name) -> None:
    make, scale, start = LARGER[name]
    torch.manual_seed(0)
    module = make().double().eval()
    network = TorchNetwork(module)
    for axis in network.geometry.axes:
        assert axis.input_step == 1
        assert (axis.output_offset, axis.shrinkage) == (0, 0)
    for size in [(40, 50), (41, 51), (42, 53), (7, 43)]:
        volume = np.random.default_rng(1).normal(size=(1, *size))
        with torch.inference_mode():
            own = module(torch.from_numpy(volume)[None])[0].numpy()
        rows, columns = (int(np.ceil(n * scale)) for n in size)
        expected = own[:, start : start + rows, start : start + columns]
        for tile in (8, 16, 64):
            found = stitched(field_maker(network, volume, (tile, tile)))
            assert relative_error(found, expected) <= 1e-12
        agrees(network.geometry, network.trace(size), whole=(True, True))


@pytest.mark.parametrize("name", ["convolution", "maxima, rounded up", "strided by 2, of 9"])
def test_the_probe_measures_what_was_traced_of_larger_outputs(name) -> None:
    torch.manual_seed(0)
    network = TorchNetwork(LARGER[name][0]().double().eval())
    seen = probe(network.run, network.geometry, dtype=np.float64)
    assert not seen.contradictions


def test_a_size_that_leaves_voxels_without_an_element_is_extended() -> None:
    """Pairs of an odd number of voxels lack one: there the border rule speaks."""
    module = one(nn.MaxPool2d(2)).double().eval()
    volume = np.random.default_rng(1).normal(size=(1, 41, 50))
    maker = field_maker(module, volume, (8, 8))
    whole, extended = own_pass(maker)
    assert extended == ((0, 1), (0, 0))
    assert relative_error(stitched(maker), whole["output"]) <= 1e-12


@dataclass(frozen=True)
class Layer:
    kind: str
    kernel: int
    stride: int
    padding: int

    def module(self) -> nn.Module:
        k, s, p = self.kernel, self.stride, self.padding
        return {
            "conv": lambda: nn.Conv2d(1, 1, k, s, p),
            "reflect": lambda: nn.Conv2d(1, 1, k, s, p, padding_mode="reflect"),
            "transposed": lambda: nn.ConvTranspose2d(1, 1, k, s, min(p, k - 1)),
            "max": lambda: nn.MaxPool2d(k, s, min(p, k // 2)),
            "max, up": lambda: nn.MaxPool2d(k, s, min(p, k // 2), ceil_mode=True),
            "average": lambda: nn.AvgPool2d(k, s, min(p, k // 2), count_include_pad=False),
            "average, up": lambda: nn.AvgPool2d(k, s, min(p, k // 2), ceil_mode=True),
        }[self.kind]()


@st.composite
def layers(draw: DrawFn) -> Layer:
    kinds = ["conv", "reflect", "transposed", "max", "max, up", "average", "average, up"]
    return Layer(
        draw(st.sampled_from(kinds)), draw(st.integers(1, 4)), draw(st.integers(1, 3)),
        draw(st.integers(0, 4)),
    )  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(
    chain=st.lists(layers(), min_size=1, max_size=4), size=st.tuples(*[st.integers(13, 45)] * 2),
    count=st.integers(1, 5), data=st.data(), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_random_chains_give_their_own_pass(chain, size, count, data, seed) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(*(layer.module() for layer in chain)).double().eval()
    network = TorchNetwork(module, ndim=2, channels=1)
    assume(network.geometry.verdict == "safe")
    tile = tuple(count * period for period in network.geometry.period)
    low = [data.draw(st.integers(0, n - 1)) for n in size]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, size, strict=True)]
    roi = Roi.from_bounds(low, high)
    volume = np.random.default_rng(seed).normal(size=(1, *size))
    maker = field_maker(network, volume, tile, roi=roi)
    whole, extended = own_pass(maker)
    for axis, n, (_, after) in zip(network.geometry.axes, size, extended, strict=True):
        if axis.takes(n) and axis.output_size(n) >= n:
            assert after == 0
    (field,) = maker.recipe.fields
    inside = (slice(None), *field.elements(roi).slices)
    found = stitched_fields(maker)["output"][inside]
    assert not np.isnan(found).any()
    assert np.abs(found - whole["output"][inside]).max() <= 1e-12 * max(
        np.abs(whole["output"]).max(), 1e-30
    )
