"""Networks whose smallest input is large, over volumes that are smaller along some axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import stitchsafe
from stitchsafe.errors import PlanError
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet

LEAST = 96
OPTIONS = {"save": "fields", "threads": 1, "max_memory": 10**10}
MODES = {"reflect": "reflect", "edge": "edge", "zero": "constant"}


class AtLeast(nn.Module):
    """Layers that would take less, behind a check of the size."""

    def __init__(self, padding: str, least: int = LEAST) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = UNet(ndim=2, levels=2, base_channels=2, padding=padding, heads={"x": 2})
        for parameter in self.inner.parameters():
            nn.init.normal_(parameter, std=0.5 if parameter.ndim > 1 else 0.1)
        self.least = least

    def forward(self, x):
        if min(x.shape[2:]) < self.least:
            raise ValueError(f"at least {self.least} voxels, please")
        return self.inner(x)


@pytest.fixture(scope="module", params=["same", "valid"])
def network(request: pytest.FixtureRequest) -> TorchNetwork:
    return TorchNetwork(AtLeast(request.param).double())


def whole(network: TorchNetwork, volume: np.ndarray, border: str) -> np.ndarray:
    """One pass over the volume, extended to the next size that the network takes."""
    margins = []
    for axis, size in zip(network.geometry.axes, volume.shape, strict=True):
        extended = axis.input_min
        while extended < size + axis.shrinkage:
            extended += axis.input_step
        margins.append((axis.output_offset, extended - size - axis.output_offset))
    # Reflection over more than the volume itself goes on as a reflection of what is reflected.
    padded = np.pad(volume, margins, MODES[border])  # type: ignore[call-overload]
    with torch.no_grad():
        field = network.module(torch.from_numpy(padded)[None, None])[0].numpy()
    return field[:, : volume.shape[0], : volume.shape[1]]


@pytest.mark.parametrize(
    ("border", "tile"),
    [("reflect", None), ("reflect", (8, 12)), ("edge", (8, 12)), ("zero", (300, 12))],
)
@pytest.mark.parametrize("shape", [(20, 33), (130, 21), (97, 100), (5, 230)])
def test_stitched_equals_the_pass_over_the_extended_volume(
    network: TorchNetwork, shape: tuple[int, int], tile: tuple[int, int] | None, border: str
) -> None:
    assert network.geometry.verdict == "safe"
    assert min(axis.input_min for axis in network.geometry.axes) >= LEAST
    volume = np.random.default_rng(0).normal(size=shape)
    made = stitchsafe.predict(volume, network, border=border, tile_shape=tile, **OPTIONS)
    assert (made.plan.tiles == 1) is (tile is None)
    expected = whole(network, volume, border)
    assert np.abs(made.fields["output"] - expected).max() <= 1e-12 * np.abs(expected).max()


def test_cropping_keeps_what_has_full_context(network: TorchNetwork) -> None:
    volume = np.random.default_rng(0).normal(size=(70, 140))
    made = stitchsafe.predict(volume, network, border="crop", tile_shape=(8, 12), **OPTIONS)
    roi = made.plan.recipe.roi
    assert 0 < roi.shape[0] < 70
    expected = whole(network, volume, "edge")[(slice(None), *roi.slices)]
    np.testing.assert_array_equal(expected, whole(network, volume, "zero")[:, *roi.slices])
    assert np.abs(made.fields["output"] - expected).max() <= 1e-12 * np.abs(expected).max()
    with pytest.raises(PlanError, match="--border crop nothing is left"):
        stitchsafe.plan(volume[:20], network, border="crop", **OPTIONS)


def test_it_is_said_and_verified(tmp_path, capsys) -> None:
    from heard import Heard

    network, heard = TorchNetwork(AtLeast("same").double()), Heard()
    volume = np.random.default_rng(0).normal(size=(20, 130))
    made = stitchsafe.predict(
        volume, network, tmp_path / "out.zarr", tile_shape=(8, 12), events=heard, **OPTIONS
    )
    assert f"extended from 20 x 130 to {LEAST} x 132 by the border rule reflect" in heard
    found = stitchsafe.verify(made.out, volume=volume, model=network)
    assert found.ok, found.describe()
