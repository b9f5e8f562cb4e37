"""Closed-form learned pooling against strided convolution and max-pooling, with few digits.

The reduced setting of table 1 of Birodkar et al. (2019), small: their CNN with an eighth of the
channels (a convolution, three more that halve the sizes and double the channels, batch norm, global
average, linear; Adam at 1e-3), trained on a part of the training digits. `replace_pooling` trains
it, collects what enters the third downsampling, fits the pooling there (alpha 5, l1: what the paper
took for this setting; nothing is chosen here) and trains once more from fresh weights. The error
after its first training is that of the network as it was, so the two differ in nothing else.

In place of the strided convolution two eigenvectors double the channels, as in the paper; in place
of max-pooling, which keeps them, there is one. Pooled values have no weights to train: parameters
are counted in the table.

Digits of 32 x 32 pixels, each normalised by itself. Of the 8,000 that may train, `SIZES` are drawn
by the seed; each fifth of the file is kept back, and the error is that of these 2,000.

    python examples/experiments/closed_form_pooling.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import arguments, circumstances, digits, table
from torch import Tensor, nn

from stitchsafe.nn import replace_pooling

SIZES = (100, 400, 1600)
BATCH = 32
CHANNELS = 8


def network(third: str) -> nn.Sequential:
    """The paper's CNN, whose third downsampling is a strided convolution or max-pooling."""

    def halving(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        return [convolution, nn.BatchNorm2d(2 * channels), nn.ReLU()]

    before = 4 * CHANNELS
    if third == "strided":
        pooling, norm, activation = halving(before)
    else:
        pooling, norm, activation = nn.MaxPool2d(2), nn.BatchNorm2d(before), nn.ReLU()
    made = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1), nn.ReLU(),
        *halving(CHANNELS), *halving(2 * CHANNELS),
    )  # fmt: skip
    made.add_module("third", pooling)
    made.extend([norm, activation, nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    made.append(nn.Linear(2 * before if third == "strided" else before, 10))
    return made


def parameters(of: nn.Module) -> int:
    return sum(each.numel() for each in of.parameters())


def normalised(images: Tensor) -> Tensor:
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), keepdim=True)
    return (images - mean) / variance.sqrt()


@torch.no_grad()
def error(of: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent."""
    of.eval()
    answers = torch.cat([of(batch).argmax(1) for batch in images.split(250)])
    of.train()
    return 100 * float((answers != labels).float().mean())


def training(
    images: Tensor, labels: Tensor, seed: int, steps: int, after: Callable[[nn.Module], None]
) -> Callable[[nn.Module], None]:
    """Trains a network on the same batches as any other of the seed, and shows it to `after`."""

    def train(made: nn.Module) -> None:
        batches = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(made.parameters(), 1e-3)
        for _ in range(steps):
            chosen = torch.randint(len(images), (BATCH,), generator=batches)
            optimizer.zero_grad()
            F.cross_entropy(made(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        after(made)

    return train


def main() -> None:
    asked = arguments(__doc__, steps=400)
    (images, labels), (others, truth) = digits()
    images, others = normalised(images), normalised(others)
    sizes = [size for size in SIZES if size <= len(images)]
    found: dict[str, list[list[float]]] = {}
    for seed in range(asked.seeds):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        for third in ("strided", "max"):
            pairs: list[list[float]] = []
            for size in sizes:
                own = images[order[:size]], labels[order[:size]]
                errors: list[float] = []
                train = training(
                    *own, seed, asked.steps,
                    lambda made, errors=errors: errors.append(error(made, others, truth)),
                )  # fmt: skip
                torch.manual_seed(seed)
                before = network(third)
                batches = list(zip(*(each.split(250) for each in own), strict=True))
                after = replace_pooling(before, "third", batches, train, alpha=5, norm="l1")
                pairs.append(errors)
                print(f"seed {seed}, {size} digits, {third}: {errors}", file=sys.stderr)
            rows = zip(*pairs, strict=True)
            for name, made in ((third, before), (f"closed form for {third}", after)):
                name = f"{name}, {parameters(made):,} parameters"
                found.setdefault(name, []).append(list(next(rows)))
    heads = ("third downsampling", *(f"error, %, {size} digits" for size in sizes))
    print(table(heads, found, [2] * len(sizes)))
    print(f"\n{circumstances(asked)}")


if __name__ == "__main__":
    main()
