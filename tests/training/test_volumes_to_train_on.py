"""Windows of labelled volumes: any format, out of core, with the targets of the whole volume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled_volumes import (
    SHAPE,
    WINDOW,
    cells,
    examples,
    same,
    seeded,
    training,
    write,
)  # fmt: skip
from servers import web_server

from stitchsafe.coordinates import Roi
from stitchsafe.training import TrainingWindow, inner_voxels, make_targets, split_parts
from stitchsafe.training import _sources as sources
from stitchsafe.volumes import create_group, create_image, create_labels, pyramid_levels

STILL = {"symmetries": False}


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small volumes are read window by window, as large ones are."""
    monkeypatch.setattr(sources, "_HELD_BYTES", 0)


@pytest.mark.parametrize("kind", ["npz", "npy", "tif", "zarr"])
def test_the_format_changes_nothing(tmp_path: Path, kind: str) -> None:
    raw, labels = cells()
    for name in ("h5", kind):
        (tmp_path / name).mkdir()
    said = {name: write(tmp_path / name, name, raw, labels) for name in ("h5", kind)}
    a, b = (examples(tmp_path / name, training(said[name])) for name in ("h5", kind))
    assert all(same(a.draw(seeded(step)), b.draw(seeded(step))) for step in range(3))


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("ignored", [None, 21])
@pytest.mark.parametrize("region", [None, [[3, 24], [0, 31], [5, 36]]])
def test_targets_of_windows_are_those_of_the_whole_volume(tmp_path, ignored, region):
    raw, labels = cells()
    config = training(
        write(tmp_path, "zarr", raw, labels) | {"ignore": ignored, "region": region},
        augmentation=STILL,
    )
    drawn = examples(tmp_path, config)
    part = tuple(slice(*bounds) for bounds in region or [(0, n) for n in SHAPE])
    whole = labels[part].astype(np.int32)
    if ignored is not None:
        whole[whole == ignored] = -1
    targets = make_targets(whole, reach=2, boundary_weight=3)
    embedded = inner_voxels(whole, 1)
    looked = 0
    for step in range(12):
        generator = seeded(step)
        generator.integers(1)
        corner = [
            int(generator.integers(0, n - w + 1))
            for n, w in zip(whole.shape, WINDOW.window, strict=True)
        ]
        cut = Roi(tuple(corner), WINDOW.window).slices
        example = drawn.draw(seeded(step))
        assert np.array_equal(example.foreground, targets.inner[cut])
        assert np.array_equal(example.weight, targets.weight[cut])
        assert np.array_equal(example.clusters >= 0, embedded[cut])
        assert np.array_equal(example.instances, split_parts(whole[cut]))
        looked += int(embedded[cut].sum())
    assert looked > 500


def test_windows_for_losses_without_targets_of_their_own(tmp_path):
    """Affinities or a loss of one's own alone: no voxel counts for the others."""
    raw, labels = cells()
    said = write(tmp_path, "h5", raw, labels)
    config = training(said).model_copy(update={"embedding": None, "foreground": None})
    example = examples(tmp_path, config).draw(seeded(0))
    assert example.instances.any()
    assert (example.clusters == -1).all()


def test_where_only_instances_are_labelled_the_rest_may_be_ignored(tmp_path):
    raw, labels = cells()
    drawn = examples(tmp_path, training(write(tmp_path, "h5", raw, labels) | {"ignore": 0}))
    unknown = 0
    for step in range(6):
        example = drawn.draw(seeded(step))
        nothing = example.instances == -1
        unknown += nothing.sum()
        assert not (example.instances == 0).any()
        assert not example.weight[nothing].any()
        assert (example.clusters[nothing] == -1).all()
    assert unknown > 100
    np.savez(tmp_path / "a.npz", image=raw[0], labels=labels[0])
    flat = {"kind": "images", "path": ".", "ignore": 0, "keep_back": None}
    window = TrainingWindow((20, 20), (28, 28), (4, 4), (0, 0))
    image = examples(tmp_path, training(flat, axes="yx"), window).draw(seeded())
    assert image.instances.min() == -1
    assert not (image.instances == 0).any()


