"""Why tiles must lie on the grid of the period: the same network, stitched rightly and wrongly.

The wrong way is what most tools do: tiles of any size, with a halo that is large enough.
"""

from __future__ import annotations

import numpy as np
import torch

import stitchsafe


def main() -> tuple[float, float]:
    """Share of pixels that differ from one pass: with tiles of 24 pixels, and of 20."""
    torch.manual_seed(0)
    network = stitchsafe.UNet(ndim=2, levels=3, base_channels=4).double().eval()
    context, period = 44, 8
    image = torch.randn(1, 1, 120 + 2 * context + 28, 120 + 2 * context + 28).double()
    size = image.shape[-1] - (image.shape[-1] - 92) % period
    image = image[..., :size, :size]
    with torch.no_grad():
        whole = network(image)[0]
        shares = []
        for tile in (24, 20):
            reach = -(-(tile - 4) // period) * period + 4 + 2 * context
            differs = []
            for top in range(0, 120, tile):
                for left in range(0, 120, tile):
                    part = image[..., top : top + reach, left : left + reach]
                    found = network(part)[0][..., :tile, :tile]
                    expected = whole[..., top : top + tile, left : left + tile]
                    differs.append(((found - expected).abs().amax(0) > 1e-9).double().mean().item())
            shares.append(float(np.mean(differs)))
            print(f"tiles of {tile}: {shares[-1]:.0%} of the pixels differ from one pass")
    return shares[0], shares[1]


if __name__ == "__main__":
    main()
