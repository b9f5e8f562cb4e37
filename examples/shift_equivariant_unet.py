"""An encoder and decoder whose output moves along with the image, by every number of pixels.

The demonstration of Rojas-Gomez et al. (2022), appendix A3.3: the decoder puts elements back to
where the encoder took them from, so the selection is handed from one to the other.

Sums are added up in another order when an image moves, so what comes out of float64 is equal to
its rounding, about 1e-15. To show that nothing else is lost, weights are rounded to multiples of
1/1024: all sums then fit into float64, and the norm of the difference is 0.
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


SHIFTS = ((1, 1), (1, 0), (0, 1), (2, 0), (5, 2))
"""Along one axis too: an error that exchanges them passes unseen by (1, 1)."""


def main() -> float:
    """How far the output of a moved image is from the moved output, as the largest norm."""
    torch.manual_seed(0)
    model = SimpleUNet().double().eval()
    with h5py.File(VOLUME) as file:
        slices = file["raw"][:3]  # as three channels
    image = torch.from_numpy(slices)[None].double() / 256
    with torch.inference_mode():
        for weights in model.parameters():  # few bits, see above
            weights.copy_((weights * 1024).round() / 1024)
        here = model(image)
        norms = []
        for shift in SHIFTS:
            there = model(image.roll(shift, (2, 3)))
            back = (-shift[0], -shift[1])
            norms.append(float((here - there.roll(back, (2, 3))).norm()))
            print(f"moved by {shift}: norm of the difference {norms[-1]:e}")
    return max(norms)


if __name__ == "__main__":
    main()
