"""What the experiments share: their data, their arguments, and the table that each prints."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Image = np.ndarray


def arguments(purpose: str | None, *, steps: int) -> argparse.Namespace:
    """``--seeds``, ``--steps`` and ``--threads``; the threads are set."""
    parser = argparse.ArgumentParser(description=(purpose or "").partition("\n")[0])
    parser.add_argument("--seeds", type=_count, default=3, help="trainings of each kind")
    parser.add_argument("--steps", type=_count, default=steps, help="of the optimiser, each")
    parser.add_argument("--threads", type=_count, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    return asked


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number from 1 on")
    return int(text)


def data(name: str) -> Path:
    """A file or folder of the shared data; without it the program ends."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("STITCHSAFE_DATA", beside)) / name
    if not path.exists():
        print(f"the data {path} are absent; point STITCHSAFE_DATA to their folder", file=sys.stderr)
        raise SystemExit(2)
    return path


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images ``(n, 1, 32, 32)`` of 0 to 1 and labels: all but each fifth, and each fifth.

    (The file is sorted by digit.)
    """
    with np.load(data("classification/mnist_t10k.npz")) as file:
        images = torch.from_numpy(file["images"]).float()[:, None] / 255
        labels = torch.from_numpy(file["labels"]).long()
    images = torch.nn.functional.pad(images, (2, 2, 2, 2))
    kept_back = torch.arange(len(images)) % 5 == 4
    return (images[~kept_back], labels[~kept_back]), (images[kept_back], labels[kept_back])


def nuclei() -> tuple[list[tuple[Image, Image]], list[tuple[Image, Image]]]:
    """Images of nuclei, float32, and their instances: all but each fifth by name, and each fifth.

    Colours are averaged. The percentiles 1 and 99.8 of an image become 0 and 1, and it is cut
    there; nuclei are bright or dark.
    """
    train, test = [], []
    for number, path in enumerate(sorted(data("dsb2018").glob("*.npz"))):
        with np.load(path) as file:
            image, labels = file["image"].astype(np.float32), file["labels"]
        image = image.mean(-1) if image.ndim == 3 else image
        low, high = np.percentile(image, (1, 99.8))
        image = ((image - low) / max(float(high - low), 1e-6)).clip(0, 1).astype(np.float32)
        (test if number % 5 == 4 else train).append((image, labels))
    return train, test


def table(
    columns: Sequence[str], found: Mapping[str, Sequence[Sequence[float]]], places: Sequence[int]
) -> str:
    """A Markdown table: a row per name, mean ± deviation over seeds in each column.

    Parameters
    ----------
    columns
        Heads; the first is that of the names.
    found
        Name to one sequence of numbers per seed; NaN where there is nothing to measure.
    places
        Digits behind the point, per column of numbers.
    """
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(places)]
    for name, seeds in found.items():
        cells = [name]
        for values, digits_behind in zip(zip(*seeds, strict=True), places, strict=True):
            mean = statistics.fmean(values)
            cell = "–" if math.isnan(mean) else f"{mean:.{digits_behind}f}"
            if len(values) > 1 and not math.isnan(mean):
                cell += f" ± {statistics.stdev(values):.{digits_behind}f}"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def circumstances(asked: argparse.Namespace) -> str:
    """Seeds, steps, threads and cores, to stand under the table."""
    named = ", ".join(f"{name} {value}" for name, value in vars(asked).items())
    command = " ".join([f"python examples/experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return f"{named}; {os.cpu_count()} cores: {command}"
