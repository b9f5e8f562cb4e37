"""What cutting into clustering windows changes: labels of a model, beside those of one window.

Fields are the same to rounding, whatever the window. Each volume is predicted twice: with windows
as the model's card has them, and with a single one that holds all. Printed are the scores of both
against the truth, how far the two lie apart, and which instances of either have no partner in the
other, with what they lie over there::

    python benchmarks/windows.py neurites-em fib25_em.h5 --from-slice 120 --voxel-size 10,10,10nm
    python benchmarks/windows.py nuclei-2d images/*.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stitchsafe
from stitchsafe.coordinates import ceil_to
from stitchsafe.metrics import Contingency
from stitchsafe.networks import Network, load_network

Labels = NDArray[Any]
ALIKE = 0.8


def images(paths: list[Path], begin: int, axes: str) -> Iterator[tuple[str, Labels, Labels]]:
    """Names, images and true labels; of 2-D ones only those larger than any window."""
    for path in paths:
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path) as file:
                image, truth = file["raw"][begin:], file["labels"][begin:]
        else:
            with np.load(path) as content:
                image, truth = content["image"], content["labels"]
        if image.ndim > len(axes):
            image = image.mean(axis=int(np.argmin(image.shape)))
        yield path.stem, image, truth.astype(np.int64)


def with_window(name: str, window: tuple[int, ...] | None) -> Network:
    """The model with another clustering window."""
    network = load_network(name)
    card = network.config
    assert card is not None
    assert card.labels is not None
    if window is not None:
        labels = card.labels.model_copy(update={"window": window})
        network.config = card.model_copy(update={"labels": labels})  # type: ignore[misc]
    return network


def compare(cut: Labels, whole: Labels) -> tuple[str, list[str]]:
    """How many instances have a partner, and those that have none with what they overlap."""
    table = Contingency.of(cut, whole)
    both = (table.predicted > 0) & (table.truth > 0)
    sizes = [dict(zip(*np.unique(each, return_counts=True), strict=True)) for each in (cut, whole)]
    overlaps: tuple[dict[int, dict[int, int]], ...] = ({}, {})
    for a, b, voxels in zip(
        *(c[both].tolist() for c in (table.predicted, table.truth, table.voxels)), strict=True
    ):
        overlaps[0].setdefault(a, {})[b] = voxels
        overlaps[1].setdefault(b, {})[a] = voxels
    same, alike, lines = 0, 0, []
    for side, names in enumerate(("windows", "one")):
        for name in sorted(n for n in sizes[side] if n):
            size, partners = sizes[side][name], overlaps[side].get(name, {})
            best = max(partners, key=lambda p: partners[p], default=0)
            shared = partners.get(best, 0)
            union = size + sizes[1 - side].get(best, 0) - shared
            if shared > ALIKE * union:
                same += side == 0 and shared == union
                alike += side == 0 and shared < union
                continue
            over = [f"{p} ({v} of {sizes[1 - side][p]})" for p, v in sorted(partners.items())]
            lines.append(
                f"{names}: {name} ({size} voxels) lies over {', '.join(over) or 'nothing'}"
            )
    return f"{same} the same, {alike} the same but for {1 - ALIKE:.0%}", lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--from-slice", type=int, default=0)
    parser.add_argument("--voxel-size")
    parser.add_argument("--window", type=int, nargs="+", help="instead of the card's")
    asked = parser.parse_args()
    axes = load_network(asked.model).config.input.axes  # type: ignore[union-attr]
    options: dict[str, Any] = {"voxel_size": asked.voxel_size} if asked.voxel_size else {}
    for name, image, truth in images(asked.files, asked.from_slice, axes):
        found = []
        whole_window = tuple(ceil_to(size, 64) for size in image.shape)
        for window in (asked.window and tuple(asked.window), whole_window):
            made = stitchsafe.predict(image, with_window(asked.model, window), **options)
            assert made.labels is not None
            found.append(made.labels)
        cut, whole = found
        told, lines = compare(cut, whole)
        apart = stitchsafe.evaluate(cut.astype(np.int64), whole.astype(np.int64) + 1)
        print(
            f"{name} {image.shape}: {cut.max()} instances in windows, {whole.max()} in one; "
            f"{apart.voi_split + apart.voi_merge:.4f} bits apart; {told}; others:"
        )
        for label, each in (("windows", cut), ("one", whole)):
            score = stitchsafe.evaluate(each.astype(np.int64), truth).to_json()
            print(
                f"  {label:8} VOI {score['voi_split']:.3f} + {score['voi_merge']:.3f}, adapted "
                f"Rand error {score['adapted_rand_error']:.3f}, AP {score['ap']}"
            )
        for line in lines:
            print(f"  {line}")


if __name__ == "__main__":
    main()
