"""What everything around the network costs: a whole prediction against its bare forward passes.

For each network the same tiles are passed twice on the same machine in the same run: bare, from
arrays that lie ready to results that are dropped; and by `predict`, which reads Zarr, scales,
gathers, passes, crops, clusters, compresses, writes durably, merges and builds the pyramid. Printed
are the medians of several rounds, taken in turns, and their ratio: of the time on the clock, and of
the processors' time, which what else runs on the machine disturbs less::

    python benchmarks/pipeline.py --rounds 3 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.networks import Network, Runtime, TorchNetwork, load_network
from stitchsafe.volumes import ArrayStore


@dataclass(frozen=True)
class Case:
    """A network, what is made of its fields, and a volume for it."""

    name: str
    network: Network
    save: str
    shape: tuple[int, ...]
    options: dict[str, Any]


def cases(names: list[str], size: int) -> Iterator[Case]:
    flat, solid = (12 * size,) * 2, (size,) * 3
    torch.manual_seed(0)
    made = {
        "unet-2d": (stitchsafe.UNet(ndim=2, levels=3, base_channels=16), flat),
        "unet-3d": (stitchsafe.UNet(ndim=3, levels=2, base_channels=12), solid),
    }
    for name in names:
        if name in made:
            module, shape = made[name]
            yield Case(f"{name}, fields", TorchNetwork(module), "fields", shape, {})
            continue
        network = load_network(name)
        card = network.config
        assert card is not None
        shape = solid if network.ndim == 3 else flat
        options = {}
        if card.input.voxel_size is not None:
            text = ",".join(map(str, card.input.voxel_size))
            options["voxel_size"] = f"{text}{'nm' if card.input.unit == 'nanometer' else ''}"
        for save in ("fields", "labels"):
            yield Case(f"{name}, {save}", network, save, shape, options)


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of all processors."""
    clock, processors = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processors


def measure(case: Case, folder: Path, rounds: int, threads: int) -> str:
    noise = np.random.default_rng(0).normal(size=case.shape)
    smooth = gaussian_filter(noise, 3.0)
    data = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    chunks = (64,) * 3 if len(case.shape) == 3 else (256,) * 2
    volume = ArrayStore.create(folder / "in.zarr", shape=case.shape, dtype="uint8", chunks=chunks)
    volume.write(Roi.whole(case.shape), data)
    options = {"save": case.save, "image": "none", "threads": threads, **case.options}
    given: tuple[Any, ...] = (folder / "in.zarr", case.network)
    plan = stitchsafe.plan(*given, **options)
    inputs = plan.grid.input_shapes(plan.recipe.roi)
    batches = {
        shape: np.random.default_rng(0).random((1, 1, *shape), np.float32) for shape in inputs
    }

    def bare() -> None:
        case.network.prepare(Runtime(threads=threads))
        for shape, count in inputs.items():
            for _ in range(count):
                case.network.run(batches[shape])

    def whole() -> None:
        stitchsafe.predict(*given, folder / "out.zarr", overwrite=True, **options)

    found = [(spent(bare), spent(whole)) for _ in range(rounds)]
    clock = [statistics.median(each[side][0] for each in found) for side in (0, 1)]
    processors = [statistics.median(each[side][1] for each in found) for side in (0, 1)]
    return (
        f"{case.name:24} {plan.tiles:5} tiles  {clock[0]:7.2f} s bare {clock[1]:7.2f} s whole  "
        f"ratio {clock[1] / clock[0]:.2f} on the clock, {processors[1] / processors[0]:.2f} of "
        "the processors"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192, help="voxels a side; in 2-D twelve times")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "networks", nargs="*", default=["unet-2d", "unet-3d", "neurites-em", "nuclei-2d"]
    )
    asked = parser.parse_args()
    for case in cases(asked.networks, asked.size):
        with tempfile.TemporaryDirectory() as name:
            print(measure(case, Path(name), asked.rounds, asked.threads), flush=True)


if __name__ == "__main__":
    main()
