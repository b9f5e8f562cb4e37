"""Which kernels compute convolutions, and how their tensors lie in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from stitchsafe.networks import Runtime, TorchNetwork
from stitchsafe.networks._kernels import channels_last
from stitchsafe.nn import UNet


def operators(network: TorchNetwork, batch: np.ndarray) -> dict[str, int]:
    network.run(batch)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        network.run(batch)
    return {event.key: event.count for event in seen.key_averages()}


def network_and_input(**arguments) -> tuple[TorchNetwork, np.ndarray]:
    torch.manual_seed(0)
    module = UNet(ndim=3, levels=1, base_channels=4, convs_per_level=2, **arguments)
    batch = np.random.default_rng(0).normal(size=(1, 1, 36, 36, 36)).astype(np.float32)
    return TorchNetwork(module), batch


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("upsampling", ["learnt", "nearest"])
def test_every_convolution_in_three_dimensions_takes_the_fast_kernels(padding, upsampling) -> None:
    network, batch = network_and_input(padding=padding, upsampling=upsampling)
    network.prepare(Runtime(layout="contiguous"))
    assert operators(network, batch)["aten::slow_conv3d_forward"] > 1  # what torch does by itself
    network.prepare(Runtime())
    seen = operators(network, batch)
    assert seen["aten::mkldnn_convolution"] == 6
    assert seen.get("aten::slow_conv3d_forward", 0) == 1  # the head, whose kernel is one voxel
    # No tensor is laid out anew but around the head, and around torch's transposed convolution.
    assert seen.get("aten::clone", 0) <= (2 if upsampling == "nearest" else 4)


def test_the_fast_kernels_give_the_same() -> None:
    network, batch = network_and_input()
    network.prepare(Runtime(layout="contiguous"))
    (plain,) = network.run(batch)
    network.prepare(Runtime())
    (fast,) = network.run(batch)
    assert np.abs(fast - plain).max() <= 2e-6 * np.abs(plain).max()


def variants() -> Iterable[nn.Module]:
    yield nn.Conv3d(2, 4, 3, stride=2, padding=1, dilation=1)
    yield nn.Conv3d(2, 4, (1, 3, 5), padding=(0, 1, 2), bias=False)
    yield nn.Conv3d(2, 4, 3, dilation=2, groups=2)
    yield nn.Conv3d(2, 4, 3, padding="same", padding_mode="reflect")
    yield nn.Conv3d(2, 4, 3, padding="same")
    yield nn.ConvTranspose3d(2, 4, 2, stride=2)


@pytest.mark.parametrize("module", list(variants()), ids=repr)
def test_convolutions_of_any_setting(module: nn.Module) -> None:
    batch = np.random.default_rng(0).normal(size=(1, 2, 12, 14, 16)).astype(np.float32)
    network = TorchNetwork(module)
    network.prepare(Runtime())
    (found,) = network.run(batch)
    expected = module(torch.from_numpy(batch)).detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, 1, 5, 6), (1, 1, 4, 5, 6), (3, 1, 4, 5, 6), (1, 3, 4, 5)])
def test_tensors_of_one_channel_lie_channels_last_too(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    laid = channels_last(tensor)
    assert torch.equal(laid, tensor)
    assert laid.stride(1) == 1
    assert laid.stride(-1) == shape[1]
