"""Masks, chunks within cells, and volumes however they are stored, through predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from heard import Heard
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, PlanError, StoreError, VolumeError
from stitchsafe.volumes import ArrayStore

OPTIONS: dict[str, Any] = {
    "threads": 1, "max_memory": 10**10, "save": ("labels", "fields"), "image": "none",
}  # fmt: skip
SHAPE = (80, 150)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of fifteen cells and its result."""
    here = tmp_path_factory.mktemp("kinds")
    tiny_model(here / "tiny", ndim=2, window=(32, 32), tile=(16, 32))
    np.save(here / "volume.npy", smooth_volume(*SHAPE))
    stitchsafe.predict(here / "volume.npy", here / "tiny", here / "plain.zarr", **OPTIONS)
    return here


def predict(here: Path, out: Path | str, volume: Any = None, **more: Any) -> Path:
    volume = here / "volume.npy" if volume is None else volume
    stitchsafe.predict(volume, here / "tiny", out, **{**OPTIONS, **more})
    return Path(out)


def array(out: Path, name: str) -> np.ndarray:
    opened = ArrayStore.open(out / name)
    return opened.read(Roi.whole(opened.shape))


LABELS, FIELD = "labels/instances/0", "fields/embedding/0"


def mask_of(*wanted: tuple[int, int], factor: int = 1) -> np.ndarray:
    """A mask with one voxel in each of some cells."""
    mask = np.zeros([-(-size // factor) for size in SHAPE], np.uint8)
    for y, x in wanted:
        mask[(32 * y + 9) // factor, (32 * x + 11) // factor] = 1
    return mask


CELLS = ((0, 0), (0, 1), (1, 1), (2, 4))


def test_cells_without_the_mask_are_skipped(here: Path, tmp_path: Path) -> None:
    heard = Heard()
    np.save(tmp_path / "mask.npy", mask_of(*CELLS))
    made = stitchsafe.predict(
        here / "volume.npy", here / "tiny", tmp_path / "out.zarr",
        mask=tmp_path / "mask.npy", events=heard, **OPTIONS,
    )  # fmt: skip
    assert "11 of 15 cells hold no voxel of it and are skipped" in heard
    assert made.to_json()["cells_skipped"] == 11
    tiles = [len(list(made.plan.grid.tiles(cell))) for cell in made.plan.recipe.cells.cells()]
    assert 0 < made.plan.tiles < sum(tiles) / 2  # what is left out is not counted
    inside = np.zeros(SHAPE, bool)
    for y, x in CELLS:
        inside[32 * y : 32 * y + 32, 32 * x : 32 * x + 32] = True
    out, plain = tmp_path / "out.zarr", array(here / "plain.zarr", FIELD)
    np.testing.assert_array_equal(array(out, FIELD), np.where(inside, plain, 0))
    labels = array(out, LABELS)
    assert labels[inside].any()
    assert not labels[~inside].any()
    entered = json.loads((out / ".stitchsafe/ledger/predict/1_0.json").read_text())["cells"]
    assert entered[0]["record"]["skipped"] is True
    assert stitchsafe.verify(out).ok
    # No block, worker, or finer grid of the same mask changes a byte.
    again = predict(
        here, tmp_path / "again.zarr", mask=tmp_path / "mask.npy", block_shape=(96, 64), workers=2
    )
    assert content_of(again) == content_of(out)
    coarse = predict(here, tmp_path / "coarse.zarr", mask=mask_of(*CELLS, factor=4))
    assert (array(coarse, LABELS) == labels).all()
    # A mask that has changed is named, unless it leaves out the same cells.
    np.save(tmp_path / "mask.npy", 2 * mask_of(*CELLS))
    assert stitchsafe.verify(out, cells=1).ok
    np.save(tmp_path / "mask.npy", mask_of(*CELLS[1:]))
    found = stitchsafe.verify(out, cells=1)
    (said,) = found.corrupt
    assert (found.ok, found.repairable) == (False, False)
    assert f"the mask {tmp_path / 'mask.npy'} has changed: 1 of 15 cells" in said
    (tmp_path / "mask.npy").rename(tmp_path / "moved.npy")
    with pytest.raises(VolumeError, match=r"mask\.npy"):
        stitchsafe.verify(out, cells=1)
    assert stitchsafe.verify(out, mask=mask_of(*CELLS), cells=1).ok
    np.save(tmp_path / "mask.npy", mask_of(*CELLS))
    # What was written where nothing should be is found, and taken away.
    store = ArrayStore.open(out / LABELS)
    store.write(Roi((64, 0), (16, 32)), np.ones((16, 32), store.dtype))
    assert not stitchsafe.verify(out).ok
    predict(here, out, mask=tmp_path / "mask.npy", repair=True)
    assert content_of(out) == content_of(again)


def test_masks_that_do_not_fit_are_refused(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    for mask, error, words in (
        (np.ones((80, 149), bool), VolumeError, "does not lie over the volume"),
        (np.ones((3, 40, 75), bool), VolumeError, "does not lie over the volume"),
        (np.zeros(SHAPE, bool), InputError, "is 0 all over"),
    ):
        with pytest.raises(error, match=words):
            predict(here, out, mask=mask)
    assert not out.exists()
    predict(here, out, mask=mask_of((0, 0)))
    with pytest.raises(StoreError, match="skipping: a mask that leaves out 13 of 15 cells, not"):
        predict(here, out, mask=mask_of((0, 0), (1, 1)))
    with pytest.raises(StoreError, match="skipping: None, not a mask"):
        predict(here, out)


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_chunks_within_cells(here: Path, tmp_path: Path, ngff: str) -> None:
    out = predict(
        here, tmp_path / "out.zarr", ngff=ngff, chunk_shape=(8, 16), image="copy",
        block_shape=(64, 96), workers=2 if ngff == "0.5" else 1,  # shards need one writer each
    )  # fmt: skip
    for name in (LABELS, FIELD, "labels/instances/1"):
        stored = zarr.open_array(out / name, mode="r")
        assert stored.chunks[-2:] == (8, 16)
        assert (stored.shards or (32, 32))[-2:] == (32, 32)
        assert (stored.shards is None) is (ngff == "0.4")
    for name in (LABELS, FIELD):
        np.testing.assert_array_equal(
            zarr.open_array(out / name)[...], array(here / "plain.zarr", name)
        )
    assert stitchsafe.verify(out).ok
    with pytest.raises(StoreError, match=r"chunk_shape: None, not \[8, 16\]"):
        predict(here, out, ngff=ngff, image="copy")


def test_chunks_that_do_not_fill_cells_are_refused(here: Path, tmp_path: Path) -> None:
    for shape in ((12, 16), (64, 64), (8,)):
        with pytest.raises(PlanError, match="give a divisor"):
            predict(here, tmp_path / "out.zarr", chunk_shape=shape)
    assert not (tmp_path / "out.zarr").exists()


def test_large_cells_are_shards_by_themselves(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny", ndim=2, window=(1056, 32), tile=(176, 32))
    np.save(tmp_path / "volume.npy", smooth_volume(1060, 40))
    out = predict(tmp_path, tmp_path / "out.zarr")
    stored = zarr.open_array(out / LABELS, mode="r")
    assert stored.shards == (1056, 32)
    assert stored.chunks == (352, 32)


STORED = {
    "fortran": lambda data: np.asfortranarray(data),
    "big-endian": lambda data: data.astype(">u2"),
    "fortran, big-endian": lambda data: np.asfortranarray(data.astype(">u2")),
    "native": lambda data: data.astype("u2"),
}


@pytest.mark.parametrize("kind", STORED)
def test_the_order_of_bytes_and_voxels_changes_nothing(
    here: Path, tmp_path: Path, kind: str
) -> None:
    np.save(tmp_path / "volume.npy", STORED[kind](np.load(here / "volume.npy")))
    out = predict(here, tmp_path / "out.zarr", tmp_path / "volume.npy")
    for name in (LABELS, FIELD):
        np.testing.assert_array_equal(array(out, name), array(here / "plain.zarr", name))
    assert stitchsafe.verify(out, cells=2).ok


def test_zarr_v2_in_fortran_order_and_big_endian(here: Path, tmp_path: Path) -> None:
    stored = zarr.create_array(
        tmp_path / "volume", shape=SHAPE, chunks=(17, 40), dtype=">i4", zarr_format=2, order="F"
    )
    stored[...] = np.load(here / "volume.npy")
    out = predict(here, tmp_path / "out.zarr", tmp_path / "volume")
    np.testing.assert_allclose(array(out, FIELD), array(here / "plain.zarr", FIELD), atol=1e-6)


def test_several_channels_of_one_time(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny", ndim=2, window=(32, 32), channels=2)
    data = np.stack([[smooth_volume(40, 60, seed=t + 2 * c) for c in range(2)] for t in range(3)])
    np.save(tmp_path / "volume.npy", data)
    out = predict(tmp_path, tmp_path / "out.zarr", axes="tcyx", time=2)
    np.save(tmp_path / "one.npy", data[2])
    one = predict(tmp_path, tmp_path / "one.zarr", tmp_path / "one.npy", axes="cyx")
    np.testing.assert_array_equal(array(out, FIELD), array(one, FIELD))
    assert stitchsafe.verify(out, cells=2).ok


def test_a_region_reads_what_lies_around_it(here: Path, tmp_path: Path) -> None:
    roi = Roi((21, 37), (40, 70))
    out = predict(here, tmp_path / "out.zarr", roi=roi, chunk_shape=(16, 16))
    within = (slice(None), *roi.slices)
    plain = array(here / "plain.zarr", FIELD)
    np.testing.assert_array_equal(array(out, FIELD)[within], plain[within])
    assert stitchsafe.verify(out, cells=2).ok


def test_voxels_that_are_no_cubes_and_a_level(tmp_path: Path) -> None:
    from reader_files import write_ome_zarr

    tiny_model(tmp_path / "tiny", voxel_size=(40, 20, 20))
    write_ome_zarr(tmp_path / "volume", smooth_volume(20, 40, 40), nanometers=10, levels=2)
    with pytest.raises(InputError, match="voxel"):
        predict(tmp_path, tmp_path / "out.zarr", tmp_path / "volume", level=1)
    out = predict(
        tmp_path, tmp_path / "out.zarr", tmp_path / "volume", level=1, voxel_size="40,20,20nm"
    )
    content = json.loads((out / "labels/instances/zarr.json").read_text())["attributes"]["ome"]
    (transformation,) = content["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert transformation["scale"] == [40, 20, 20]
    assert array(out, LABELS).shape == (10, 20, 20)
