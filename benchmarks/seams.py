"""What the measures of seams reach: on right fields of real data, and on wrongly tiled ones.

A bundled network gives a field of each image in one pass, and then by tiles put together in the
four ways of `stitchsafe.discontinuity`. Printed are the verdict, the ratio that tells most, the
area under the ROC curve of the faces' scores (wrong field against right), and what ``--grid auto``
finds::

    python benchmarks/seams.py --data ../shared/data/dsb2018 --images 3 --tile 64
    python benchmarks/seams.py --data ../shared/data/dsb2018 --only 1f6b7cead153,3f9fc8e63f87
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import stitchsafe
from stitchsafe.discontinuity import blended, misaligned, normalised, snapped
from stitchsafe.networks import Network, Runtime, load_network

Image = NDArray[np.floating]


def forward_of(network: Network) -> Callable[[Image], Image]:
    """The network's first field, of the size of what it is given, with a reflected border."""
    network.prepare(Runtime(threads=1))

    def forward(image: Image) -> Image:
        pads = []
        for axis, size in zip(network.geometry.axes, image.shape, strict=True):
            missing = max(0, size + axis.shrinkage - axis.input_min)
            step = max(axis.input_step, 1)
            length = axis.input_min + -(-missing // step) * step
            pads.append((axis.output_offset, length - size - axis.output_offset))
        padded = np.pad(image, pads, mode="symmetric").astype(np.float32)
        field = network.run(padded[None, None])[0][0]
        return field[(slice(None), *(slice(0, size) for size in image.shape))]

    return forward


def scaled(image: Image) -> Image:
    """Intensities as networks are trained on them: 0 and 1 at the 1st and 99th percentiles."""
    low, high = np.percentile(image, [1, 99])
    return (image - low) / max(float(high - low), 1e-6)


def images(folder: Path, count: int, only: str) -> list[tuple[str, Image]]:
    """The first images that hold several tiles, or those that are named; scaled."""
    found = []
    for file in sorted(folder.glob("*.npz")):
        if only and file.stem not in only.split(","):
            continue
        image = np.load(file)["image"].astype(np.float32)
        if image.ndim == 3:
            image = image.mean(axis=int(np.argmin(image.shape)))
        if min(image.shape) >= 256:
            found.append((file.stem, scaled(image[:512, :512])))
    return found[:count]


def area(above: Image, below: Image) -> float:
    """The chance that one of the first is larger than one of the second."""
    pairs = above[:, None] - below[None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz with `image`")
    parser.add_argument("--model", default="nuclei-2d")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--only", default="", help="names of the images, with commas")
    parser.add_argument("--tile", type=int, default=64, help="voxels a side")
    asked = parser.parse_args()
    network = load_network(asked.model)
    forward, axes = forward_of(network), network.geometry.axes
    tile = (asked.tile,) * network.ndim
    margin = [-(-max(a.context) // a.period) * a.period for a in axes]
    stride = tuple(3 * size // 4 for size in tile)
    middle = tuple(s + (t - s) // 2 for s, t in zip(stride, tile, strict=True))
    ways: dict[str, Callable[[Image], Image]] = {
        "right": forward,
        "snapped": lambda image: snapped(image, forward, tile),
        "blended": lambda image: blended(image, forward, tile),
        "misaligned": lambda image: misaligned(image, forward, tile, margin, axes[0].period),
        "normalised": lambda image: normalised(image, forward, tile, margin, scaled),
    }
    for name, image in images(asked.data, asked.images, asked.only):
        known: dict[str, Image] = {}
        for way, make in ways.items():
            field = known[way] = make(image)
            at = {"grid": tile} if way != "blended" else {"grid": stride, "origin": middle}
            letters = "c" + "zyx"[-network.ndim :]
            found = stitchsafe.seams(field, axes=letters, **at)  # type: ignore[arg-type]
            right = stitchsafe.seams(known["right"], axes=letters, **at)  # type: ignore[arg-type]
            guess = stitchsafe.seams(field, axes=letters, grid="auto")
            ratios = found.ratios["", ""]
            most = max(ratios, key=lambda key: abs(np.log(ratios[key].value)))
            print(
                f"{name:14} {way:11} {'ok' if found.ok else 'SEAMS':6} {most} "
                f"{ratios[most].value:.2f} ({ratios[most].low:.2f} to {ratios[most].high:.2f})  "
                f"roc {area(found.faces.score, right.faces.score):.3f}  "
                f"bad {found.bad}/{len(found.faces)}  auto {guess.grids.get('grid')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
