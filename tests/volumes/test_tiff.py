"""OME-TIFF as other programs find it: values, axes, tiles, levels, and the memory that it takes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes import (
    Volume,
    VoxelSize,
    create_labels,
    keeps_every_page,
    open_volume,
    pyramid_levels,
    tiff_windows,
    write_ome_tiff,
)


def stored(folder: Path, values: np.ndarray, chunks: tuple[int, ...], size: VoxelSize | None):
    """Labels in an OME-Zarr with their pyramid."""
    axes = "zyx"[-values.ndim :]
    levels = pyramid_levels(values.shape, voxel_size=size, minimum=32)
    arrays = create_labels(
        folder, "instances", axes=axes, levels=levels, dtype=values.dtype, chunks=chunks,
        voxel_size=size,
    )  # fmt: skip
    for array, level in zip(arrays, levels, strict=True):
        part = values[tuple(slice(None, None, step) for step in level.factors)]
        array.write(Roi.whole(level.shape), np.ascontiguousarray(part))
    return open_volume(folder / "labels" / "instances")


def levels_of(volume: Volume) -> list[Volume]:
    coarser = [x for x in volume.levels[1:] if keeps_every_page(x.shape, volume.shape)]
    return [volume, *(open_volume(volume.path.rpartition("/")[0], level=x.index) for x in coarser)]


def write(path: Path, levels: list[Volume]) -> None:
    with path.open("wb") as file:
        write_ome_tiff(file, levels, name="instances", scratch=path.parent)


@pytest.mark.parametrize(
    ("shape", "chunks", "size"),
    [
        ((20, 90, 70), (8, 32, 32), VoxelSize((40, 4, 4), "nm")),
        ((300, 530), (300, 100), VoxelSize((0.5, 0.25), "um")),
        ((5, 17, 600), (5, 17, 600), None),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_another_program_finds_the_labels(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], size: VoxelSize, dtype: str
) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    volume = stored(tmp_path / "a.zarr", values, chunks, size)
    levels = levels_of(volume)
    write(tmp_path / "a.ome.tif", levels)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        (series,) = file.series
        assert file.is_ome
        assert not file.is_bigtiff
        assert series.axes == "ZYX"[-len(shape) :]
        assert series.dtype == dtype
        np.testing.assert_array_equal(series.asarray(), values)
        assert file.pages[0].is_tiled
        assert file.pages[0].tile[0] <= 256 >= file.pages[0].tile[1]
        assert len(series.levels) == len(levels)
        for found, level in zip(series.levels, levels, strict=True):
            np.testing.assert_array_equal(found.asarray(), level.read(Roi.whole(level.shape))[0])
        pixels = next(
            e for e in ElementTree.fromstring(file.ome_metadata).iter() if e.tag.endswith("Pixels")
        )
    again = open_volume(tmp_path / "a.ome.tif")
    assert (again.axes, again.voxel_size) == (volume.axes, size)
    if size is not None:
        for axis, length in zip("ZYX"[-len(shape) :], size.values, strict=True):
            assert float(pixels.get(f"PhysicalSize{axis}")) == length
            assert pixels.get(f"PhysicalSize{axis}Unit") in ("nm", "µm")


def test_levels_that_keep_every_page_are_there(tmp_path: Path) -> None:
    """Of coarse slices all levels but those that halve z, of a plane all."""
    flat = stored(tmp_path / "2.zarr", np.ones((200, 100), np.uint8), (64, 64), None)
    assert [x.shape for x in levels_of(flat)] == [(200, 100), (100, 50), (50, 25), (25, 25)]
    size = VoxelSize((4, 1, 1), "um")
    deep = stored(tmp_path / "3.zarr", np.ones((40, 128, 128), np.uint8), (40, 64, 64), size)
    assert [x.shape for x in levels_of(deep)] == [(40, 128, 128), (40, 64, 64), (40, 32, 32)]
    assert len(deep.levels) > 3


@settings(deadline=None)
@given(st.data())
def test_any_chunks_give_the_same_file(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    shape = tuple(data.draw(st.integers(1, 40)) for _ in range(data.draw(st.sampled_from([2, 3]))))
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    values = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint16)
    volume = stored(folder / "a.zarr", values, chunks, None)
    write(folder / "a.tif", [volume])
    np.testing.assert_array_equal(tifffile.imread(folder / "a.tif").reshape(shape), values)


class Counted:
    """A volume that is made as it is read, and tells how much of it was asked for."""

    axes, dtype, voxel_size, path = "zyx", np.dtype("uint32"), None, None
    shape, chunk_shape = (10, 600, 500), (5, 128, 128)

    def __init__(self) -> None:
        self.read_voxels = self.largest = 0

    def read(self, roi: Roi) -> np.ndarray:
        self.read_voxels += roi.size
        self.largest = max(self.largest, roi.size)
        z, y, x = np.ogrid[roi.slices]
        return (z + y // 8 * 3 + x // 8 * 7).astype("uint32")[None]


def test_each_chunk_is_read_once_and_few_at_a_time(tmp_path: Path, monkeypatch) -> None:
    import stitchsafe.volumes._tiff_write as writing

    monkeypatch.setattr(writing, "_IN_MEMORY", 1000)  # so that tiles are put aside on the disk
    volume = Counted()
    windows = list(tiff_windows(volume))
    done = []
    with (tmp_path / "a.tif").open("wb") as file:
        write_ome_tiff(file, [volume], name="a", scratch=tmp_path, advance=lambda: done.append(1))
    assert volume.read_voxels == np.prod(volume.shape)
    assert volume.largest == 5 * 256 * 256
    assert len(done) == len(windows) == 2 * 3 * 2
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "a.tif"), Counted().read(Roi.whole(volume.shape))[0]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_large_chunks_are_read_whole() -> None:
    volume = Counted()
    volume.shape, volume.chunk_shape = (4, 1300, 900), (2, 512, 300)
    assert {window.shape for window in tiff_windows(volume)} == {
        (2, 512, 512), (2, 512, 388), (2, 276, 512), (2, 276, 388),
    }  # fmt: skip


def test_a_large_one_is_a_bigtiff(tmp_path: Path, monkeypatch) -> None:
    import stitchsafe.volumes._tiff_write as writing

    monkeypatch.setattr(writing, "_CLASSIC", 1000)
    volume = stored(tmp_path / "a.zarr", np.ones((40, 40), np.uint8), (40, 40), None)
    write(tmp_path / "a.tif", [volume])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        assert (file.asarray() == 1).all()


def test_a_type_that_ome_does_not_know_is_refused(tmp_path: Path) -> None:
    volume = stored(tmp_path / "a.zarr", np.ones((4, 4), np.uint64), (4, 4), None)
    with pytest.raises(VolumeError, match="no uint64"):
        write(tmp_path / "a.tif", [volume])
