"""Each chunk of the input is read once for a block, however many tiles share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorstore as ts
import torch
from stitching import field_maker

from stitchsafe.coordinates import Roi
from stitchsafe.nn import UNet
from stitchsafe.volumes import ArrayStore, open_volume


def files_read() -> int:
    found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/batch_read")
    return sum(value.get("value", 0) for metric in found for value in metric["values"])


def test_neighbouring_tiles_share_what_is_read(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(96, 96)).astype(np.float32)
    store = ArrayStore.create(tmp_path / "v.zarr", shape=(96, 96), dtype="float32", chunks=(16, 16))
    store.write(Roi.whole((96, 96)), data)
    volume = open_volume(tmp_path / "v.zarr", axes="yx")
    torch.manual_seed(0)
    maker = field_maker(UNet(ndim=2, levels=1, base_channels=2), data[None], (16, 16))
    maker.volume = volume
    block = Roi((32, 32), (32, 32))
    tiles = list(maker.grid.tiles(block))
    assert len(tiles) == 4
    apart = files_read()
    for tile in tiles:
        volume.read(tile.input)  # what it would take tile by tile
    together = files_read()
    source = maker.read(block)
    chunks = [-(-end // 16) - o // 16 for o, end in zip(*_bounds(source.region), strict=True)]
    assert files_read() - together == chunks[0] * chunks[1] == 16
    assert together - apart > 2 * 16
    before = files_read()
    for cell in maker.recipe.cells.cells(block):
        maker.fields(cell, source)
        source.part(cell)
    assert files_read() == before


def _bounds(region: Roi) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return region.offset, region.end
