"""Does a classifier of digits answer alike when the digit moves? Max, blur, APS and LPS.

Tables 1 and A1 of Rojas-Gomez et al. (2022), small: a convolutional network with two downsamplings
on 32 x 32 pixels of a circular world (the digits' borders are empty). 8,000 of the 10,000 digits
train it, unmoved; each fifth is kept back. *Consistency* is the share of these 2,000 for which the
answers at `SHIFTS` random circular shifts are all the same; *accuracy* is that of the unmoved ones;
*tied* is the share of all passes in which some layer's phases were tied, so that nothing is exact.
"Gumbel" trains LPS by samples of Gumbel-softmax, "softmax" without sampling (the ablation of table
A1), both with the paper's annealing, stretched to the training at hand. What selects phases learns
at a tenth of the rate: its ReLUs would saturate, and behind a low-pass filter only their kinks tell
phases apart.

    python examples/experiments/shift_consistency.py
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, circumstances, digits, table
from torch import Tensor, nn

from stitchsafe.nn import APS, LPD, Classifier, TieWarning, anneal, parameter_groups, schedule

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "max": ("max", {}),
    "blur (Tri-3)": ("blur", {"taps": 3, "max_pool": 2}),
    "APS": ("aps", {}),
    "APS, Tri-3": ("aps", {"low_pass": 3}),
    "LPS softmax, Tri-3": ("lps", {"low_pass": 3, "in_training": "softmax"}),
    "LPS Gumbel, Tri-3": ("lps", {"low_pass": 3}),
    "LPS Gumbel": ("lps", {}),
}
WIDTHS = (8, 16, 32)
BATCH = 32
SHIFTS = 4
RATE = 1e-2


def trained(kind: str, seed: int, steps: int, images: Tensor, labels: Tensor) -> nn.Module:
    """A network of a kind; the same batches for all kinds of a seed."""
    torch.manual_seed(seed)
    down, options = KINDS[kind]
    network = Classifier(
        ndim=2, classes=10, widths=WIDTHS, padding="circular",
        downsampling=down, downsampling_options=options,
    )  # fmt: skip
    batches = torch.Generator().manual_seed(seed)
    usual, selecting = parameter_groups(network, weight_decay=1e-2)
    groups = [usual, {**selecting, "lr": RATE / 10}] if selecting["params"] else [usual]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    course = schedule("cifar10-circular").stretched(steps)
    for step in range(1, steps + 1):
        anneal(network, course, step)
        chosen = torch.randint(len(images), (BATCH,), generator=batches)
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def measured(
    network: nn.Module, seed: int, images: Tensor, labels: Tensor
) -> tuple[float, float, float]:
    """Accuracy, consistency and ties in percent; the same shifts for all kinds of a seed."""
    deciding = [layer for layer in network.modules() if isinstance(layer, LPD | APS)]
    tied: list[Tensor] = []
    for layer in deciding:
        layer.register_forward_hook(lambda _, __, made: tied.append(made[1].tied))
    places = torch.Generator().manual_seed(1000 + seed)
    right, alike, ties = 0, 0, 0
    for batch, truth in zip(images.split(250), labels.split(250), strict=True):
        shifts = torch.randint(32, (SHIFTS, len(batch), 2), generator=places)
        answers = []
        for moved in (batch, *(_rolled(batch, each) for each in shifts)):
            tied.clear()
            answers.append(network(moved).argmax(1))
            ties += int(torch.stack(tied).any(0).sum()) if deciding else 0
        right += int((answers[0] == truth).sum())
        alike += int(torch.stack([each == answers[1] for each in answers[1:]]).all(0).sum())
    passes = len(images) * (1 + SHIFTS) if deciding else math.nan
    return 100 * right / len(images), 100 * alike / len(images), 100 * ties / passes


def _rolled(images: Tensor, shifts: Tensor) -> Tensor:
    """Each image by a circular shift of its own."""
    rows = zip(images, shifts.tolist(), strict=True)
    return torch.stack([image.roll(by, (1, 2)) for image, by in rows])


def main() -> None:
    asked = arguments(__doc__, steps=800)
    train, test = digits()
    warnings.simplefilter("ignore", TieWarning)  # the table says how many
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    for seed in range(asked.seeds):
        for kind, results in found.items():
            began = time.perf_counter()
            results.append(measured(trained(kind, seed, asked.steps, *train), seed, *test))
            took = time.perf_counter() - began
            print(f"seed {seed}, {kind}: {results[-1]}, {took:.0f} s", file=sys.stderr)
    print(
        table(("sampling", "accuracy, %", "circular consistency, %", "tied, %"), found, (2, 2, 2))
    )
    print(f"\n{circumstances(asked)}")


if __name__ == "__main__":
    main()
