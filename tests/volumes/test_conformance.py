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
        assert source.missing_chunks(whole) == ZarrSource(read_node(path)).missing_chunks(whole)
        by_fallback += not source.by_tensorstore
    assert by_fallback > 0
