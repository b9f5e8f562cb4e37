"""Where windows lie: shares around instances, each as likely, by (seed, step, place) alone."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_volumes import WINDOW, balls, cells, examples, same, seeded, training, write

from stitchsafe.coordinates import Roi
from stitchsafe.training import TrainingWindow
from stitchsafe.training import _sources as sources
from stitchsafe.training._census import take_census
from stitchsafe.volumes import ArrayStore

STILL = {"augmentation": {"symmetries": False}}


def large_and_small() -> tuple[np.ndarray, np.ndarray]:
    """One instance of half a million voxels beside one of 8, in a volume of a million."""
    labels = np.zeros((100, 100, 100), dtype=np.uint16)
    labels[:50] = 3
    labels[80:82, 70:72, 60:62] = 9
    return (labels > 0).astype(np.uint8), labels


def found_in(folder, sampling: dict[str, float], steps: int = 60) -> list[set[int]]:
    """Sizes of what the windows hold: 'large', 'small'."""
    said = write(folder, "zarr", *large_and_small()) | {"sampling": sampling}
    drawn = examples(folder, training(said, input={"axes": "zyx"}, **STILL))
    corners = [drawn.sampler.draw(seeded(step))[1] for step in range(steps)]
    labels = large_and_small()[1]
    return [set(np.unique(labels[Roi(c, WINDOW.window).slices]).tolist()) for c in corners]


def test_windows_anywhere_hardly_ever_see_a_small_instance(tmp_path):
    seen = found_in(tmp_path, {})
    assert sum(9 in ids for ids in seen) <= 2
    assert 0.3 < np.mean([3 in ids for ids in seen]) < 0.75


def test_every_instance_is_as_likely_however_large(tmp_path):
    seen = found_in(tmp_path, {"instances": 1.0})
    assert all(ids - {0} for ids in seen)
    assert 0.3 < np.mean([9 in ids for ids in seen]) < 0.7


def test_every_voxel_of_an_instance_is_as_likely(tmp_path):
    seen = found_in(tmp_path, {"foreground": 1.0})
    assert all(3 in ids for ids in seen)


def test_at_least_the_share_that_is_asked_for_holds_an_instance(tmp_path):
    labels = np.zeros((60, 60, 60), dtype=np.uint8)
    labels[30, 30, 30] = 1
    said = write(tmp_path, "npy", labels, labels) | {
        "sampling": {"instances": 0.3, "foreground": 0.3}
    }
    drawn = examples(tmp_path, training(said, embedding={"background": "ignored"}, **STILL))
    held = [drawn.draw(seeded(step)).instances.max() for step in range(100)]
    assert 0.5 < np.mean(held) < 0.75


@pytest.mark.parametrize("ignored", [None, 14])
@pytest.mark.parametrize("chunks", [(8, 16, 8), (70, 33, 90)])
def test_a_census_counts_each_instance_whatever_the_chunks(tmp_path, ignored, chunks):
    raw, labels = cells((70, 80, 90))
    for name, array in (("image", raw), ("labels", labels)):
        store = ArrayStore.create(
            tmp_path / f"{name}.zarr", shape=array.shape, dtype=array.dtype.str, chunks=chunks
        )
        store.write(Roi.whole(array.shape), array)
    region = [[2, 70], [0, 80], [5, 77]]
    said = {"image": "image.zarr", "labels": "labels.zarr", "region": region, "ignore": ignored}
    drawn = examples(tmp_path, training(said))
    census = take_census(drawn.sampler.everywhere.sources[0])
    part = labels[2:, :, 5:77]
    expected = {int(i): int((part == i).sum()) for i in np.unique(part) if i not in (0, ignored)}
    ends = np.append(census.first[1:], len(census.ids))
    counted = {
        int(census.ids[a]): int(census.voxels[a:b].sum())
        for a, b in zip(census.first, ends, strict=True)
    }
    assert counted == expected
    assert len(census.ids) == len({*zip(census.ids, census.cells, strict=True)}) > len(expected)
    for draw in (census.draw_of_instances, census.draw_of_voxels):
        voxels = [draw(seeded(step)) for step in range(30)]
        assert {int(part[voxel]) for voxel in voxels} <= set(expected)
        assert len(set(voxels)) > 25


def test_copies_in_other_chunks_and_in_memory_give_the_same_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    raw, labels = balls((70, 80, 90))
    said = {"sampling": {"instances": 0.5, "foreground": 0.3}}
    drawn = [
        examples(tmp_path, training(write(tmp_path, kind, raw, labels) | said))
        for kind in ("zarr", "npy")
    ]
    assert all(same(*(each.draw(seeded(step)) for each in drawn)) for step in range(8))


def test_a_source_without_instances_is_not_looked_in_for_them(tmp_path):
    raw, labels = cells()
    said = []
    for name, truth in (("some", labels), ("none", labels * 0)):
        (tmp_path / name).mkdir()
        names = write(tmp_path / name, "npy", raw, truth)
        said.append({key: f"{name}/{file}" for key, file in names.items()})
    config = training({"sources": said, "sampling": {"instances": 1.0}})
    drawn = examples(tmp_path, config)
    assert all(drawn.draw(seeded(step)).instances.max() > 0 for step in range(10))


def test_images_of_a_folder_are_sampled_alike(tmp_path):
    for name in "ab":
        labels = np.zeros((90, 90), dtype=np.int32)
        labels[70:74, 10:14] = 1
        np.savez(tmp_path / f"{name}.npz", image=labels.astype(np.uint8), labels=labels)
    said = {"kind": "images", "path": ".", "sampling": {"instances": 1.0}}
    config = training(said, axes="yx")
    window = TrainingWindow((8, 8), (16, 16), (4, 4), (0, 0))
    drawn = examples(tmp_path, config, window)
    assert all(drawn.draw(seeded(step)).instances.max() == 1 for step in range(10))


def test_shares_of_more_than_all_windows_are_refused():
    with pytest.raises(ValueError, match="1 or less together"):
        training({"path": "a", "sampling": {"instances": 0.6, "foreground": 0.6}})
