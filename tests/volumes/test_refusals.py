"""Bad input: one line that says what, why and what to do; nothing else."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes import open_volume

CUBE = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)


def refused(*words, **options):
    with pytest.raises(VolumeError) as caught:
        open_volume(options.pop("source"), **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_nothing_there(tmp_path):
    refused("no file or folder", str(tmp_path), source=tmp_path / "absent" / "x.zarr")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gs://bucket/x.zarr", "s3://"),
        ("s3:///x.zarr", "bucket"),
        ("https:///x.zarr", "host"),
        ("https://host/x.zarr?token=1", "'?'"),
        ("file://elsewhere/x.zarr", "three slashes"),
    ],
)
def test_text_that_names_no_place_is_refused(url, why):
    refused(url, why, source=url)


def test_a_folder_without_metadata(tmp_path):
    refused("without Zarr metadata", source=tmp_path)


@pytest.mark.parametrize("content", [b"", b"just text\n", b"\x89PNG\r\n\x1a\n"])
def test_files_of_other_kinds(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    refused("no known format", source=tmp_path / "a.txt")


@pytest.mark.parametrize("metadata", ["{", "[]", "{}", '{"zarr_format": 3, "node_type": "array"}'])
def test_damaged_zarr_metadata(tmp_path, metadata):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(metadata)
    refused(str(tmp_path / "a.zarr"), source=tmp_path / "a.zarr")


def test_truncated_files(tmp_path):
    big = np.arange(64**3, dtype=np.uint16).reshape(64, 64, 64)
    np.save(tmp_path / "a.npy", big)
    np.savez(tmp_path / "a.npz", image=big)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = big
    tifffile.imwrite(tmp_path / "a.tif", big, photometric="minisblack")
    tifffile.imwrite(tmp_path / "z.tif", big, photometric="minisblack", compression="zlib")
    for name in ("a.npy", "a.npz", "a.h5", "a.tif", "z.tif"):
        content = (tmp_path / name).read_bytes()
        for part in (len(content) // 2, 12):
            (tmp_path / name).write_bytes(content[:part])
            refused(name, source=tmp_path / name)


def test_pickled_numpy_is_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
    refused("cannot be read", source=tmp_path / "a.npy")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_damaged_chunk_is_named(tmp_path, zarr_format):
    zarr.create_array(tmp_path / "a.zarr", data=CUBE, chunks=(5, 6, 7), zarr_format=zarr_format)
    chunk = tmp_path / "a.zarr" / ("c/0/0/0" if zarr_format == 3 else "0.0.0")
    chunk.write_bytes(chunk.read_bytes()[:20])
    volume = open_volume(tmp_path / "a.zarr")
    with pytest.raises(VolumeError, match=r"cannot be read at 0:2,0:2,0:2") as caught:
        volume.read(Roi((0, 0, 0), (2, 2, 2)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "axes", "words"),
    [
        (CUBE[0], "zyx", ("2 axes (6 x 7), not 3", "--axes yx")),
        (CUBE, "yx", ("3 axes", "--axes zyx")),
        (CUBE, "zzx", ("repeated",)),
        (CUBE, "qyx", ("q is not one of",)),
        (CUBE, "czx", ("has y and x",)),
        (CUBE, "", ("not 0",)),
    ],
)
def test_wrong_axes(array, axes, words):
    refused(*words, source=array, axes=axes)


def test_too_many_or_too_few_axes():
    refused("1 axes (4)", source=np.zeros(4))
    refused("6 axes", source=np.zeros((1, 1, 1, 1, 2, 2)))


def test_what_is_no_image():
    refused("complex64", source=np.zeros((2, 2), "complex64"))
    refused("<U4", source=np.array([["text"]]))
    refused("empty", source=np.zeros((0, 4)))


def test_out_of_range_says_what_there_is(tmp_path):
    data = np.zeros((2, 3, 4, 5, 6), np.uint8)
    refused("2 time points", "--time 0 to 1", source=data)
    refused("time point 2", "time points 0 to 1", source=data, time=2)
    refused("channel 3", "channels 0 to 2", "--channel", source=data, time=0, channel=3)
    refused("channel 1", "channel 0 only", source=CUBE, channel=1)
    refused("channel -1", source=CUBE, channel=-1)
    refused("level 1", "no pyramid", source=CUBE, level=1)
    refused("2 lengths", "3 spatial axes", source=CUBE, voxel_size=(1, 1))


def test_levels_are_listed(shared_data):
    path = shared_data / "fractal_cardiomyocyte_mip.zarr"
    refused("level 9", "1 (1 x 1080 x 1280, 1 x 0.65 x 0.65", "--level", source=path, level=9)
    refused("no 'labels/cells'", source=path, image="labels/cells")


def test_groups_that_are_no_image(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    refused("neither image metadata nor arrays", source=tmp_path / "g.zarr")
    group.create_array("a", data=CUBE)
    assert "that one is taken" in open_volume(tmp_path / "g.zarr").notes[0]
    group.create_array("b", data=CUBE)
    refused("holds a, b", "g.zarr/a", source=tmp_path / "g.zarr")
    np.testing.assert_array_equal(
        open_volume(f"{tmp_path}/g.zarr:b").read(Roi.whole(CUBE.shape))[0], CUBE
    )


def test_damaged_ome_metadata(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{"path": "0"}]}]}
    refused("OME metadata", "--axes", source=tmp_path / "g.zarr")