@pytest.mark.usefixtures("nothing_held")
def test_the_image_is_that_of_the_region_reflected_at_its_border(tmp_path):
    raw, labels = cells()
    region = [[4, 20], [0, 31], [5, 36]]
    config = training(
        write(tmp_path, "h5", raw, labels) | {"region": region},
        augmentation=STILL,
        input={"axes": "zyx"},
    )
    drawn = examples(tmp_path, config)
    part = raw[4:20, 0:31, 5:36].astype(np.float32)
    wide = np.pad(part, 8, mode="reflect")
    for step in range(10):
        generator = seeded(step)
        generator.integers(1)
        corner = [
            int(generator.integers(0, n - w + 1))
            for n, w in zip(part.shape, WINDOW.window, strict=True)
        ]
        begin = [c - o + 8 for c, o in zip(corner, WINDOW.offset, strict=True)]
        expected = wide[Roi(tuple(begin), WINDOW.input).slices]
        assert np.array_equal(drawn.draw(seeded(step)).image[0], expected)


def test_what_is_held_in_memory_and_what_is_read_give_the_same(tmp_path, monkeypatch):
    config = training(write(tmp_path, "zarr", *cells()) | {"sampling": {"instances": 0.5}})
    held = examples(tmp_path, config)
    monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    read = examples(tmp_path, config)
    assert all(same(held.draw(seeded(step)), read.draw(seeded(step))) for step in range(5))


@pytest.mark.usefixtures("nothing_held")
def test_no_more_is_read_for_a_window_than_it_needs(tmp_path, monkeypatch):
    config = training(
        write(tmp_path, "zarr", *cells((64, 64, 64))),
        augmentation={"elastic": {"spacing": 8, "sigma": 0.5}},
    )
    drawn = examples(tmp_path, config)
    source = drawn.sampler.everywhere.sources[0]
    asked: list[Roi] = []
    read = type(source.image).read
    monkeypatch.setattr(
        type(source.image), "read", lambda self, roi: asked.append(roi) or read(self, roi)
    )
    drawn.draw(seeded())
    assert 0 < sum(roi.size for roi in asked) < 2 * np.prod([n + 4 for n in WINDOW.input])


def test_an_ome_zarr_holds_image_and_labels(tmp_path):
    raw, labels = cells()
    group = tmp_path / "cells.zarr"
    layout = {"axes": "zyx", "levels": pyramid_levels(SHAPE, minimum=20), "chunks": (8, 8, 8)}
    image = create_image(group, dtype="uint8", **layout)
    truth = create_labels(group, "cells", dtype="uint16", **layout)
    assert len(image) == 2
    for stores, array in ((image, raw), (truth, labels)):
        for step, store in enumerate(stores, start=1):
            store.write(Roi.whole(store.shape), np.ascontiguousarray(array[::step, ::step, ::step]))
    (tmp_path / "h5").mkdir()
    other = examples(tmp_path / "h5", training(write(tmp_path / "h5", "h5", raw, labels)))
    for said in (
        {"path": "cells.zarr", "image": "", "labels": "labels/cells"},
        {"image": "cells.zarr", "labels": "cells.zarr/labels/cells"},
    ):
        drawn = examples(tmp_path, training(said))
        assert same(drawn.draw(seeded()), other.draw(seeded()))
    small = TrainingWindow((4, 4, 4), (8, 8, 8), (2, 2, 2), (0, 0, 0))
    half = training({"path": "cells.zarr", "image": "", "labels": "labels/cells", "level": 1})
    source = examples(tmp_path, half, small).sampler.everywhere.sources[0]
    assert source.region.shape == (12, 20, 18)
    assert np.array_equal(source.labels.read(source.region)[0], labels[::2, ::2, ::2])


