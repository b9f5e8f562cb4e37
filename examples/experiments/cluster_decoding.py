"""Soft clustering against bilinear upsampling, to bring a coarse prediction to the pixels.

Two-class segmentation of nuclei (Suzuki 2021, its comparison with FCN, small): `HCFCN` with a
ResNet of basic blocks and 1x1 head at output strides 8, 16 and 32, once with all downsamplings
clustered and cluster decoding, once with none and bilinear upsampling. Clustering costs some
parameters (the linear maps of pixels and seeds); the deepest width of the bilinear network is
enlarged until it has as many, as nearly as one channel allows. All is trained from scratch on the
same crops of `CROP` pixels a side, turned and mirrored.

All but each fifth of the 110 images of dsb2018 (by name) train; these are 88, and 22 are kept back.
*mIoU* is the mean of the two classes' intersection over union, counted over all pixels kept back.
*Boundary recall* is the share of the true mask's boundary pixels with a predicted boundary nearby
(within 0.0025 of the diagonal, 1 to 4 pixels here), *precision* the reverse; means over images.
*ms* is the fastest of `PASSES` passes (of as many as steps, if fewer) of 256 x 256 pixels; the two
take turns.

    python examples/experiments/cluster_decoding.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from common import Image, arguments, circumstances, nuclei, table
from torch import Tensor, nn

from stitchsafe.metrics import boundary_recall
from stitchsafe.nn import HCFCN

STRIDES = (8, 16, 32)
WIDTHS = (8, 16, 24, 32, 48, 64)
BATCH, CROP = 4, 128
PASSES = 20


def network(stride: int, decoding: str) -> HCFCN:
    """A segmenter with one downsampling by 2 per bit of the stride."""
    widths = WIDTHS[: stride.bit_length()]

    def made(clustered: bool, deepest: int) -> HCFCN:
        return HCFCN(
            ndim=2, out_channels=2, widths=(*widths[:-1], deepest), encoder="resnet", depth=1,
            features=16, clustered=None if clustered else 0,
        )  # fmt: skip

    if decoding == "clusters":
        return made(True, widths[-1])
    wanted = parameters(made(True, widths[-1]))
    grown = (made(False, widths[-1] + more) for more in range(widths[-1]))
    return min(grown, key=lambda each: abs(parameters(each) - wanted))


def parameters(of: nn.Module) -> int:
    return sum(each.numel() for each in of.parameters())


def crops(pairs: Sequence[tuple[Image, Image]], draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch of images and masks."""
    found = []
    for which in draw.integers(len(pairs), size=BATCH):
        both = np.stack([pairs[which][0], pairs[which][1] > 0])
        y, x = (draw.integers(size - CROP + 1) for size in both.shape[1:])
        both = np.rot90(both[:, y : y + CROP, x : x + CROP], draw.integers(4), (1, 2))
        found.append(both[:, :, ::-1] if draw.integers(2) else both)
    made = torch.from_numpy(np.stack(found))
    return made[:, :1].float(), made[:, 1].long()


def trained(
    stride: int, decoding: str, seed: int, steps: int, pairs: Sequence[tuple[Image, Image]]
) -> HCFCN:
    """A network; the same crops for both decodings of a seed."""
    torch.manual_seed(seed)
    made = network(stride, decoding)
    draw = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(made.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps + 1)
    for _ in range(steps):
        images, masks = crops(pairs, draw)
        optimizer.zero_grad()
        F.cross_entropy(made(images), masks).backward()
        optimizer.step()
        rate.step()
    return made.eval()


@torch.no_grad()
def predicted(by: HCFCN, image: Image) -> Image:
    """The mask of an image of any size."""
    below = [-size % by.backbone.stride for size in image.shape]
    given = torch.from_numpy(np.pad(image, [(0, n) for n in below], mode="reflect"))
    mask: Image = by(given[None, None]).argmax(1)[0].bool().numpy()
    return mask[: image.shape[0], : image.shape[1]]


def measured(by: HCFCN, pairs: Sequence[tuple[Image, Image]]) -> tuple[float, float, float]:
    """Mean intersection over union, boundary recall and precision, in percent."""
    both, either = np.zeros(2), np.zeros(2)
    recalls, precisions = [], []
    for image, labels in pairs:
        mask, truth = predicted(by, image), labels > 0
        for kind in (False, True):
            both[int(kind)] += ((mask == kind) & (truth == kind)).sum()
            either[int(kind)] += ((mask == kind) | (truth == kind)).sum()
        recalls.append(boundary_recall(mask, truth))
        # Without a predicted boundary precision is NaN; it counts as 0.
        precisions.append(np.nan_to_num(boundary_recall(truth, mask)))
    found = (both / either).mean(), np.mean(recalls), np.mean(precisions)
    return 100 * float(found[0]), 100 * float(found[1]), 100 * float(found[2])


@torch.no_grad()
def fastest(networks: Sequence[nn.Module], passes: int) -> list[float]:
    """Milliseconds per image of each."""
    image = torch.randn(1, 1, 256, 256)
    least = [float("inf")] * len(networks)
    for _ in range(passes):
        for which, each in enumerate(networks):
            began = time.perf_counter()
            each(image)
            least[which] = min(least[which], 1e3 * (time.perf_counter() - began))
    return least


def main() -> None:
    asked = arguments(__doc__, steps=150)
    train, test = nuclei()
    found: dict[str, list[tuple[float, ...]]] = {}
    for stride in STRIDES:
        for seed in range(asked.seeds):
            made = {
                kind: trained(stride, kind, seed, asked.steps, train)
                for kind in ("bilinear", "clusters")
            }
            times = fastest(list(made.values()), min(PASSES, asked.steps))
            for (kind, each), ms in zip(made.items(), times, strict=True):
                name = f"stride {stride}, {kind}, {parameters(each):,} parameters"
                found.setdefault(name, []).append((*measured(each, test), ms))
                print(f"seed {seed}, {name}: {found[name][-1]}", file=sys.stderr)
    heads = ("decoding", "mIoU, %", "boundary recall, %", "precision, %", "ms per image")
    print(table(heads, found, (1, 1, 1, 1)))
    print(f"\n{circumstances(asked)}")


if __name__ == "__main__":
    main()
