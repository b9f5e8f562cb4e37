"""An encoder and decoder whose output moves along with the image, by every number of pixels.

The demonstration of Rojas-Gomez et al. (2022), appendix A3.3: the decoder puts elements back to
where the encoder took them from, so the selection is handed from one to the other.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import torch
from torch import Tensor, nn

from stitchsafe.nn import LPD, LPU

VOLUME = Path(__file__).resolve().parent / "data" / "fib25_cut.h5"


class SimpleUNet(nn.Module):
    """Convolution, LPD, convolution, LPU with a low-pass filter."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, padding_mode="circular")
        self.lpd = LPD(2, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
        self.lpu = LPU(low_pass=3, padding="circular")

    def forward(self, x: Tensor) -> Tensor:
        """``(b, 3, y, x)`` to ``(b, channels, y, x)``."""
        x, selection = self.lpd(self.conv1(x))
        return self.lpu(self.conv2(x), selection)


def main() -> float:
    """How far the output of the moved image is from the moved output, as a norm."""
    torch.manual_seed(0)
    model = SimpleUNet().double().eval()
    with h5py.File(VOLUME) as file:
        slices = file["raw"][:3]  # as three channels
    image = torch.from_numpy(slices)[None].double() / 256
    with torch.inference_mode():
        for weights in model.parameters():  # few bits, so that float64 adds up without rounding
            weights.copy_((weights * 1024).round() / 1024)
        here = model(image)
        there = model(image.roll((1, 1), (2, 3))).roll((-1, -1), (2, 3))
    norm = float((here - there).norm())
    print(f"norm of the difference: {norm:e}")
    return norm


if __name__ == "__main__":
    main()
