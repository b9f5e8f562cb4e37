"""Hierarchical superpixels of a microscopy image, from a network that was trained to segment.

A small network learns to tell nuclei from background, with cluster decoding as its only decoder.
What it groups along the way are superpixels of 2, 4 and 8 pixels' size, each nested in the next.
They are compared with squares of the same size on an image that it has not seen. Recall of
boundaries allows for 1 pixel, and within squares of 4 none is further from their boundary: there
it says nothing, and is told of those of 8 only.

The images (of the 2018 Data Science Bowl, CC0) are no part of the repository: the folder that holds
``dsb2018/*.npz``, each with ``image`` and ``labels``, is named by ``STITCHSAFE_DATA``.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stitchsafe.metrics import achievable_segmentation_accuracy, boundary_recall
from stitchsafe.nn import HCFCN

FOLDER = Path(os.environ.get("STITCHSAFE_DATA", Path(__file__).parents[2] / "shared" / "data"))
WIDTHS = (8, 16, 24, 32)
TOLERANCE = 1


def images(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of bright nuclei, 256 pixels a side, from 0 to 1, and their labels."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for path in sorted((FOLDER / "dsb2018").glob("*.npz")):
        with np.load(path) as held:
            image, labels = held["image"], held["labels"].astype(np.int64)
        if image.shape == (256, 256) and image.mean() < 40 and len(found) < count:
            low, high = np.percentile(image, [1, 99.8])
            found.append(((image - low) / (high - low), labels))
    return found


def trained(pairs: list[tuple[np.ndarray, np.ndarray]], steps: int) -> HCFCN:
    """A network that tells nuclei from background, from crops of the images."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    network = HCFCN(ndim=2, out_channels=2, widths=WIDTHS, depth=1, features=16)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(steps):
        crops, truth = [], []
        for pick in generator.integers(len(pairs), size=4):
            y, x = generator.integers(0, 256 - 64, 2)
            crops.append(pairs[pick][0][y : y + 64, x : x + 64])
            truth.append(pairs[pick][1][y : y + 64, x : x + 64] > 0)
        given = torch.tensor(np.array(crops), dtype=torch.float32)[:, None]
        wanted = torch.tensor(np.array(truth), dtype=torch.int64)
        optimiser.zero_grad()
        F.cross_entropy(network(given), wanted).backward()
        optimiser.step()
    return network.eval()


def main() -> list[tuple[float, float, float, float]] | None:
    """Per level: accuracy and recall of superpixels, then of squares; None without the images.

    Recall is NaN where it says nothing.
    """
    pairs = images(9)
    if not pairs:
        print(f"there are no images in {FOLDER / 'dsb2018'}; set STITCHSAFE_DATA to the folder")
        return None
    image, labels = pairs.pop()
    network = trained(pairs, steps=100)
    with torch.no_grad():
        maps = network.superpixels(torch.tensor(image, dtype=torch.float32)[None, None])
    found = []
    for level, each in enumerate(maps, start=1):
        own = each[0].numpy()
        rows = np.arange(256) >> level
        squares = rows[:, None] * 256 + rows
        accuracy = [achievable_segmentation_accuracy(each, labels) for each in (own, squares)]
        said = (
            f"cells of {2**level} pixels: {len(np.unique(own))} superpixels of "
            f"{rows[-1] + 1} x {rows[-1] + 1}; achievable accuracy {accuracy[0]:.4f} "
            f"(squares {accuracy[1]:.4f})"
        )
        recall = [math.nan, math.nan]
        if 2**level // 2 - 1 > TOLERANCE:  # else all pixels of squares are near a boundary
            recall = [boundary_recall(each, labels, tolerance=TOLERANCE) for each in (own, squares)]
            said += f", boundary recall {recall[0]:.3f} ({recall[1]:.3f})"
        print(said)
        found.append((accuracy[0], recall[0], accuracy[1], recall[1]))
    return found


if __name__ == "__main__":
    main()
