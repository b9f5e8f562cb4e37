"""Memory of networks that cannot be traced: from two passes, rather too much than too little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stitchsafe.pipeline._pass_memory import PassMemory, bytes_of_pass

SIZES = [(1 << 12, 1 << 16), (100, 400)]


@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize(
    "true",
    [
        lambda voxels: 100 * voxels,
        lambda voxels: 10**6 + 100 * voxels,
        lambda voxels: 10 * voxels + voxels**2,
        lambda voxels: 3 * voxels**1.3,
        lambda voxels: 5000,
    ],
    ids=["voxels", "and a constant", "attention", "in between", "constant"],
)
def test_no_size_is_estimated_too_low(true, small: int, large: int) -> None:
    memory = PassMemory(tuple((voxels, round(true(voxels))) for voxels in (small, large)))
    for voxels in (small // 2, small, (small + large) // 2, large, 3 * large, 40 * large):
        found, needed = memory.of(voxels), true(voxels)
        slack = 0.8 if voxels > large else 1  # a power is fitted to what need not be one
        assert found >= slack * needed - 1
        if voxels in (small, large):
            assert found <= max(needed, memory.of(large) * voxels / large) + 1


def test_one_size_is_all_that_some_networks_take() -> None:
    memory = PassMemory(((64**2, 10**6),))
    assert (memory.of(64**2), memory.of(10)) == (10**6, 10**6)
    assert memory.of(2 * 64**2) == 2 * 10**6


def test_memory_doubles_no_more_often_than_voxels() -> None:
    assert PassMemory(((100, 1), (200, 10**6))).of(400) == 4 * 10**6  # noise: squared at most


def test_passes_of_a_network_are_predicted() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 1, 3)
    )

    @torch.inference_mode()
    def run(batch: np.ndarray) -> list[np.ndarray]:
        return [module(torch.from_numpy(batch)).numpy()]

    def taken(size: int) -> int:
        batch = np.zeros((1, 1, size, size), np.float32)
        run(batch)
        return max(bytes_of_pass(run, batch) for _ in range(3))

    memory = PassMemory(tuple((size**2, taken(size)) for size in (256, 512)))
    live = 2 * 32 * 4 * 1024**2  # two layers' arrays
    assert 0.9 * live < taken(1024) <= 1.1 * memory.of(1024**2) < 4 * live
