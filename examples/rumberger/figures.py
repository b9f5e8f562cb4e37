"""Figures 2 to 7 of Rumberger et al. (2021), each by one command: a count or a rate, and a picture.

::

    python examples/rumberger/figures.py 2            # a small setting: minutes on two cores
    python examples/rumberger/figures.py 3 --full     # the paper's setting: hours
    python examples/rumberger/figures.py all -o figures

=======  ==================================================================================
figure   shows
=======  ==================================================================================
2        same-looking objects on a grid of spacing p get (f^l / gcd(f^l, p))^2 ids
3        what a training window no larger than the period breaks, and a crop that is no n·f^l
4        on an image that is 1 everywhere, learnt upsampling tells (f^l)^2 pixels apart, fixed 1
5        same padding tells pixels apart by their distance to the border, as far as it reaches
6        noise, or a slight deformation, tells same-looking objects apart
7        a crop that is no n·f^l breaks those all the same
=======  ==================================================================================

References
----------
Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for Instance
Segmentation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import stitchsafe
from stitchsafe.geometry import analyse_module
from stitchsafe.networks import load_weights
from stitchsafe.nn import UNet
from stitchsafe.training import Elastic, TrainingConfig, draw_disks

BANDWIDTH = 2.5
"""The paper's; embeddings of one object are one id if they lie within it."""


@dataclass(frozen=True)
class Workshop:
    """Where trainings are kept, how many steps they take, unless their own number, and threads."""

    folder: Path
    steps: int | None = None
    threads: int = 1


