"""Networks of several inputs: the channels of one volume, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import stitchsafe
from stitchsafe.errors import VolumeError
from stitchsafe.networks import TorchNetwork

OPTIONS = {"save": "fields", "threads": 1, "max_memory": 10**10}


class TwoInputs(nn.Module):
    """An image of one channel and a guide of two, of which the guide is pooled first."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.guide = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(2, 3, 5, padding=2)
        self.last = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, image, guide):
        coarse = nn.functional.max_pool2d(self.guide(guide), 2)
        up = nn.functional.interpolate(coarse, scale_factor=2)
        both = torch.cat([self.image(image).relu(), up], 1)
        return self.last(both), coarse


@pytest.fixture(scope="module")
def network() -> TorchNetwork:
    torch.manual_seed(0)
    return TorchNetwork(TwoInputs().double(), ndim=2, channels=(1, 2))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 46, 38))


def test_a_volume_of_as_many_channels_is_split(tmp_path: Path, network, volume) -> None:
    assert (network.channels, network.geometry.verdict) == (3, "safe")
    made = stitchsafe.predict(
        volume, network, tmp_path / "out.zarr", axes="cyx", tile_shape=(8, 12), **OPTIONS
    )
    plain = stitchsafe.predict(volume, network, axes="cyx", tile_shape=(8, 12), **OPTIONS)
    with torch.no_grad():
        tensor = torch.from_numpy(volume)[None]
        expected = network.module(tensor[:, :1], tensor[:, 1:])
    for field, whole in zip(plain.fields.values(), expected, strict=True):
        assert field.shape == whole.shape[1:]
        assert np.abs(field - whole[0].numpy()).max() <= 1e-12 * np.abs(whole.numpy()).max()
    found = stitchsafe.verify(made.out, volume=volume, model=network)
    assert found.ok, found.describe()


def test_another_number_of_channels_is_refused(network, volume) -> None:
    with pytest.raises(
        VolumeError, match=r"has 2 channels.*takes 3 \(1 for 'input', 2 for 'input1'"
    ):
        stitchsafe.predict(volume[:2], network, axes="cyx", **OPTIONS)
