"""What is read of a volume outside the cells that are predicted counts too."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heard import Heard
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import smooth_volume, tiny_model

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Shares, border_map
from stitchsafe.errors import StoreError, VolumeError
from stitchsafe.networks import load_network
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.volumes import ArrayStore, open_volume

SHAPE, ROI = (96, 128), Roi((32, 0), (32, 128))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region of a volume, and all of it but what a mask leaves out."""
    here = tmp_path_factory.mktemp("read")
    tiny_model(here / "tiny", ndim=2, window=(16, 32), normalize="none")
    volume = ArrayStore.create(here / "volume", shape=SHAPE, dtype="uint8", chunks=(16, 32))
    volume.write(Roi.whole(SHAPE), smooth_volume(*SHAPE))
    mask = ArrayStore.create(here / "mask", shape=SHAPE, dtype="uint8", chunks=(16, 32))
    holes = np.ones(SHAPE, np.uint8)
    holes[:64, 32:96] = 0
    mask.write(Roi.whole(SHAPE), holes)
    predict(here, "roi", roi=ROI)
    predict(here, "masked", mask=here / "mask")
    recipe = ResultStore.at(here / "masked.zarr").recipe()
    assert sum(map(recipe.skips, recipe.cells.cells())) == 8
    return here


def predict(here: Path, name: str, **options: Any) -> Heard:
    heard = Heard()
    stitchsafe.predict(
        here / "volume", here / "tiny", here / f"{name}.zarr", save=("fields", "labels"), threads=1,
        labels_from="foreground", max_memory=10**10, events=heard, **options,
    )  # fmt: skip
    return heard


@pytest.fixture
def here(made: Path) -> Iterator[Path]:
    """Results whose volume is still where they found it."""
    yield made
    kept = smooth_volume(*SHAPE)
    stored = ArrayStore.open(made / "volume")
    stored.write(Roi.whole(SHAPE), kept)


def change(here: Path, position: tuple[int, ...]) -> None:
    stored = ArrayStore.open(here / "volume")
    voxel = Roi(position, (1,) * len(position))
    stored.write(voxel, 255 - stored.read(voxel))


OUTSIDE = {  # voxels that cells read, and that are in none of them
    "roi": [(31, 5), (64, 90)],
    "masked": [(63, 33), (0, 95)],
}


@pytest.mark.parametrize(("name", "at"), [(n, at) for n, ats in OUTSIDE.items() for at in ats])
def test_a_change_outside_the_cells_is_found(here: Path, name: str, at: tuple[int, int]) -> None:
    before = smooth_volume(*SHAPE)
    change(here, at)
    found = stitchsafe.verify(here / f"{name}.zarr")
    assert not found.ok
    assert not found.repairable
    assert any("holds other values than were read" in text for text in found.corrupt)
    options = {"roi": ROI} if name == "roi" else {"mask": here / "mask"}
    with pytest.raises(StoreError, match="holds other values than were read"):
        predict(here, name, **options)
    stored = ArrayStore.open(here / "volume")
    stored.write(Roi.whole(SHAPE), before)
    heard = predict(here, name, **options)  # other files, the same voxels
    assert "is compared" in heard


def test_any_finished_cell_tells_of_a_change(here: Path) -> None:
    """Not only some of them."""
    for cell in ResultStore.at(here / "roi.zarr").recipe().cells.cells():
        change(here, cell.offset)
        with pytest.raises(StoreError, match="has changed since"):
            predict(here, "roi", roi=ROI)
        change(here, cell.offset)


def test_untouched_files_are_not_read_again(here: Path) -> None:
    predict(here, "roi", roi=ROI)
    heard = predict(here, "roi", roi=ROI)
    assert "is compared" not in heard
    at = here / "volume" / "c" / "2" / "1"
    os.utime(at)
    assert "is compared" in predict(here, "roi", roi=ROI)


def test_chunks_of_the_context_may_be_missing_too(here: Path) -> None:
    shutil.rmtree(here / "volume" / "c" / "1")  # above the region
    with pytest.raises(VolumeError, match=r"4 chunks of .* are absent"):
        predict(here, "other", roi=ROI, refuse_missing_chunks=True)
    assert not (here / "other.zarr").exists()
    plan = stitchsafe.plan(here / "volume", here / "tiny", roi=ROI, max_memory=10**10)
    assert plan.grid.bounds(ROI).offset[0] < 32
    shutil.rmtree(here / "volume" / "c" / "0")  # far from it
    with pytest.raises(VolumeError, match=r"4 chunks of"):
        predict(here, "other", roi=ROI, refuse_missing_chunks=True)


def test_chunks_of_a_mask_may_be_missing_too(here: Path) -> None:
    """Here the zeros were never written, which looks like it."""
    assert len(list(open_volume(here / "mask", axes="yx").absent_chunks())) == 8
    shutil.copytree(here / "mask", here / "torn")
    (here / "torn" / "c" / "5" / "3").unlink()
    heard = predict(here, "torn-out", mask=here / "torn")
    assert "9 chunks of the mask" in heard
    with pytest.raises(VolumeError, match=r"chunks of the mask .* are absent"):
        predict(here, "other", mask=here / "torn", refuse_missing_chunks=True)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_shares_are_disjoint_and_hold_all_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "share-model"
    if not folder.exists():
        tiny_model(folder, ndim=2, window=(8, 8), normalize="none")
    network = load_network(folder)
    shape = tuple(data.draw(st.integers(6, 60)) for _ in range(2))
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    end = [data.draw(st.integers(b + 1, size)) for b, size in zip(begin, shape, strict=True)]
    roi = Roi.from_bounds(begin, end)
    mask = np.zeros(shape, np.uint8)
    for _ in range(data.draw(st.integers(1, 3))):
        mask[tuple(data.draw(st.integers(b, e - 1)) for b, e in zip(begin, end, strict=True))] = 1
    plan = stitchsafe.plan(
        np.zeros(shape, np.uint8), network, roi=roi, tile_shape=(8, 8), labels_from="foreground",
        mask=mask, max_memory=10**10, border=data.draw(st.sampled_from(["reflect", "edge"])),
    )  # fmt: skip
    shares, cells = Shares(plan.recipe, plan.grid), list(plan.recipe.cells.cells())
    assert len(cells) > 1 or max(roi.shape) <= 16
    owned = [share for cell in cells if (share := shares.of(cell)) is not None]
    for one, other in itertools.combinations(owned, 2):
        assert one.intersect(other).size == 0
    answered = np.zeros(shape, bool)
    for share in owned:
        answered[share.slices] = True
    read = np.zeros(shape, bool)
    for cell in cells:
        if not plan.recipe.skips(cell):
            for tile in plan.grid.tiles(cell):
                index = [
                    border_map(b, e, size, plan.recipe.border)
                    for b, e, size in zip(tile.input.offset, tile.input.end, shape, strict=True)
                ]
                read[np.ix_(*index)] = True
    assert not (read & ~answered).any()
