"""Each chunk of the input is read once for a block, however many tiles share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def test_a_device_goes_on_from_one_cell_to_the_next() -> None:
    """The first pass of a cell is launched before the last one of the cell before is taken."""
    data = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    torch.manual_seed(0)
    maker = field_maker(UNet(ndim=2, levels=1, base_channels=2), data, (16, 16))
    cells = list(maker.recipe.cells.cells(Roi((0, 0), (32, 64))))
    tiles = [len(list(maker.grid.tiles(cell))) for cell in cells]
    assert len(cells) > 1
    apart = [maker.fields(cell, maker.read(cell)) for cell in cells]
    launched: list[int] = []
    plain = maker.network.stream

    def ahead(batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
        """As a device does: one pass is under way while the one before is taken."""
        under_way = None
        for batch in batches:
            result = next(plain([batch]))
            launched.append(len(launched))
            if under_way is not None:
                yield under_way
            under_way = result
        yield under_way

    maker.network.stream = ahead  # type: ignore[method-assign]
    made = maker.stream(cells, maker.read_cells(cells))
    for number, expected in enumerate(apart):
        found = next(made)
        done = sum(tiles[: number + 1])
        assert len(launched) == min(done + 1, sum(tiles))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