@pytest.mark.usefixtures("nothing_held")
def test_volumes_at_urls_are_read_from_there(tmp_path):
    group = tmp_path / "group.zarr"
    create_group(group)
    said = write(group, "zarr", *cells())
    here = examples(group, training(said))
    with web_server(tmp_path) as url:
        far = [
            {"image": f"{url}/group.zarr/image.zarr", "labels": "group.zarr/labels.zarr"},
            {"path": f"{url}/group.zarr", "image": "image.zarr", "labels": "labels.zarr"},
        ]
        for each in far:
            there = examples(tmp_path, training(each))
            assert same(there.draw(seeded()), here.draw(seeded()))


def test_windows_come_from_each_source_as_often_as_its_weight_says(tmp_path):
    raw, labels = cells()
    said = []
    for number, weight in enumerate((1, 3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = write(folder, "npy", raw * 0 + number * 100, labels)
        said.append({key: f"{number}/{name}" for key, name in names.items()} | {"weight": weight})
    drawn = examples(tmp_path, training({"sources": said}, input={"axes": "zyx"}))
    values = [drawn.draw(seeded(step)).image.max() for step in range(200)]
    assert 0.65 < np.mean(values) / 100 < 0.85
    assert set(values) == {0.0, 100.0}


def test_a_volume_of_one_slice_is_trained_on_as_an_image(tmp_path):
    raw, labels = cells((1, 40, 44))
    window = TrainingWindow((12, 12), (20, 20), (4, 4), (0, 0))
    drawn = examples(tmp_path, training(write(tmp_path, "tif", raw, labels), axes="yx"), window)
    assert drawn.draw(seeded()).image.shape == (1, 20, 20)


LARGE = """
import resource, sys
import numpy as np
from stitchsafe.coordinates import Roi
from stitchsafe.training import train, TrainingConfig
from stitchsafe.volumes import ArrayStore

shape, chunk = (1024, 2048, 2048), (128,) * 3
z, y, x = np.indices(chunk) - 64
ball = z * z + y * y + x * x < 30**2
for name, dtype, value in (("raw", "uint8", 200), ("labels", "uint16", 1)):
    store = ArrayStore.create(name + ".zarr", shape=shape, dtype=dtype, chunks=chunk)
    for corner in ((0, 0, 0), (512, 1024, 1920), (896, 128, 512)):
        store.write(Roi(corner, chunk), (ball * value).astype(dtype))
config = TrainingConfig.model_validate(CONFIG)
result = train(config, "run")
assert result.steps == 3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_volume_of_more_than_ten_gigabytes_is_trained_on_in_bounded_memory(tmp_path):
    """4 GiB of image and 8 GiB of labels: measured .51 GB, torch and the network included."""
    config = training(
        {"image": "raw.zarr", "labels": "labels.zarr", "sampling": {"instances": 1.0}},
        window=[16, 16, 16],
        input={"axes": "zyx", "normalize": "zscore"},
        optimiser={"steps": 3},
        augmentation={"elastic": {"spacing": 8, "sigma": 1}, "sections": {"missing": 0.1}},
    ).model_dump(mode="json", by_alias=True)
    done = subprocess.run(
        [sys.executable, "-c", LARGE.replace("CONFIG", repr(config))],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 1.2e9


def test_labels_of_64_bits_and_far_apart_are_told_apart(tmp_path):
    raw, labels = cells()
    wide = labels.astype(np.uint64)
    wide[labels == 7] = 2**63 + 1
    wide[labels == 14] = 2**63 + 2
    (tmp_path / "narrow").mkdir()
    said = {"sampling": {"instances": 0.5}}
    a = examples(tmp_path, training(write(tmp_path, "zarr", raw, wide) | said))
    b = examples(tmp_path / "narrow",
                 training(write(tmp_path / "narrow", "zarr", raw, labels) | said))  # fmt: skip
    # Instances are drawn in the order of their ids, so only the other half is the same.
    censuses = [sorted(c.sampler.censuses[0].voxels.tolist()) for c in (a, b)]
    assert censuses[0] == censuses[1]
    anywhere = [step for step in range(12) if seeded(step).uniform() >= 0.5]
    assert len(anywhere) > 2
    assert all(same(a.draw(seeded(step)), b.draw(seeded(step))) for step in anywhere)
