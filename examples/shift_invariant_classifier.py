"""A classifier that gives the same answer wherever the object lies.

The demonstration of Rojas-Gomez et al. (2022), appendix A3.2: one convolution, learnable polyphase
downsampling, global pooling. The image moves by one pixel in a circular world.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import torch
from torch import Tensor, nn

from stitchsafe.nn import LPD

VOLUME = Path(__file__).resolve().parent / "data" / "fib25_cut.h5"


class SimpleClassifier(nn.Module):
    """Three classes from an image of three channels."""

    def __init__(self, classes: int = 3, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, padding_mode="circular")
        self.lpd = LPD(2, channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, 3, y, x)`` to logits."""
        x, _ = self.lpd(self.conv1(x))
        return self.fc(x.mean((2, 3)))


def main() -> float:
    """How far the logits change, as a norm."""
    torch.manual_seed(0)
    model = SimpleClassifier().double().eval()
    with h5py.File(VOLUME) as file:
        slices = file["raw"][:3]  # as three channels
    image = torch.from_numpy(slices)[None].double() / 256
    with torch.inference_mode():
        for weights in model.parameters():  # few bits, so that float64 adds up without rounding
            weights.copy_((weights * 1024).round() / 1024)
        here = model(image)
        there = model(image.roll((1, 1), (2, 3)))
    norm = float((here - there).norm())
    print(f"here:  {here.tolist()}\nthere: {there.tolist()}\nnorm of the difference: {norm:e}")
    return norm


if __name__ == "__main__":
    main()