@dataclass(frozen=True)
class Setting:
    """A network, and how it is trained.

    Parameters
    ----------
    levels, base, upsampling
        Of the U-Net.
    data
        Synthetic disks, as in ``train.yaml``.
    window
        Training window, in pixels.
    steps, rate
        Of the optimiser.
    """

    levels: int
    data: dict[str, Any]
    window: int
    steps: int
    base: int = 12
    upsampling: str = "learnt"
    rate: float = 1e-3

    @property
    def period(self) -> int:
        return 2**self.levels

    def train(self, shop: Workshop) -> nn.Module:
        """Train it, and return the network."""
        steps = shop.steps or self.steps
        arguments = {
            "ndim": 2,
            "levels": self.levels,
            "base_channels": self.base,
            "upsampling": self.upsampling,
            "heads": {"embedding": 3},
        }
        config = TrainingConfig.model_validate(
            {
                "format": "stitchsafe-training/1",
                "name": "figure",
                "data": {"kind": "disks", **self.data},
                "input": {"axes": "yx"},
                "network": {"name": "unet", "arguments": arguments},
                "window": [self.window] * 2,
                "allow_breaking_window": self.window <= self.period,
                "augmentation": {"symmetries": False},
                "optimiser": {
                    "steps": steps, "learning_rate": self.rate, "decay": "none", "clip": 10
                },
                "checkpoint_every": steps,
                "threads": shop.threads,
            }
        )  # fmt: skip
        run = shop.folder / f"run-{abs(hash(str(self)))}"
        stitchsafe.train(config, run)
        network = UNet(**arguments)
        load_weights(network, run / "weights.safetensors")
        return network.eval()

    def draw(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """An image ``(size, size)`` of the same kind, and its labels."""
        data = {name: value for name, value in self.data.items() if name != "elastic"}
        if "elastic" in self.data:
            data["elastic"] = Elastic(**self.data["elastic"])
        image, labels = draw_disks((size, size), np.random.default_rng(7), **data)
        return image[0], labels


@dataclass(frozen=True)
class Panel:
    """A part of a figure: what it claims, what was found, and what there is to see."""

    name: str
    setting: str
    claim: str
    found: str
    picture: np.ndarray


def whole_field(network: nn.Module, image: np.ndarray) -> tuple[np.ndarray, int]:
    """The field ``(3, y, x)`` where there is full context, and how far it lies inside the image."""
    made = stitchsafe.predict(image, model=network, save="fields", border="crop")
    field = made.fields["output"]
    return field, (image.shape[0] - field.shape[1]) // 2


def stitched_field(network: nn.Module, image: np.ndarray, stride: int) -> np.ndarray:
    """The same of tiles of `stride`, each from an input that begins where the tile does.

    Where the stride is no multiple of the period, tiles lie off the network's lattice.
    """
    axis = analyse_module(network, ndim=2, channels=1).axes[0]
    size = axis.input_min
    while axis.output_size(size) < stride:
        size += axis.input_step
    crop = (axis.output_size(size) - stride) // 2
    margin = axis.output_offset
    inside = image.shape[0] - 2 * margin
    padded = np.pad(image, ((crop, size), (crop, size)), mode="reflect")
    field = np.zeros((3, inside + stride, inside + stride), np.float32)
    with torch.inference_mode():
        for y in range(0, inside, stride):
            for x in range(0, inside, stride):
                part = torch.from_numpy(padded[y : y + size, x : x + size])[None, None]
                made = network(part)[0, :, crop : crop + stride, crop : crop + stride]
                field[:, y : y + stride, x : x + stride] = made.numpy()
    return field[:, :inside, :inside]


def ids_of_objects(field: np.ndarray, labels: np.ndarray) -> tuple[int, np.ndarray]:
    """How many ids whole objects have, and a picture of them.

    Whole are the objects that do not touch the border. (Their sizes would not tell: deformed, one
    that is whole may have a fifth fewer pixels than another.)
    """
    cut = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    chosen = np.setdiff1d(labels, [0, *cut])
    means = np.stack([field[:, labels == one].mean(axis=1) for one in chosen])
    shift = stitchsafe.MeanShift(bandwidth=BANDWIDTH).fit(means)
    picture = np.zeros(labels.shape, int)
    for one, which in zip(chosen, shift.labels_, strict=True):
        picture[labels == one] = which + 1
    return len(shift.cluster_centers_), picture


def broken(field: np.ndarray, labels: np.ndarray, stride: int) -> tuple[float, float, np.ndarray]:
    """Shares of pairs of pixels of one object that differ: over lines of a grid, and elsewhere."""
    over: list[np.ndarray] = []
    off: list[np.ndarray] = []
    picture = np.zeros(labels.shape)
    for axis in (0, 1):
        apart = np.linalg.norm(np.diff(field, axis=axis + 1), axis=0) > BANDWIDTH
        low, high = (labels.take(range(*ends), axis) for ends in _ends(labels.shape[axis]))
        same = (low == high) & (low > 0)
        line = np.arange(1, labels.shape[axis]) % stride == 0
        line = line[:, None] if axis == 0 else line[None, :]
        over.append(apart[same & line])
        off.append(apart[same & ~line])
        part = picture[:-1] if axis == 0 else picture[:, :-1]
        part += apart & same
    return float(np.concatenate(over).mean()), float(np.concatenate(off).mean()), picture


def _ends(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, size - 1), (1, size)


def _ids(count: int) -> str:
    return f"{count} id" if count == 1 else f"{count} ids"


def colours(field: np.ndarray) -> np.ndarray:
    """A field of three channels as an image."""
    low = field.min(axis=(1, 2), keepdims=True)
    high = field.max(axis=(1, 2), keepdims=True)
    return np.moveaxis((field - low) / np.maximum(high - low, 1e-9), 0, -1)


def figure_2(full: bool, shop: Workshop) -> Iterator[Panel]:
    """Ids of objects on a grid whose spacing is a multiple of the period, or is not."""
    some = Setting(2, {"spacing": 4, "radius": 1.5}, window=28, steps=400)
    cases = [("2a", some), ("2b", replace(some, data={"spacing": 5, "radius": 1.5}))]
    if full:
        some = Setting(3, {"spacing": 16, "radius": 5.0}, window=128, steps=10_000, base=16)
        cases = [("2a", some), ("2b", replace(some, data={"spacing": 15, "radius": 5.0}))]
    cases.append(("2c", replace(cases[1][1], upsampling="nearest")))
    for name, setting in cases:
        spacing, period = setting.data["spacing"], setting.period
        expected = (period // np.gcd(period, spacing)) ** 2
        image, labels = setting.draw(2 * setting.period * spacing + 200)
        field, inside = whole_field(setting.train(shop), image)
        labels = labels[inside:-inside, inside:-inside]
        found, picture = ids_of_objects(field, labels)
        what = f"spacing {spacing}, period {period}, {setting.upsampling} upsampling"
        yield Panel(name, what, _ids(expected), _ids(found), picture)


def figure_3(full: bool, shop: Workshop) -> Iterator[Panel]:
    """Objects that break over lines of a grid."""
    data = {"spacing": 5, "radius": 1.5}
    small, large, wrong, right = 4, 8, 7, 8
    some, size = Setting(2, data, window=small, steps=3000), 100
    if full:
        small, large, wrong, right = 16, 20, 20, 16
        some = Setting(4, {"spacing": 13, "radius": 5.0}, window=small, steps=20_000, base=16)
        size = 500
    image, labels = some.draw(size)
    for name, window, stride, claim in (
        ("3a", small, some.period, "breaks over the grid"),
        ("3b", large, wrong, "breaks over the lines"),
        ("3c", large, right, "breaks nothing"),
    ):
        network = replace(some, window=window).train(shop)
        field = stitched_field(network, image, stride)
        inside = (size - field.shape[1]) // 2
        over, off, picture = broken(field, labels[inside:-inside, inside:-inside], stride)
        what = f"training window {window}, tiles of {stride}, period {some.period}"
        found = f"{over:.0%} of pairs over the lines, {off:.0%} elsewhere"
        yield Panel(
            name, what, claim, found, picture + 0.3 * (labels[inside:-inside, inside:-inside] > 0)
        )


def figure_4(full: bool, shop: Workshop) -> Iterator[Panel]:
    """Every pixel of a constant image is to have an id of its own."""
    data = {"image": "ones", "labels": "voxels"}
    some = Setting(2, data, window=8, steps=600)
    if full:
        some = Setting(4, data, window=32, steps=10_000, base=3)
    for upsampling, expected in (("learnt", some.period**2), ("nearest", 1)):
        setting = replace(some, upsampling=upsampling)
        field, _ = whole_field(setting.train(shop), setting.draw(400 if full else 80)[0])
        field = field[:, : 4 * some.period, : 4 * some.period]
        points = field.reshape(3, -1).T
        found = len(stitchsafe.MeanShift(bandwidth=BANDWIDTH).fit(points).cluster_centers_)
        what = f"{upsampling} upsampling, period {some.period}"
        yield Panel("4", what, _ids(expected), _ids(found), colours(field))


def figure_5(full: bool, shop: Workshop) -> Iterator[Panel]:
    """Distinct outputs of a network that sees zeros around a constant image, before any training.

    Zeros around the image itself, as wide as the context of a network without padding, reach 20
    pixels into its output: (20 + 1 + 20)^2 pixels differ. Zeros before every convolution reach 22:
    cells of 4 x 4 pixels, which pooling makes one, then begin at the image's corner and not two
    pixels from it, and a cell that zeros have touched anywhere is another one as a whole.
    """
    del full, shop
    for padding, reach in (("valid", 20), ("same", 22)):
        torch.manual_seed(0)
        network = UNet(ndim=2, levels=2, base_channels=16, upsampling="nearest", padding=padding)
        around = reach if padding == "valid" else 0
        for size in (40, 44, 64):
            image = torch.ones(1, 1, size, size, dtype=torch.float64)
            with torch.inference_mode():
                field = network.double().eval()(nn.functional.pad(image, (around,) * 4))[0].numpy()
            found = len(np.unique(field.round(10).reshape(3, -1), axis=1).T)
            where = "around the image" if around else "before every convolution"
            what = f"zeros {where}, of {size}²"
            expected = min(size, 2 * reach + 1) ** 2
            yield Panel("5", what, f"{expected} differ", f"{found} differ", colours(field))


def figure_6(full: bool, shop: Workshop) -> Iterator[Panel]:
    """Noise, or a slight deformation, tells same-looking objects apart."""
    for name, some, image, labels, network in _hardly_alike(full, shop):
        field, seen = _stitched(network, image, labels, some.window)
        over, off, _ = broken(field, seen, some.window)
        found, picture = ids_of_objects(field, seen)
        count = len(np.unique(seen[picture > 0]))
        what = f"{name}, spacing {some.data['spacing']}, period {some.period}, tiles of"
        said = f"{_ids(found)} for {count} objects; {over:.0%} of pairs over the lines break"
        yield Panel(
            "6", f"{what} {some.window}", "ids differ, nothing breaks",
            f"{said}, {off:.0%} elsewhere", colours(field),
        )  # fmt: skip


def figure_7(full: bool, shop: Workshop) -> Iterator[Panel]:
    """A crop that is no n·f^l breaks them all the same."""
    for name, some, image, labels, network in _hardly_alike(full, shop):
        wrong = some.window + (4 if full else 1)
        field, seen = _stitched(network, image, labels, wrong)
        over, off, _ = broken(field, seen, wrong)
        what = f"{name}, spacing {some.data['spacing']}, period {some.period}, tiles of {wrong}"
        said = f"{over:.0%} of pairs over the lines, {off:.0%} elsewhere"
        yield Panel("7", what, "breaks over the lines", said, colours(field))


def _hardly_alike(
    full: bool, shop: Workshop
) -> Iterator[tuple[str, Setting, np.ndarray, np.ndarray, nn.Module]]:
    """Objects whose spacing is a multiple of the period, and networks that are to tell them apart.

    The points that elastic deformation moves lie 1.25 spacings apart, as the paper's do.
    """
    data = {"spacing": 16, "radius": 5.0} if full else {"spacing": 8, "radius": 2.5}
    for name, more in (
        ("noise", {"noise": 0.1}),
        ("elastic", {"elastic": {"spacing": 1.25 * data["spacing"], "sigma": 0.2}}),
    ):
        some = Setting(2, data | more, window=24, steps=3000)
        if full:
            some = Setting(4, data | more, window=48, steps=20_000, base=16)
        network = some.train(shop)
        yield name, some, *some.draw(500 if full else 160), network


def _stitched(
    network: nn.Module, image: np.ndarray, labels: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """The field of tiles, and the labels that lie under it."""
    field = stitched_field(network, image, stride)
    inside = (image.shape[0] - field.shape[1]) // 2
    return field, labels[inside:-inside, inside:-inside]


FIGURES: dict[str, Callable[[bool, Workshop], Iterator[Panel]]] = {
    "2": figure_2,
    "3": figure_3,
    "4": figure_4,
    "5": figure_5,
    "6": figure_6,
    "7": figure_7,
}


def draw(path: Path, panels: list[Panel]) -> None:
    """A PNG with the panels, up to three side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.5 * columns, 5 * rows), squeeze=False, layout="constrained"
    )
    for ax, panel in zip(axes.flat, panels, strict=True):
        ax.imshow(panel.picture, interpolation="nearest", cmap="nipy_spectral")
        ax.set_title(
            f"{panel.name}: {panel.setting}\nclaim: {panel.claim}\nfound: {panel.found}", fontsize=8
        )
        ax.set_axis_off()
    figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=[*FIGURES, "all"])
    parser.add_argument("--full", action="store_true", help="the paper's setting, for hours")
    parser.add_argument("-o", "--out", type=Path, default=Path("figures"), help="for the pictures")
    parser.add_argument("--steps", type=int, help="of each training, for a try")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    print("| figure | setting | claim | found |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(
            Path(folder), asked.steps, asked.threads
        )  # figures 6 and 7 have the same networks
        for name in FIGURES if asked.figure == "all" else [asked.figure]:
            began = time.monotonic()
            panels = []
            for panel in FIGURES[name](asked.full, shop):
                panels.append(panel)
                print(
                    f"| {panel.name} | {panel.setting} | {panel.claim} | {panel.found} |",
                    flush=True,
                )
            path = asked.out / f"figure{name}{'-full' if asked.full else ''}.png"
            draw(path, panels)
            print(f"{path}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
