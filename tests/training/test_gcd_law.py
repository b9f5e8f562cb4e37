"""Rumberger et al. (2021): how many objects that look the same a network can tell apart.

The number of distinct ids is (f^l / gcd(p, f^l))^d for objects on a grid of spacing p.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stitchsafe.nn import UNet
from stitchsafe.training import discriminative_loss, draw_disks


def grid(spacing: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """3 x 3 squares on a grid, and their labels."""

    class Corner(np.random.Generator):
        def integers(self, *args, **kwargs):
            return np.zeros(2, dtype=int) + 2

    image, labels = draw_disks(
        (size, size), Corner(np.random.PCG64(0)), spacing=spacing, radius=(1.5, 1.5)
    )
    return torch.from_numpy(image)[None], torch.from_numpy(labels).long()[None]


def trained_ids(spacing: int, upsampling: str, steps: int) -> int:
    """Distinct embeddings of whole objects after a short training, l = 2, f = 2."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = UNet(ndim=2, levels=2, base_channels=12, upsampling=upsampling)
    margin, size = 20, 68
    image, labels = grid(spacing, size)
    window = (..., slice(margin, -margin), slice(margin, -margin))
    inside = labels[window].clone()
    whole = {
        int(i)
        for i, count in zip(*np.unique(inside.numpy(), return_counts=True), strict=True)
        if i and count == 9
    }
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = discriminative_loss(net(image), inside).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        field = net(image)[0].flatten(1)
    flat = inside.flatten()
    return distinct(np.array([field[:, flat == i].mean(1).numpy() for i in sorted(whole)]))


def distinct(points: np.ndarray) -> int:
    """How many points there are, those that lie within 1 of another counted once."""
    ids: list[np.ndarray] = []
    for point in points:
        if all(np.linalg.norm(point - other) > 1.0 for other in ids):
            ids.append(point)
    return len(ids)


@pytest.mark.parametrize(
    ("spacing", "upsampling"),
    [
        (5, "learnt"),
        pytest.param(5, "nearest", marks=pytest.mark.slow),
        pytest.param(6, "learnt", marks=pytest.mark.slow),
    ],
)
def test_as_many_ids_as_the_law_allows(spacing, upsampling):
    law = (4 // math.gcd(spacing, 4)) ** 2
    assert trained_ids(spacing, upsampling, 250) == law


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "steps"), [(2, 500), (3, 1000)])
def test_pixels_of_a_constant_image_get_as_many_ids_as_a_cell_of_the_period_has(levels, steps):
    """FACTS 4, as figure 4: every pixel is to have an id of its own, and one per phase is had."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = UNet(ndim=2, levels=levels, base_channels=12)
    size, taken = (
        2 * 2**levels,
        {2: 40, 3: 92}[levels],
    )  # where 3 levels pool, the output is cropped
    image = torch.ones(1, 1, *(2 * [size + taken]))
    ids = 1 + torch.arange(size * size).reshape(1, size, size)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = discriminative_loss(net(image)[..., :size, :size], ids).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        field = net(image)[0, :, :size, :size].flatten(1).T.numpy()
    assert distinct(field) == 4**levels


@pytest.mark.slow
def test_a_window_of_one_period_breaks_objects_at_the_tile_grid():
    """FACTS 5: trained on a window of f^l, nothing ties pixels across the 4-grid together."""
    assert [torn_share(window) for window in (4, 8)] == [1, 0]


def torn_share(window: int) -> float:
    """Share of neighbouring pixels of one object, across the 4-grid, that differ by over 1."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = UNet(ndim=2, levels=2, base_channels=12)
    margin = 20
    image, labels = grid(5, 128)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = np.random.default_rng(0)
    for _ in range(3000):
        # Corners on one lattice, as tiles would have them.
        y, x = (int(generator.integers(0, 20)) * 4 for _ in range(2))
        part = image[..., y : y + window + 2 * margin, x : x + window + 2 * margin]
        ids = labels[:, y + margin : y + margin + window, x + margin : x + margin + window]
        loss = discriminative_loss(net(part), ids).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        field = net(image)[0]
    ids = labels[0, margin:-margin, margin:-margin]
    jumps = (field[:, 1:] - field[:, :-1]).square().sum(0).sqrt()
    same = (ids[1:] == ids[:-1]) & (ids[1:] > 0)
    seam = torch.zeros_like(same)
    seam[3::4] = True
    return float((jumps[same & seam] > 1).float().mean())
