"""Every format that can be opened, against arrays that were written by others or are known."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes import Place, Volume, VoxelSize, open_volume, planar

CUBE = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)


def whole(volume):
    return volume.read(Roi.whole(volume.shape))


def ome_group(
    path, version, array, *, axes="zyx", scale=(2.0, 0.5, 0.5), group_scale=None, levels=2
):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in range(levels):
        step = tuple(slice(None, None, 1 if a in "tc" else 2**level) for a in axes)
        made = group.create_array(
            str(level),
            data=np.ascontiguousarray(array[step]),
            chunks=tuple(min(4, s) for s in array[step].shape),
        )
        assert made.shape
        at = [s * (1 if a in "tc" else 2**level) for a, s in zip(axes, scale, strict=True)]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": at}]}
        )
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": "micrometer"} if a in "zyx" else {})
        for a in axes
    ]
    block = {"axes": described, "datasets": datasets}
    if group_scale:
        block["coordinateTransformations"] = [{"type": "scale", "scale": list(group_scale)}]
    if version == "0.4":
        group.attrs["multiscales"] = [block | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [block]}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_levels_and_sizes(tmp_path, version):
    path = ome_group(tmp_path / "x.zarr", version, CUBE, group_scale=(3, 1, 1))
    volume = open_volume(path, level=1)
    assert isinstance(volume, Volume)
    assert (volume.axes, volume.channels, volume.shape) == ("zyx", 1, (3, 3, 4))
    assert volume.voxel_size == VoxelSize((12, 1, 1), "um")
    assert [level.shape for level in volume.levels] == [(5, 6, 7), (3, 3, 4)]
    np.testing.assert_array_equal(whole(volume)[0], CUBE[::2, ::2, ::2])
    assert volume.notes == ()
    direct = open_volume(path / "1")  # the level's own array knows its image
    assert direct.voxel_size == volume.voxel_size
    assert direct.identity == volume.identity


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_time_and_channels(tmp_path, version):
    data = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    path = ome_group(
        tmp_path / "x.zarr", version, data, axes="tczyx", scale=(1, 1, 1, 1, 1), levels=1
    )
    volume = open_volume(path, time=1)
    assert (volume.channels, volume.shape) == (3, (4, 5, 6))
    np.testing.assert_array_equal(whole(volume), data[1])
    single = open_volume(path, time=0, channel=2)
    roi = Roi((1, 2, 3), (2, 3, 1))
    np.testing.assert_array_equal(single.read(roi), data[0, 2:3][(slice(None), *roi.slices)])
    assert single.identity != volume.identity


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_bare_zarr_takes_axes_from_user_file_or_default(tmp_path, zarr_format):
    data = np.moveaxis(np.stack([CUBE, CUBE + 1]), 0, -1)
    array = zarr.create_array(
        tmp_path / "a.zarr", data=data, chunks=(2, 3, 4, 1), zarr_format=zarr_format
    )
    assumed = open_volume(tmp_path / "a.zarr")
    assert (assumed.channels, assumed.shape) == (5, (6, 7, 2))
    assert "taken as czyx" in assumed.notes[0]
    given = open_volume(tmp_path / "a.zarr", axes="zyxc", channel=1)
    np.testing.assert_array_equal(whole(given)[0], CUBE + 1)
    assert given.chunk_shape == (2, 3, 4)
    array.attrs["_ARRAY_DIMENSIONS"] = ["z", "y", "x", "c"]
    stated = open_volume(tmp_path / "a.zarr", voxel_size="10,10,10nm")
    assert (stated.axes, stated.channels, stated.notes) == ("zyx", 2, ())
    assert stated.voxel_size == VoxelSize((10, 10, 10), "nanometer")


def test_dimension_names_of_zarr_v3(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=CUBE, dimension_names=["x", "y", "z"])
    np.testing.assert_array_equal(whole(open_volume(tmp_path / "a.zarr"))[0], CUBE.T)
    zarr.create_array(tmp_path / "b.zarr", data=CUBE, dimension_names=["lat", "lon", "h"])
    with pytest.raises(VolumeError, match=r"'lat', 'lon', 'h'.*--axes"):
        open_volume(tmp_path / "b.zarr")


def test_hdf5(tmp_path, shared_data):
    path = shared_data / "fib25_em.h5"
    volume = open_volume(f"{path}:raw")
    assert volume.voxel_size == VoxelSize((10, 10, 10), "nm")
    assert (volume.shape, volume.dtype, volume.chunk_shape) == (
        (170, 250, 250),
        np.uint8,
        (34, 125, 125),
    )
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            volume.read(Roi((3, 4, 5), (9, 8, 7)))[0], file["raw"][3:12, 4:12, 5:12]
        )
    with pytest.raises(VolumeError, match="several datasets: labels, raw"):
        open_volume(path)
    with pytest.raises(VolumeError, match="no dataset 'row'; it has labels, raw"):
        open_volume(path, image="row")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["deep/only"] = CUBE
    np.testing.assert_array_equal(whole(open_volume(tmp_path / "one.h5"))[0], CUBE)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f4"])
def test_npy(tmp_path, order, dtype):
    np.save(tmp_path / "a.npy", np.asarray(CUBE, dtype, order=order))
    volume = open_volume(tmp_path / "a.npy")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(whole(volume)[0], CUBE)
    np.testing.assert_array_equal(volume.read(Roi((2, 1, 3), (2, 4, 4)))[0], CUBE[2:4, 1:5, 3:7])


def test_npz(shared_data, tmp_path):
    path = sorted((shared_data / "dsb2018").glob("*.npz"))[0]
    volume = open_volume(f"{path}:labels")
    assert volume.axes == "yx"
    np.testing.assert_array_equal(whole(volume)[0], np.load(path)["labels"])
    with pytest.raises(VolumeError, match="several members"):
        open_volume(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_stacks(tmp_path, options, byteorder):
    data = np.arange(4 * 40 * 50, dtype=np.uint16).reshape(4, 40, 50)
    tifffile.imwrite(
        tmp_path / "a.tif", data, byteorder=byteorder, photometric="minisblack", **options
    )
    volume = open_volume(tmp_path / "a.tif")
    assert (volume.axes, volume.shape) == ("zyx", (4, 40, 50))
    np.testing.assert_array_equal(whole(volume)[0], data)
    roi = Roi((1, 5, 7), (2, 20, 30))
    np.testing.assert_array_equal(volume.read(roi)[0], data[roi.slices])


def test_tiff_metadata_of_imagej_and_ome(tmp_path):
    data = np.arange(4 * 2 * 8 * 9, dtype=np.uint16).reshape(4, 2, 8, 9)
    tifffile.imwrite(
        tmp_path / "ij.tif",
        data,
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "ZCYX", "spacing": 2.0, "unit": "um"},
    )
    volume = open_volume(tmp_path / "ij.tif", channel=1)
    assert volume.voxel_size is not None
    assert volume.voxel_size.agrees(VoxelSize((2, 0.5, 0.25), "um"), 1e-6)
    np.testing.assert_array_equal(whole(volume)[0], data[:, 1])
    sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (30.0, 4.0, 4.0), strict=True)}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", data, ome=True, metadata={"axes": "ZCYX", **sizes, **units}
    )
    ome = open_volume(tmp_path / "a.ome.tif")
    assert ome.voxel_size == VoxelSize((30, 4, 4), "nm")
    np.testing.assert_array_equal(whole(ome), data.swapaxes(0, 1))


def test_rgb_tiff_has_three_channels(tmp_path):
    data = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    tifffile.imwrite(tmp_path / "rgb.tif", data, photometric="rgb")
    volume = open_volume(tmp_path / "rgb.tif")
    assert (volume.axes, volume.channels) == ("yx", 3)
    np.testing.assert_array_equal(whole(volume), np.moveaxis(data, -1, 0))


class Lazy:
    """Counts what is asked of it, as a dask array would be asked."""

    shape, dtype, chunks = CUBE.shape, CUBE.dtype, ((2, 2, 1), (6,), (4, 3))
    largest = 0

    def __getitem__(self, index):
        part = CUBE[index]
        Lazy.largest = max(Lazy.largest, part.size)
        return part


def test_arrays_in_memory_are_sliced_lazily(tmp_path):
    volume = open_volume(Lazy())
    assert volume.chunk_shape == (2, 6, 4)
    assert volume.path is None
    volume.read(Roi((0, 0, 0), (2, 2, 2)))
    assert Lazy.largest == 8
    made = zarr.create_array(tmp_path / "a.zarr", data=CUBE, chunks=(2, 2, 2))
    np.testing.assert_array_equal(whole(open_volume(made))[0], CUBE)
    np.testing.assert_array_equal(whole(open_volume(CUBE.tolist()))[0], CUBE)


def test_reading_never_hands_out_the_users_own_memory():
    array = CUBE.copy()
    open_volume(array).read(Roi.whole(array.shape))[...] = 0
    np.testing.assert_array_equal(array, CUBE)


@given(st.permutations("tczyx"), st.data())
@settings(deadline=None, max_examples=60)
def test_any_order_of_axes(order, data):
    sizes = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}
    array = np.arange(720).reshape([sizes[a] for a in order])
    canonical = array.transpose([order.index(a) for a in "tczyx"])
    time = data.draw(st.integers(0, 1))
    channel = data.draw(st.none() | st.integers(0, 2))
    volume = open_volume(array, axes="".join(order), time=time, channel=channel)
    begin = [data.draw(st.integers(0, s)) for s in volume.shape]
    end = [data.draw(st.integers(b, s)) for b, s in zip(begin, volume.shape, strict=True)]
    roi = Roi.from_bounds(begin, end)
    picked = slice(None) if channel is None else slice(channel, channel + 1)
    np.testing.assert_array_equal(volume.read(roi), canonical[time][(picked, *roi.slices)])


def test_fractal_plate_image(shared_data):
    path = shared_data / "fractal_cardiomyocyte_mip.zarr"
    volume = open_volume(path, level=1, channel=0)
    assert volume.voxel_size == VoxelSize((1.0, 0.65, 0.65), "um")
    assert len(list(volume.absent_chunks())) == 0
    flat = planar(volume)
    assert (flat.axes, flat.shape) == ("yx", (1080, 1280))
    assert flat.voxel_size == VoxelSize((0.65, 0.65), "um")
    assert all(len(level.shape) == 2 for level in flat.levels)
    roi = Roi((500, 600), (64, 64))
    np.testing.assert_array_equal(
        flat.read(roi), volume.read(Roi((0, 500, 600), (1, 64, 64)))[:, 0]
    )
    assert flat.read(roi).any()
    labels = open_volume(path, image="labels/nuclei", level=1)
    assert labels.dtype == np.uint32
    with pytest.raises(VolumeError, match="2 slices"):
        planar(open_volume(CUBE[:2]))


def test_absent_chunks_are_counted(shared_data, tmp_path):
    finest = open_volume(shared_data / "fractal_cardiomyocyte_mip.zarr", channel=0)
    chunks = -(-finest.shape[1] // finest.chunk_shape[1]) * -(
        -finest.shape[2] // finest.chunk_shape[2]
    )
    assert len(list(finest.absent_chunks())) == chunks  # every one of this channel
    for zarr_format in (2, 3):
        path = tmp_path / f"v{zarr_format}.zarr"
        array = zarr.create_array(
            path, shape=(8, 8), chunks=(2, 4), dtype="u1", zarr_format=zarr_format
        )
        array[0:2, 0:8] = 1
        volume = open_volume(path)
        assert len(list(volume.absent_chunks())) == 6
        assert len(list(volume.absent_chunks(Roi((0, 0), (3, 4))))) == 1


@pytest.mark.parametrize("location", ["start", "end"])
def test_chunks_that_are_absent_from_a_shard_are_named(tmp_path, bucket, location):
    codec = zarr.codecs.ShardingCodec(chunk_shape=(4, 8), index_location=location)
    array = zarr.create_array(
        tmp_path / "a", shape=(20, 32), chunks=(8, 16), serializer=codec, dtype="u2",
        fill_value=7, compressors=None, filters=None,
    )  # fmt: skip
    array[0:4, 0:8] = 1
    array[12:16, 24:32] = 2
    array[8:12, 16:24] = 2
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            Place.of(f"{bucket.url}/{file.relative_to(tmp_path)}").write_bytes(file.read_bytes())
    for where in (tmp_path / "a", f"{bucket.url}/a"):
        volume = open_volume(where, axes="yx")
        found = list(volume.absent_chunks())
        shards = ["c/0/1", "c/1/0", "c/2/0", "c/2/1"]
        inside = ["c/0/0:0,1", "c/0/0:1,0", "c/0/0:1,1", "c/1/1:0,1", "c/1/1:1,0"]
        assert sorted(found) == sorted([*shards, *inside])
        assert list(volume.absent_chunks(Roi((0, 0), (4, 8)))) == []
        assert list(volume.absent_chunks(Roi((3, 0), (2, 8)))) == ["c/0/0:1,0"]
    shard = tmp_path / "a/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = open_volume(tmp_path / "a", axes="yx").absent_chunks(Roi((0, 0), (8, 16)))
    assert list(damaged) in ([], inside[:3])  # whoever reads it is told


@pytest.mark.parametrize("kind", ["zarr", "h5", "npy", "tif", "array"])
def test_volumes_travel_between_processes(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zarr":
        zarr.create_array(path, data=CUBE)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["raw"] = CUBE
    elif kind == "npy":
        np.save(path, CUBE)
    elif kind == "tif":
        tifffile.imwrite(path, CUBE, compression="zlib", photometric="minisblack")
    volume = open_volume(CUBE if kind == "array" else path)
    whole(volume)
    copy = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(whole(copy), whole(volume))
    assert copy.identity == volume.identity
    json.dumps(volume.identity)


def test_identity_does_not_depend_on_the_place(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        zarr.create_array(tmp_path / name, data=CUBE, chunks=(2, 2, 2))
    zarr.create_array(tmp_path / "c.zarr", data=CUBE, chunks=(3, 3, 3))
    a, b, c = (open_volume(tmp_path / f"{x}.zarr").identity for x in "abc")
    assert a == b != c


def test_a_region_outside_is_a_programming_error():
    with pytest.raises(ValueError, match="reaches out"):
        open_volume(CUBE).read(Roi((0, 0, 0), (6, 1, 1)))


@pytest.mark.parametrize("name", ["array.npy", "array.tif"])
def test_a_name_within_what_is_no_container_is_refused(tmp_path, name):
    array, write = np.zeros((8, 8), np.uint8), np.save if "npy" in name else tifffile.imwrite
    write(tmp_path / name, array)
    with pytest.raises(VolumeError, match=r"is no container .* leave out :raw"):
        open_volume(f"{tmp_path / name}:raw")
