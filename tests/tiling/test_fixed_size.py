"""Networks that take one input size only: tiles of that size, sliding inward at the border."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from stitching import field_maker, relative_error, stitched_fields
from strategies import Case, analysing, known_unet_cases, unet_cases
from torch import nn

import stitchsafe
from stitchsafe.errors import PlanError
from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet
from stitchsafe.tiling import AxisTiling


class OneSize(nn.Module):
    """A module that refuses every input but those of one spatial shape."""

    def __init__(self, inner: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, x):
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"the input is {tuple(x.shape[2:])}, not {self.size}")
        return self.inner(x)


class FixedNetwork(TorchNetwork):
    """A module of one size, with the geometry of its layers."""

    def __init__(self, free: TorchNetwork, size: tuple[int, ...]) -> None:
        super().__init__(OneSize(free.module, size))
        axes = [
            replace(axis, input_min=only, input_step=0)
            for axis, only in zip(free.geometry.axes, size, strict=True)
        ]
        graph = super().trace(size)
        self.fixed = replace(free.geometry, axes=tuple(axes), program=graph.program)

    @property
    def geometry(self) -> NetworkGeometry:
        return self.fixed


def fixed_sizes(geometry: NetworkGeometry, spare: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes that hold one period with its context, and `spare` more periods."""
    sizes = []
    for axis, more in zip(geometry.axes, spare, strict=True):
        before = axis.context[0] + (axis.output_offset - axis.context[0]) % axis.period
        least = before + axis.period + axis.context[1]
        size = axis.input_min
        while size < least + more * axis.period:
            size += axis.input_step
        sizes.append(size)
    return tuple(sizes)


@pytest.mark.parametrize(
    "cases", [known_unet_cases(), pytest.param(unet_cases(), marks=pytest.mark.slow)], ids=str
)
@analysing()
@given(data=st.data(), border=st.sampled_from(["reflect", "edge", "zero"]))
def test_stitched_from_one_size_equals_the_same_layers_over_the_whole(cases, data, border) -> None:
    case: Case = data.draw(cases, label="case")
    free = case.analysed()
    spare = tuple(data.draw(st.integers(0, 3), label="spare") for _ in case.shape)
    size = fixed_sizes(free.geometry, spare)
    assume(np.prod(size) <= 4 * 120**2)
    network = FixedNetwork(free, size)
    tile = []
    for axis, extent in zip(network.geometry.axes, case.shape, strict=True):
        most = AxisTiling.largest_tile(axis, extent)
        assert most is None or (most > 0 and most % axis.period == 0)
        tile.append(axis.period * max(1, extent // axis.period) if most is None else most)
    volume = np.random.default_rng(case.seed).normal(size=(case.channels, *case.shape))
    maker = field_maker(network, volume, tuple(tile), border=border)
    found = stitched_fields(maker)["output"]
    # Whole: the same layers without the check, over the domain of the fixed network.
    reference = field_maker(free, volume, tuple(tile), border=border)
    reference.grid = maker.grid
    assert relative_error(found, reference.whole()["output"]) <= 1e-12
    # Every input is of the one size, within the domain, and on the lattice.
    for axis in maker.grid.axes:
        first, last = axis.domain
        for start in axis.starts:
            span = axis.span(start)
            assert span.end - span.begin == axis.geometry.input_min
            assert first <= span.begin
            assert span.end <= last
            assert (span.begin - first) % axis.geometry.period == 0


@pytest.fixture(scope="module")
def padded() -> TorchNetwork:
    torch.manual_seed(0)
    return TorchNetwork(UNet(ndim=2, levels=1, base_channels=2, padding="same", heads={"a": 2}))


OPTIONS = {"save": "fields", "threads": 1, "max_memory": 10**10}


def test_predict_takes_the_largest_tile_that_fits(padded: TorchNetwork) -> None:
    module, axis = padded.module, padded.geometry.axes[0]
    network = FixedNetwork(padded, (32, 48))
    image = np.random.default_rng(0).normal(size=(71, 90)).astype(np.float32)
    made = stitchsafe.predict(image, network, **OPTIONS)
    margin = axis.context[0] + -axis.context[0] % axis.period + axis.context[1]
    expected = tuple((size - margin) // axis.period * axis.period for size in (32, 48))
    assert made.plan.recipe.tile_shape == expected
    volume = np.pad(image, [(0, 1), (0, 0)], "reflect")
    with torch.no_grad():
        whole = module(torch.from_numpy(volume)[None, None])[0, :, :71].numpy()
    found = made.fields["output"]
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
    assert made.plan.redundancy > 1


def test_a_volume_below_the_size_is_extended_to_it(padded: TorchNetwork) -> None:
    image = np.random.default_rng(0).normal(size=(20, 11)).astype(np.float32)
    made = stitchsafe.predict(image, FixedNetwork(padded, (32, 16)), **OPTIONS)
    with torch.no_grad():
        volume = torch.from_numpy(np.pad(image, [(0, 12), (0, 5)], "reflect"))
        whole = padded.module(volume[None, None])[0, :, :20, :11].numpy()
    np.testing.assert_allclose(made.fields["output"], whole, rtol=0, atol=1e-6)


def test_verify_predicts_from_other_tiles_of_that_size(tmp_path, padded: TorchNetwork) -> None:
    network = FixedNetwork(padded, (32, 48))
    image = np.random.default_rng(0).normal(size=(71, 90)).astype(np.float32)
    made = stitchsafe.predict(image, network, tmp_path / "out.zarr", **OPTIONS)
    found = stitchsafe.verify(made.out, volume=image, model=network)
    assert found.ok, found.describe()
    assert found.voxels > 0


def test_what_does_not_fit_the_size_is_refused(padded: TorchNetwork) -> None:
    image = np.random.default_rng(0).normal(size=(71, 90)).astype(np.float32)
    network = FixedNetwork(padded, (32, 48))
    axis = network.geometry.axes[0]
    most = AxisTiling.largest_tile(axis, 71)
    with pytest.raises(PlanError, match=rf"do not fit the one input size.*--tile-shape {most},20"):
        stitchsafe.predict(image, network, tile_shape=(most + axis.period, 20), **OPTIONS)
    narrow = FixedNetwork(padded, (32, 8))
    with pytest.raises(PlanError, match="inputs of 8 voxels only, too few for one period"):
        stitchsafe.predict(image, narrow, **OPTIONS)
    made = stitchsafe.predict(image, narrow, accept_inexact=True, **OPTIONS)
    assert made.to_json()["exact"] is False
    assert [each.op for each in made.breaks] == ["input"]
    with torch.no_grad():
        volume = torch.from_numpy(np.pad(image, [(0, 1), (0, 0)], "reflect"))
        whole = narrow.module.inner(volume[None, None])[0, :, :71].numpy()
    assert np.abs(made.fields["output"] - whole).max() > 1e-3
    # As long as one pass holds the volume, there is no tile to fit.
    made = stitchsafe.predict(image[:, :8], narrow, **OPTIONS)
    assert made.fields["output"].shape == (2, 71, 8)
