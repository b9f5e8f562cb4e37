"""Zarr by other writers: whatever zarr-python reads, we read, with the same values."""

from __future__ import annotations

import csv
import os
import warnings
import zipfile

import numpy as np
import pytest
import zarr
from servers import Bucket, web_server

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes import Place, open_volume
from stitchsafe.volumes._zarr import ZarrSource, read_node


@pytest.fixture(scope="module")
def readable(shared_data):
    """Folder, expected values and source of each array that the index says zarr-python reads."""
    with (shared_data / "zarr_conformance" / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["zarr-python 3.1.6"] == "ok"]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows:
            path = shared_data / row["path"]
            if path.exists():
                node = read_node(path)
                found.append((path, np.asarray(zarr.open_array(path, mode="r")[...]), node))
        yield found


def same(found, expected):
    if expected.dtype.kind in "mM":
        found, expected = found.view("i8"), expected.view("i8")
    return np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc")


@pytest.mark.filterwarnings("ignore")
def test_every_array_has_the_same_values(readable):
    assert len(readable) > 150
    different = []
    for path, expected, node in readable:
        source = ZarrSource(node)
        values = source.read(tuple(slice(0, size) for size in source.shape))
        if values.shape != expected.shape or not same(values, expected):
            different.append(str(path))
    assert different == []
    fallback = [node for *_, node in readable if not ZarrSource(node).by_tensorstore]
    assert 0 < len(fallback) < len(readable) / 2  # both readers are at work


@pytest.mark.filterwarnings("ignore")
def test_every_image_like_array_opens_as_a_volume(readable):
    opened = 0
    for path, expected, _ in readable:
        if expected.dtype.kind in "biuf" and 2 <= expected.ndim <= 5 and expected.size:
            axes = "tczyx"[-expected.ndim :] if expected.ndim != 4 else "czyx"
            volume = open_volume(path, axes=axes, time=0 if "t" in axes else None)
            values = volume.read(Roi.whole(volume.shape))
            first = expected[0] if "t" in axes else expected
            assert same(values.reshape(first.shape), first.astype(volume.dtype)), path
            opened += 1
        else:
            with pytest.raises(VolumeError) as caught:
                open_volume(path)
            assert "\n" not in str(caught.value)
    assert opened > 100


@pytest.mark.filterwarnings("ignore")
def test_groups_open_or_are_refused_in_one_line(shared_data):
    with (shared_data / "zarr_conformance" / "index.csv").open() as file:
        groups = [row for row in csv.DictReader(file) if row["kind"].endswith(("group", "badjson"))]
    images = 0
    for row in groups:
        path = shared_data / row["path"]
        if not path.exists():
            continue
        refusal = None
        try:
            volume = open_volume(path, time=0)
            volume.read(Roi((0,) * len(volume.shape), (1,) * len(volume.shape)))
            images += row["ome"] in ("ms0.4", "ome0.5")
        except VolumeError as error:
            refusal = str(error)
        assert refusal is None or "\n" not in refusal
    assert images > 5


@pytest.fixture(params=["web server", "archive", "archive on a web server", "object store"])
def elsewhere(request, shared_data, tmp_path):
    """A function from a folder of the conformance data to the same folder elsewhere."""
    root = shared_data

    def archived(folder):
        name = tmp_path / f"{folder.relative_to(root).as_posix().replace('/', '-')}.zip"
        with zipfile.ZipFile(name, "w") as archive:
            for file in (path for path in folder.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(folder.parent))
        return name

    def uploaded(folder, bucket: Bucket):
        place = Place.of(bucket.url) / folder.relative_to(root).as_posix()
        for file in (path for path in folder.rglob("*") if path.is_file()):
            (place / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
        return place

    if request.param == "web server":
        with web_server(root) as url:
            yield lambda folder: Place.of(url) / folder.relative_to(root).as_posix()
    elif request.param == "archive":
        yield lambda folder: Place.inside(Place.of(archived(folder)), folder.name)
    elif request.param == "archive on a web server":
        with web_server(tmp_path) as url:
            yield lambda folder: Place.inside(
                Place.of(f"{url}/{archived(folder).name}"), folder.name
            )
    else:
        bucket = request.getfixturevalue("bucket")
        yield lambda folder: uploaded(folder, bucket)


@pytest.mark.filterwarnings("ignore")
def test_elsewhere_the_values_are_the_same(readable, elsewhere):
    """Every ninth array, both readers among them, from where no file system is."""
    by_fallback = 0
    chosen = [each for each in readable[::9] if sum(len(f) for *_, f in os.walk(each[0])) < 200]
    assert len(chosen) > 15
    for path, expected, _ in chosen:
        source = ZarrSource(read_node(elsewhere(path)))
        values = source.read(tuple(slice(0, size) for size in source.shape))
        assert values.shape == expected.shape, path
        assert same(values, expected), path
        whole = tuple(slice(0, size) for size in source.shape)
        assert list(source.absent_chunks(whole)) == list(
            ZarrSource(read_node(path)).absent_chunks(whole)
        )
        by_fallback += not source.by_tensorstore
    assert by_fallback > 0


def test_shards_behind_a_server_that_knows_no_ranges_are_refused(tmp_path):
    """Its whole answer must not be taken for the part that was asked for."""
    data = np.random.default_rng(0).integers(0, 2**16, (256, 256), dtype="u2")
    for name, shards in (("plain", None), ("sharded", (256, 256))):
        array = zarr.create_array(
            tmp_path / f"{name}.zarr", shape=data.shape, chunks=(64, 64), shards=shards, dtype="u2"
        )
        array[...] = data
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        for file in (path for path in (tmp_path / "plain.zarr").rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(tmp_path / "plain.zarr"))
    with web_server(tmp_path, ranges=False) as url:
        volume = open_volume(f"{url}/plain.zarr")
        np.testing.assert_array_equal(volume.read(Roi.whole(data.shape))[0], data)
        for name in ("sharded.zarr", "plain.zip"):
            with pytest.raises(VolumeError, match=r"hands out whole files only.*byte ranges"):
                open_volume(f"{url}/{name}").read(Roi((3, 3), (64, 64)))
    with web_server(tmp_path) as url:
        volume = open_volume(f"{url}/sharded.zarr")
        np.testing.assert_array_equal(volume.read(Roi((3, 3), (64, 99)))[0], data[3:67, 3:102])


def test_groups_on_a_web_server_are_found_by_consolidated_metadata(tmp_path):
    for name in ("plain", "consolidated"):
        group = zarr.create_group(tmp_path / f"{name}.zarr")
        group.create_array("only", shape=(8, 8), chunks=(4, 4), dtype="u1")[...] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "consolidated.zarr")
    with web_server(tmp_path) as url:
        assert open_volume(f"{url}/consolidated.zarr").shape == (8, 8)
        assert open_volume(f"{url}/plain.zarr/only").shape == (8, 8)
        with pytest.raises(VolumeError, match=r"cannot be listed.*give the path") as caught:
            open_volume(f"{url}/plain.zarr")
    assert "\n" not in str(caught.value)
