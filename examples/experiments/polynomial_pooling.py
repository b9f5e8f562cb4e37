"""Does a learnt exponent pool better than maximum or average? P-pooling in a U-Net.

The layer of Wei et al. (2019), small: a U-Net with two poolings learns the foreground of 88
microscopy images of nuclei of many kinds, scaled to mean 0 and deviation 1, from crops; each fifth
image by name is kept back, and scored on its central 256 x 256 pixels. *IoU* is that of all their
pixels together, *IoU per image* the mean over images, *IoU at borders* that of the pixels within 2
of a border between foreground and background, where detail shows. P-pooling begins at an exponent
of 1, between average (0) and maximum (infinity), one per layer or one per channel, and learns at
ten times the rate of the weights; the last columns say where the exponents end, finest layer first,
on average.

    python examples/experiments/polynomial_pooling.py
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Image, arguments, circumstances, nuclei, table
from torch import Tensor

from stitchsafe.nn import PPool2d, UNet

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "max": ("max", {}),
    "average": ("avg", {}),
    "P-pooling, per layer": ("ppool", {}),
    "P-pooling, per channel": ("ppool", {"per_channel": True}),
}
CROP, BATCH, SCORED = 64, 8, 256
RATE = 2e-3


def crops(images: list[tuple[Image, Image]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch of random places, turned over at random, and their foreground."""
    raw, truth = [], []
    for number in rng.integers(len(images), size=BATCH):
        image, labels = images[number]
        row, column = (int(rng.integers(size - CROP + 1)) for size in image.shape)
        flips = tuple(slice(None, None, int(step)) for step in rng.choice((1, -1), 2))
        place = slice(row, row + CROP), slice(column, column + CROP)
        raw.append(image[place][flips])
        truth.append(labels[place][flips] > 0)
    return _stacked(raw), _stacked(truth)


def _stacked(images: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32))[:, None]


def trained(kind: str, seed: int, steps: int, images: list[tuple[Image, Image]]) -> UNet:
    """A network of a kind; the same crops and first weights for all kinds of a seed."""
    torch.manual_seed(seed)
    down, options = KINDS[kind]
    network = UNet(
        ndim=2, levels=2, base_channels=8, padding="same", heads={"foreground": 1},
        downsampling=down, downsampling_options=options,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    named = dict(network.named_parameters())
    exponents = [named.pop(name) for name in list(named) if name.endswith("theta")]
    optimizer = torch.optim.Adam([{"params": list(named.values())}, {"params": exponents}])
    highest = [RATE, 10 * RATE]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps + 1)
    for _ in range(steps):
        raw, truth = crops(images, rng)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(raw), truth).backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def measured(network: UNet, images: list[tuple[Image, Image]]) -> tuple[float, ...]:
    """IoU of all pixels, per image, and at borders, in percent, and two exponents."""
    counts = []
    for image, labels in images:
        place = tuple(
            slice((size - min(size, SCORED)) // 2, (size + min(size, SCORED)) // 2)
            for size in image.shape
        )
        truth = _stacked([labels[place] > 0])
        found = (network(_stacked([image[place]])) > 0).float()
        both, either = found * truth, (found + truth).clamp_max(1)
        # Where a window of 5 holds foreground and background.
        border = F.max_pool2d(truth, 5, 1, 2) + F.max_pool2d(1 - truth, 5, 1, 2) - 1
        parts = (both, either, both * border, either * border)
        counts.append([float(part.sum()) for part in parts])
    inside, union, inside_border, union_border = np.array(counts).T
    per_image = np.where(union > 0, inside / np.maximum(union, 1), 1.0)
    exponents = [
        float(pool.alpha.mean()) if isinstance(pool, PPool2d) else math.nan for pool in network.pool
    ]
    share = inside.sum() / union.sum(), per_image.mean(), inside_border.sum() / union_border.sum()
    return (*(100 * float(each) for each in share), *exponents)


def main() -> None:
    asked = arguments(__doc__, steps=300)
    train, test = (
        [((image - image.mean()) / max(float(image.std()), 1e-6), labels) for image, labels in part]
        for part in nuclei()
    )
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    for seed in range(asked.seeds):
        for kind, results in found.items():
            began = time.perf_counter()
            results.append(measured(trained(kind, seed, asked.steps, train), test))
            took = time.perf_counter() - began
            print(f"seed {seed}, {kind}: {results[-1]}, {took:.0f} s", file=sys.stderr)
    heads = ("pooling", "IoU, %", "IoU per image, %", "IoU at borders, %", "exponent", "exponent")
    print(table(heads, found, (1, 1, 1, 2, 2)))
    print(f"\n{circumstances(asked)}")


if __name__ == "__main__":
    main()
