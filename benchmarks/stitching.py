"""What tiling costs: a prediction out of core against one bare forward pass, in the same run.

Both see the same random volume and the same network on the same machine. The bare pass has the
whole volume in memory and writes nothing; the prediction reads Zarr, computes overlapping tiles and
writes fields durably. Printed are medians of several rounds and their ratio::

    python benchmarks/stitching.py --size 160 --tile 80 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.networks import Runtime, TorchNetwork
from stitchsafe.volumes import ArrayStore


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=160, help="voxels a side")
    parser.add_argument("--tile", type=int, default=80, help="voxels a side of a tile")
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--channels", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    module = stitchsafe.UNet(ndim=3, levels=asked.levels, base_channels=asked.channels)
    network = TorchNetwork(module)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (asked.size,) * 3
        data = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        volume = ArrayStore.create(folder / "in.zarr", shape=shape, dtype="uint8", chunks=(64,) * 3)
        volume.write(Roi.whole(shape), data)
        plan = stitchsafe.plan(
            folder / "in.zarr", network, save="fields", tile_shape=(asked.tile,) * 3
        )
        whole = np.zeros((1, 1, *plan.grid.whole().input.shape), np.float32)
        network.prepare(Runtime(threads=threads))
        bare, tiled = [], []
        for _ in range(asked.rounds):
            bare.append(seconds(lambda: network.run(whole)))
            tiled.append(
                seconds(
                    lambda: stitchsafe.predict(
                        folder / "in.zarr", network, folder / "out.zarr", save="fields",
                        tile_shape=(asked.tile,) * 3, overwrite=True,
                    )
                )
            )  # fmt: skip
    first, second = statistics.median(bare), statistics.median(tiled)
    print(f"one bare pass   {first:.2f} s ({plan.whole_flops / first / 1e9:.0f} GFLOP/s)")
    print(f"tiled, on disk  {second:.2f} s ({plan.flops / second / 1e9:.0f} GFLOP/s)")
    print(f"ratio           {second / first:.2f}, of which {plan.redundancy:.2f} is repeated work")


if __name__ == "__main__":
    main()
