"""A mask as the foreground, voxel by voxel: of all labels, on any path that makes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heard import Heard
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, InterruptedRunError, StoreError, VolumeError
from stitchsafe.instances import connected_parts, estimate_bandwidth, mean_shift
from stitchsafe.volumes import ArrayStore

OPTIONS: dict[str, Any] = {
    "threads": 1, "max_memory": 10**10, "image": "none", "save": ("labels", "fields"),
}  # fmt: skip
SHAPES = {"flat": (44, 75), "solid": (20, 40, 37)}
BANDWIDTH = {"flat": 0.1, "solid": 1.0}
THRESHOLD = {"flat": 0.01, "solid": 0.995}


def mask_over(kind: str, factor: int = 1) -> np.ndarray:
    """Coarse blobs that cut through objects, and leave out whole cells."""
    shape = [-(-size // factor) for size in SHAPES[kind]]
    blobs = smooth_volume(*shape, seed=5)
    mask = (blobs > np.median(blobs)).astype(np.uint8) * 3
    mask[..., : -(-17 // factor)] = 0
    return mask


def spread(mask: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    for axis in range(mask.ndim):
        mask = mask.repeat(factor, axis=axis)
    return mask[tuple(map(slice, shape))] != 0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of 15 and of 24 cells, models for them, and masks."""
    folder = tmp_path_factory.mktemp("here")
    for kind, shapes in (
        ("flat", {"ndim": 2, "window": (16, 16), "seed": 2}),
        ("solid", {"window": (8, 16, 16)}),
    ):
        labels = {"foreground_threshold": THRESHOLD[kind], "bandwidth": BANDWIDTH[kind],
                  "class_field": "embedding"}  # fmt: skip
        tiny_model(folder / kind, labels=labels, **shapes)
        np.save(folder / f"{kind}.npy", smooth_volume(*SHAPES[kind]))
        np.save(folder / f"{kind}-mask.npy", mask_over(kind))
        np.save(folder / f"{kind}-coarse.npy", mask_over(kind, 3))
    return folder


def predict(
    here: Path, out: Path, kind: str = "flat", mask: Any = None, **more: Any
) -> stitchsafe.pipeline.Prediction:
    given = here / f"{kind}-mask.npy" if mask is None else mask
    options = {"mask": given, "mask_voxels": True, **OPTIONS, **more}
    return stitchsafe.predict(here / f"{kind}.npy", here / kind, out, **options)


def stored(out: Path | str, name: str = "labels/instances/0") -> np.ndarray:
    array = ArrayStore.open(Path(out) / name)
    return array.read(Roi.whole(array.shape))


def clustered_inside(out: Path, kind: str, held: np.ndarray, bandwidth: float) -> np.ndarray:
    """From the stored fields: all points of the mask at once, connected parts."""
    inside = held & (stored(out, "fields/foreground/0")[0] >= THRESHOLD[kind])
    clusters = np.zeros(inside.shape, np.int32)
    points = stored(out, "fields/embedding/0")[:, inside].T
    clusters[inside] = mean_shift(points, bandwidth)[1] + 1
    return connected_parts(clusters)[0]


@pytest.mark.parametrize(("kind", "factor"), [("flat", 1), ("solid", 3)])
def test_what_the_mask_omits_is_neither_clustered_nor_labelled(
    here: Path, tmp_path: Path, kind: str, factor: int
) -> None:
    mask, out = here / f"{kind}-{'coarse' if factor > 1 else 'mask'}.npy", tmp_path / "out.zarr"
    made = predict(here, out, kind, mask, clusters="volume")
    held = spread(np.load(mask), factor, SHAPES[kind])
    expected = clustered_inside(out, kind, held, BANDWIDTH[kind])
    np.testing.assert_array_equal(stored(out), expected)
    assert made.progress.instances == expected.max() > 3
    assert stitchsafe.verify(out).ok
    # Without its voxels, the mask leaves out cells alone, and more is labelled.
    cells = stored(predict(here, tmp_path / "cells.zarr", kind, mask, mask_voxels=False).out)
    assert (cells[~held] > 0).any()
    assert not expected[~held].any()


