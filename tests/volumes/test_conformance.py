"""Zarr by other writers: whatever zarr-python reads, we read, with the same values."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
import zarr

from stitchsafe.coordinates import Roi
from stitchsafe.errors import VolumeError
from stitchsafe.volumes import open_volume
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
