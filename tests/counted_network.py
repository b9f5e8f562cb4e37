"""A network that notes each forward pass in the file named by STITCHSAFE_TEST_PASSES."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections import Counter
from pathlib import Path

import torch

from stitchsafe.nn import UNet

__all__ = ["counted", "passes"]

VARIABLE = "STITCHSAFE_TEST_PASSES"


class Counted(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        place = os.environ.get(VARIABLE)
        if place and type(x) is torch.Tensor and x.device.type == "cpu":
            note = f"{zlib.crc32(x.detach().contiguous().numpy().tobytes()):08x}\n"
            with Path(place).open("a") as file:  # one short write: whole among many processes
                file.write(note)
            if os.environ.get("STITCHSAFE_TEST_DEAF"):  # nothing that is asked reaches it
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                time.sleep(100)
        return self.module(x)


def counted() -> torch.nn.Module:
    torch.manual_seed(0)
    module = UNet(ndim=2, levels=1, base_channels=2, heads={"probability": 1})
    with torch.no_grad():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.4 if parameter.ndim > 1 else 0.1)
    return Counted(module)


def passes(file: Path) -> Counter[str]:
    """How often each input went through the network."""
    return Counter(file.read_text().split()) if file.exists() else Counter()