def test_windows_by_themselves_and_other_sources_too(here: Path, tmp_path: Path) -> None:
    held = mask_over("flat") != 0
    made = predict(here, tmp_path / "foreground.zarr", labels_from="foreground")
    inside = held & (stored(made.out, "fields/foreground/0")[0] >= THRESHOLD["flat"])
    np.testing.assert_array_equal(stored(made.out), connected_parts(inside.astype(np.int32))[0])

    windows = stored(predict(here, tmp_path / "windows.zarr").out)
    assert not windows[~inside].any()
    assert (windows[inside] > 0).all()

    out = tmp_path / "auto.zarr"
    made = predict(here, out, bandwidth="auto", bandwidth_quantile=0.02)
    points = stored(out, "fields/embedding/0")[:, inside].T
    assert made.to_json()["bandwidth"] == estimate_bandwidth(points, quantile=0.02)


def test_a_class_map_is_of_class_zero_outside(here: Path, tmp_path: Path) -> None:
    options = {"labels_from": "argmax", "parts": False}
    plain = predict(here, tmp_path / "plain.zarr", mask_voxels=False, mask=np.ones((44, 75)),
                    **options)  # fmt: skip
    masked = predict(here, tmp_path / "masked.zarr", **options)
    held = mask_over("flat") != 0
    np.testing.assert_array_equal(stored(masked.out)[held], stored(plain.out)[held])
    assert not stored(masked.out)[~held].any()
    assert stored(plain.out)[~held].any()
    assert stitchsafe.verify(masked.out).ok


def test_no_schedule_part_or_repair_changes_a_byte(here: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"clusters": "volume", "save": ("labels", "table")}
    predict(here, tmp_path / "straight.zarr", **options)
    straight = content_of(tmp_path / "straight.zarr")
    predict(here, tmp_path / "other.zarr", **options, block_shape=(48, 32), workers=2)
    assert content_of(tmp_path / "other.zarr") == straight
    for part in ("2/2", "1/2"):
        predict(here, tmp_path / "parts.zarr", **options, part=part)
    assert content_of(tmp_path / "parts.zarr") == straight
    # A chunk of labels that is gone is made again from the volume and the mask.
    chunks = sorted((tmp_path / "other.zarr/labels/instances/0/c").rglob("*"))
    lost = next(each for each in chunks if each.is_file())
    lost.unlink()
    assert not stitchsafe.verify(tmp_path / "other.zarr").ok
    predict(here, tmp_path / "other.zarr", **options, repair=True)
    assert content_of(tmp_path / "other.zarr") == straight


