"""Devices that are asked for, and passes on the ones that there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitchsafe.errors import InputError
from stitchsafe.networks import Accelerator, Devices, Runtime, TorchNetwork, find_devices
from stitchsafe.nn import UNet

LARGE, SMALL = Accelerator("Model A", 80 * 10**9), Accelerator("Model A", 40 * 10**9)
OTHER = Accelerator("Model B", 24 * 10**9)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("auto", (), Devices("cpu", ("cpu",))),
        ("cpu", (LARGE,), Devices("cpu", ("cpu",))),
        ("auto", (LARGE, OTHER), Devices("cuda", ("cuda:0",), "Model A", 80 * 10**9)),
        ("cuda", (OTHER,), Devices("cuda", ("cuda:0",), "Model B", 24 * 10**9)),
        ("cuda:1", (OTHER, LARGE), Devices("cuda", ("cuda:1",), "Model A", 80 * 10**9)),
        (
            "cuda:1,0,1",
            (LARGE, SMALL),
            Devices("cuda", ("cuda:1", "cuda:0"), "Model A", 40 * 10**9),
        ),
        ("cuda", (Accelerator("C", None),), Devices("cuda", ("cuda:0",), "C", None)),
    ],
)
def test_devices_that_are_there(asked, there, found) -> None:
    assert find_devices(asked, there) == found


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        ("cuda", (), "no CUDA device: cuda is asked for, .* give --device cpu"),
        ("cuda:2", (LARGE, LARGE), r"no CUDA device 2: there are 2 \(0 to 1\)"),
        ("cuda:0,1", (LARGE, OTHER), r"different models \(Model A, Model B\)"),
        ("tpu", (LARGE,), "device cannot be 'tpu'"),
        ("cuda:", (LARGE,), "device cannot be 'cuda:'"),
    ],
)
def test_devices_that_are_not(asked, there, message) -> None:
    with pytest.raises(InputError, match=message):
        find_devices(asked, there)


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
def test_a_device_gives_what_the_processor_gives_and_the_same_bits_again(precision) -> None:
    torch.manual_seed(0)
    network = TorchNetwork(UNet(ndim=3, levels=1, base_channels=4, heads={"a": 2, "b": 1}))
    batches = np.random.default_rng(0).normal(size=(5, 1, 1, 44, 44, 44)).astype(np.float32)
    network.prepare(Runtime("cpu", "float32", threads=1))
    expected = [network.run(batch) for batch in batches]
    network.prepare(Runtime("cuda:0", precision))
    found = list(network.stream(iter(batches)))
    again = [network.run(batch) for batch in batches[::-1]][::-1]
    allowed = {"float32": 1e-5, "float64": 1e-5, "bfloat16": 6e-2, "float16": 8e-3}[precision]
    for one, other, third in zip(expected, found, again, strict=True):
        for a, b, c in zip(one, other, third, strict=True):
            assert np.abs(a - b).max() <= allowed * np.abs(a).max()
            assert np.array_equal(b, c)


@needs_cuda
def test_a_device_whose_memory_runs_out_says_so() -> None:
    network = TorchNetwork(UNet(ndim=3, levels=1, base_channels=4))
    network.prepare(Runtime("cuda:0", "float32"))
    torch.cuda.set_per_process_memory_fraction(0.0001)
    try:
        with pytest.raises(MemoryError, match="of cuda:0"):
            network.run(np.zeros((1, 1, 92, 92, 92), np.float32))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
