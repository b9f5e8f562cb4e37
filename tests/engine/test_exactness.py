"""The promise: a stitched field equals one pass over the whole volume, border included."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from stitching import field_maker, own_pass, relative_error, stitched
from strategies import Case, analysing, shapes, unet_cases

from stitchsafe.coordinates import Roi
from stitchsafe.errors import PlanError
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet


def random_volume(case: Case, precision: str) -> np.ndarray:
    return (
        np.random.default_rng(case.seed).normal(size=(case.channels, *case.shape)).astype(precision)
    )


@settings(analysing(), max_examples=settings.default.max_examples // 2)
@given(case=unet_cases(), data=st.data(), precision=st.sampled_from(["float64", "float32"]))
def test_stitched_equals_whole(case, data, precision):
    """Three volumes for each network, of which the analysis takes by far the longest."""
    network = TorchNetwork(case.network(getattr(torch, precision)))
    period = network.geometry.period
    for shape in (case.shape, *(data.draw(shapes(len(period)), label="shape") for _ in range(2))):
        counts = [data.draw(st.integers(1, 4), label="tiles") for _ in period]
        tile = tuple(
            p * max(1, -(-extent // (count * p)))
            for p, extent, count in zip(period, shape, counts, strict=True)
        )
        border = data.draw(st.sampled_from(["reflect", "edge", "zero"]), label="border")
        volume = random_volume(replace(case, shape=shape), precision)
        maker = field_maker(network, volume, tile, border=border, precision=precision)
        error = relative_error(stitched(maker), own_pass(maker)[0]["output"])
        assert error <= (1e-12 if precision == "float64" else 1e-5)


def test_the_whole_pass_is_the_networks_own_pass_over_the_extended_volume():
    """The reference is not the engine's own invention: pad with numpy, run the module."""
    torch.manual_seed(0)
    module = UNet(ndim=2, levels=2, base_channels=4).double().eval()
    volume = np.random.default_rng(0).normal(size=(1, 21, 34))
    maker = field_maker(module, volume, (8, 8))
    (top, bottom), (left, right) = (axis.domain for axis in maker.grid.axes)
    extended = np.pad(volume[0], ((-top, bottom - 21), (-left, right - 34)), mode="reflect")
    with torch.no_grad():
        expected = module(torch.from_numpy(extended)[None, None])[0, :, :21, :34].numpy()
    np.testing.assert_allclose(maker.whole()["output"], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(stitched(maker), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("ndim", "levels", "stride", "tiles", "expected"),
    [
        (2, 3, 8, 4, 0), (2, 3, 16, 3, 0), (2, 3, 24, 2, 0),
        (2, 3, 12, 4, 0.750), (2, 3, 20, 5, 0.640), (2, 3, 6, 15, 0.929), (2, 3, 18, 5, 0.840),
        (2, 3, 28, 3, 0.556),
        (3, 2, 8, 2, 0), (3, 2, 6, 2, 0.875),
        # With 27 tiles in place of 8.
        pytest.param(3, 2, 4, 3, 0, marks=pytest.mark.slow),
        pytest.param(3, 2, 10, 3, 0.704, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_wrong_crop_fails_as_the_theory_says(ndim, levels, stride, tiles, expected):
    """Of `tiles` strides per axis, those off the period's grid differ: 1 - (aligned fraction)^d."""
    torch.manual_seed(1)
    module = UNet(ndim=ndim, levels=levels, base_channels=8).double().eval()
    period, context = 2**levels, {3: 44, 2: 20}[levels]

    def natural(output: int) -> int:
        """Input whose uncropped output, 4 modulo the period, holds `output` voxels."""
        return 4 + max(0, -(-(output - 4) // period) * period) + 2 * context

    size = natural((tiles - 1) * stride + natural(stride) - 2 * context)
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, *[size] * ndim)))
    different = 0
    with torch.no_grad():
        whole = module(volume)[0]
        rounding = 1e-12 * whole.abs().max()
        for corner in np.ndindex(*[tiles] * ndim):
            starts = [index * stride for index in corner]
            tile = volume[(..., *(slice(s, s + natural(stride)) for s in starts))]
            crop = module(tile)[0][(..., *[slice(0, stride)] * ndim)]
            target = whole[(..., *(slice(s, s + stride) for s in starts))]
            different += int(((crop - target).abs().amax(0) > rounding).sum())
    assert different / (tiles * stride) ** ndim == pytest.approx(expected, abs=5e-4)


def test_a_larger_halo_off_the_lattice_is_refused_and_would_be_wrong():
    torch.manual_seed(0)
    module = UNet(ndim=2, levels=2, base_channels=4).double().eval()
    volume = np.random.default_rng(0).normal(size=(1, 40, 40))
    exact = field_maker(module, volume, (8, 8))
    (before, after), _ = exact.grid.halo
    with pytest.raises(PlanError, match="off the network's lattice"):
        field_maker(module, volume, (8, 8), halo=((before + 1, after + 3),) * 2)
    # On the lattice a larger halo is as exact as the least.
    larger = field_maker(module, volume, (8, 8), halo=((before + 4, after + 8),) * 2)
    np.testing.assert_allclose(stitched(larger), stitched(exact), rtol=0, atol=1e-13)
    # What is refused would have been wrong: shift the reading by one voxel.
    shifted = field_maker(module, np.roll(volume, 1, axis=(1, 2)), (8, 8))
    found = np.roll(stitched(shifted), -1, axis=(1, 2))[:, 8:-8, 8:-8]
    assert np.abs(found - stitched(exact)[:, 8:-8, 8:-8]).max() > 1e-3


@pytest.mark.parametrize("size", [(31, 43), (32, 44), (17, 9)])
@pytest.mark.parametrize(
    "pool",
    [
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        torch.nn.Conv2d(2, 2, 3, 2, 1, padding_mode="reflect"),
    ],
)
def test_a_padded_network_gives_its_own_pass_at_any_size_that_it_takes(pool, size):
    """No extension, no border rule: just the module on the array, odd sizes too."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = torch.nn.Conv2d(1, 2, 3, padding=1), pool
            self.last = torch.nn.Conv2d(4, 2, 3, padding=2, dilation=2)

        def forward(self, x):
            skip = self.first(x).relu()
            up = torch.nn.functional.interpolate(self.pool(skip), scale_factor=2)
            return self.last(torch.cat([skip, up[..., : skip.shape[2], : skip.shape[3]]], 1))

    torch.manual_seed(0)
    module = Network().double().eval()
    volume = np.random.default_rng(0).normal(size=(1, *size))
    with torch.no_grad():
        expected = module(torch.from_numpy(volume)[None])[0].numpy()
    found = stitched(field_maker(module, volume, (8, 8)))
    assert relative_error(found, expected) <= 1e-12


def test_blocks_do_not_reach_the_arithmetic():
    """Bytes, not tolerances: block shapes and the ROI change nothing."""
    torch.manual_seed(0)
    module = UNet(ndim=3, levels=1, factors=[(1, 2, 2)], base_channels=2).eval()
    volume = np.random.default_rng(0).normal(size=(1, 9, 30, 25)).astype(np.float32)
    maker = field_maker(module, volume, (4, 8, 8), precision="float32")
    reference = stitched(maker)
    for block in [(4, 8, 16), (8, 16, 8), (12, 32, 32), (4, 32, 8), (8, 8, 24)]:
        np.testing.assert_array_equal(stitched(maker, block), reference)
    roi = Roi((2, 5, 3), (6, 20, 17))
    part = field_maker(module, volume, (4, 8, 8), precision="float32")
    part.recipe = replace(part.recipe, roi=roi)
    inside = stitched(part)
    np.testing.assert_array_equal(
        inside[(slice(None), *roi.slices)], reference[(slice(None), *roi.slices)]
    )
    assert np.isnan(inside).sum() == inside.size - inside.shape[0] * roi.size