def test_a_mask_that_changes_is_noticed(here: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "mask.npy", tmp_path / "out.zarr"
    shutil.copy(here / "flat-mask.npy", place)
    predict(here, out, mask=place)
    mask = np.load(place)
    voxel = tuple(np.argwhere(mask[:, 20:])[0] + (0, 20))
    mask[voxel] = 0
    assert mask[voxel[0] // 16 * 16 :, voxel[1] // 16 * 16 :][:16, :16].any()  # the cell stays
    np.save(place, mask)
    found = stitchsafe.verify(out)
    assert not found.ok
    assert "it holds other voxels in 1 of 15 cells" in str(found)
    with pytest.raises(StoreError, match="its voxels having the checksum"):
        predict(here, out, mask=place)
    # Between parts of a run, too.
    parts = tmp_path / "parts.zarr"
    shutil.copy(here / "flat-mask.npy", place)
    predict(here, parts, mask=place, part="1/2")
    recipe = json.loads((parts / ".stitchsafe/recipe.json").read_text())
    assert recipe["recipe"]["labels"]["masked"]
    np.save(place, mask)
    with pytest.raises(StoreError, match="skipping: a mask"):
        predict(here, parts, mask=place, part="2/2")


@pytest.mark.usefixtures("quick_workers")
def test_workers_read_what_is_given_and_not_what_the_run_began_with(
    here: Path, tmp_path: Path
) -> None:
    """Where other files lie at the old places by now."""
    options = {"block_shape": (16, 16), "save": ("labels", "table")}
    predict(here, tmp_path / "straight.zarr", **options)
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out.zarr"
    for folder in (old, new):
        folder.mkdir()
        for name in ("flat.npy", "flat-mask.npy"):
            shutil.copy(here / name, folder / name)
        shutil.copytree(here / "flat", folder / "flat")
    predict(old, out, **options, part="1/2")
    for name in ("flat.npy", "flat-mask.npy"):
        np.save(old / name, np.load(old / name)[::-1, ::-1])
    predict(new, out, **options, workers=2)
    np.testing.assert_array_equal(stored(out), stored(tmp_path / "straight.zarr"))
    assert stitchsafe.verify(out).ok  # which looks where they are now


def test_masks_that_hold_the_same_are_the_same(here: Path, tmp_path: Path) -> None:
    mask, out = np.load(here / "flat-mask.npy"), tmp_path / "out.zarr"
    first = predict(here, out, mask=mask != 0)
    again = predict(here, out, mask=mask.astype(np.float32) * -2)
    assert again.progress.blocks_resumed == first.progress.blocks_total


@pytest.mark.parametrize("voxels", [True, False])
def test_nan_in_a_mask_is_refused(here: Path, tmp_path: Path, voxels: bool) -> None:
    mask = np.ones((44, 75), np.float32)
    mask[40, 70] = np.nan
    with pytest.raises(VolumeError, match=r"the mask holds NaN in .* neither yes nor no"):
        predict(here, tmp_path / "out.zarr", mask=mask, mask_voxels=voxels)
    mask[:] = np.nan
    with pytest.raises(VolumeError, match="holds NaN"):
        predict(here, tmp_path / "out.zarr", mask=mask, mask_voxels=voxels)
    assert not (tmp_path / "out.zarr").exists()


def test_a_mask_that_changes_under_a_run_stops_it(here: Path, tmp_path: Path) -> None:
    mask = np.load(here / "flat-mask.npy")

    class Changing(Heard):
        def stage(self, name: str, total: int, unit: str, *more: Any) -> None:
            super().stage(name, total, unit, *more)
            if name == "predict":
                mask[:, 30:] = 1

    said = r"block 0:16,16:32: the mask at 0:16,16:32 is not what it was when the run began"
    with pytest.raises(InterruptedRunError, match=said):
        predict(here, tmp_path / "out.zarr", mask=mask, events=Changing())


def test_arrays_serve_where_no_other_process_needs_them(here: Path, tmp_path: Path) -> None:
    mask = np.load(here / "flat-mask.npy")
    expected = stored(predict(here, tmp_path / "file.zarr").out)
    made = predict(here, tmp_path / "array.zarr", mask=mask)
    np.testing.assert_array_equal(stored(made.out), expected)
    assert stitchsafe.verify(made.out, mask=mask).ok
    with pytest.raises(VolumeError, match="give it as mask="):
        stitchsafe.verify(made.out)
    with pytest.raises(InputError, match="the mask lies in the memory of this process"):
        predict(here, tmp_path / "workers.zarr", mask=mask, workers=2)
    assert not (tmp_path / "workers.zarr").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask-voxels"], "--mask-voxels is for a mask, and there is none"),
        (["--mask", "flat-mask.npy", "--mask-voxels", "--save", "fields"], "makes none"),
    ],
)
def test_a_use_without_meaning_is_refused(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "out.zarr"
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "flat.npy", "-m", "flat", "-o", str(out), *options])
    assert words in capsys.readouterr().err
    assert not out.exists()
