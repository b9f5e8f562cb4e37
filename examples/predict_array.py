"""An array and a torch module instead of files: the stitched field, and the proof that it is exact.

Run it as it is; nothing is written.
"""

from __future__ import annotations

import numpy as np
import torch

import stitchsafe


def main() -> float:
    """Stitch a random image from tiles and compare with one pass; returns the difference."""
    torch.manual_seed(0)
    network = stitchsafe.UNet(ndim=2, levels=2, base_channels=8, heads={"embedding": 3}).eval()
    image = np.random.default_rng(0).normal(size=(150, 210)).astype(np.float32)

    verdict = stitchsafe.check(network)
    print(verdict.describe())

    made = stitchsafe.predict(image, model=network, save="fields", tile_shape=(32, 64))
    stitched = made.fields["output"]

    # The same by hand: extend the image by what the network takes off, and run it once.
    (before, _), _ = verdict.geometry.context
    whole_input = made.plan.grid.whole().input
    pad = [
        (before, size - before - extent)
        for size, extent in zip(whole_input.shape, image.shape, strict=True)
    ]
    extended = torch.from_numpy(np.pad(image, pad, mode="reflect"))
    with torch.no_grad():
        whole = network(extended[None, None])[0, :, : image.shape[0], : image.shape[1]].numpy()

    difference = float(np.abs(stitched - whole).max() / np.abs(whole).max())
    print(f"{made.plan.tiles} tiles; largest difference from one pass: {difference:.1e}, relative")
    return difference


if __name__ == "__main__":
    main()
