"""One clustering window: foreground, clusters, connected parts, growth, order of labels."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from merging import merge_records
from numpy.typing import NDArray
from scipy import ndimage

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.instances import (
    LabelSettings,
    WindowRecord,
    WindowSegments,
    connected_parts,
    segment_window,
)


def embedding(classes: np.ndarray) -> np.ndarray:
    """A field in which class k lies at (10 k, -10 k)."""
    return np.stack([10.0 * classes, -10.0 * classes]).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    arrays(
        np.int32,
        array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7),
        elements=st.integers(0, 3),
    )
)
def test_parts_are_joined_by_faces_and_count_by_first_voxel(clusters: np.ndarray) -> None:
    labels, first = connected_parts(clusters)
    count = 0
    for cluster in range(1, 4):
        parts, n = ndimage.label(clusters == cluster)  # joined by faces by default
        count += n
        for part in range(1, n + 1):
            inside = np.unique(labels[parts == part])
            assert len(inside) == 1
            assert inside[0] > 0
            np.testing.assert_array_equal(labels == inside[0], parts == part)
    assert len(first) == count
    np.testing.assert_array_equal(labels == 0, clusters == 0)
    flat = labels.reshape(-1).tolist()
    assert [flat.index(k + 1) for k in range(count)] == first.tolist()
    assert first.tolist() == sorted(first.tolist())


def test_same_embedding_at_a_distance_stays_two() -> None:
    classes = np.zeros((12, 12), int)
    classes[1:4, 1:4] = classes[7:11, 6:10] = 1
    got = segment_window(
        {"embedding": embedding(classes)}, settings=LabelSettings(window=(12, 12), bandwidth=2.0)
    )
    assert got.count == 3  # background is an ordinary cluster
    assert got.voxels.tolist() == [144 - 9 - 16, 9, 16]
    assert got.clusters.tolist()[1] == got.clusters.tolist()[2] != got.clusters.tolist()[0]
    np.testing.assert_array_equal(got.modes[1:], [[10, -10]] * 2)
    assert got.first.tolist() == [[0, 0], [1, 1], [7, 6]]
    assert got.labels.dtype == np.uint32


def test_foreground_decides_what_is_clustered() -> None:
    classes = np.ones((4, 6), int)
    classes[:, 3:] = 2
    foreground = np.full((1, 4, 6), 0.6, np.float32)
    foreground[0, :, 2] = 0.4
    fields = {"embedding": embedding(classes), "foreground": foreground}
    how = LabelSettings(window=(4, 6), bandwidth=2.0, background="foreground")
    got = segment_window(fields, settings=how)
    expected = np.tile([1, 1, 0, 2, 2, 2], (4, 1))
    np.testing.assert_array_equal(got.labels, expected)
    ignoring = LabelSettings(window=(4, 6), bandwidth=2.0)
    assert (segment_window(fields, settings=ignoring).labels > 0).all()


@pytest.mark.parametrize("source", ["embeddings", "foreground"])
def test_a_window_of_background_alone(source: str) -> None:
    fields = {
        "embedding": np.zeros((3, 4, 4, 4), np.float32),
        "foreground": np.zeros((1, 4, 4, 4), np.float32),
    }
    how = LabelSettings.from_json(
        {"from": source, "window": [4, 4, 4], "bandwidth": 1.0, "background": "foreground"}
    )
    got = segment_window(fields, settings=how)
    assert got.count == 0
    assert not got.labels.any()
    assert got.modes.shape == (0, 3 if source == "embeddings" else 0)
    record = WindowRecord.of_segments(got, Roi((0, 0, 0), (4, 4, 4)), (4, 4, 4))
    assert record.voxels.shape == (0,)
    assert record.box_begin.shape == (0, 3)


def test_classes_fall_into_parts() -> None:
    scores = np.zeros((3, 3, 5), np.float32)
    scores[1, :, 0] = scores[2, :, 1] = scores[1, :, 4] = 1  # elsewhere all equal: the lowest class
    got = segment_window(
        {"classes": scores}, settings=LabelSettings(window=(3, 5), source="argmax")
    )
    np.testing.assert_array_equal(got.labels, np.tile([1, 2, 0, 0, 3], (3, 1)))
    np.testing.assert_array_equal(got.modes, [[1], [2], [1]])


def test_growth_renumbers_by_first_voxel() -> None:
    foreground = np.asarray([[[0.3, 0.3, 0.1, 0.9], [0.9, 0.1, 0.1, 0.1]]], np.float32)
    how = LabelSettings(window=(2, 4), source="foreground", growth_threshold=0.2)
    got = segment_window({"foreground": foreground}, settings=how)
    np.testing.assert_array_equal(got.labels, [[1, 1, 0, 2], [1, 0, 0, 0]])
    assert got.first.tolist() == [[0, 0], [0, 3]]
    assert got.voxels.tolist() == [3, 1]


def test_segments_that_are_too_small_to_be_seeds_are_grown_over() -> None:
    foreground = np.full((1, 3, 9), 0.3, np.float32)
    foreground[0, :, :2] = foreground[0, 1, 4] = foreground[0, :, 7:] = 0.9
    values = {"from": "foreground", "window": (3, 9), "growth_threshold": 0.2}
    grown = segment_window(
        {"foreground": foreground}, settings=LabelSettings.from_json(values | {"min_core": 2})
    )
    assert grown.labels[1].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert grown.voxels.tolist() == [15, 12]
    kept = segment_window({"foreground": foreground}, settings=LabelSettings.from_json(values))
    assert kept.count == 3


def test_grown_segments_keep_their_modes() -> None:
    classes = np.asarray([[2, 2, 0, 3, 0, 1, 1], [0] * 7])
    foreground = np.asarray([[[0.9, 0.9, 0.3, 0.9, 0.3, 0.9, 0.9], [0.3] * 7]], np.float32)
    how = LabelSettings(
        window=(2, 7), bandwidth=2.0, background="foreground", growth_threshold=0.2, min_core=2
    )
    got = segment_window({"embedding": embedding(classes), "foreground": foreground}, settings=how)
    assert (got.labels > 0).all()
    np.testing.assert_array_equal(got.modes, [[20, -20], [10, -10]])
    assert got.clusters[0] != got.clusters[1]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"other": np.zeros((1, 2, 2))}, "no field 'embedding'.*other"),
        ({"embedding": np.zeros((1, 2, 2)), "foreground": np.zeros((1, 2, 3))}, "differ in shape"),
        (
            {"embedding": np.full((1, 2, 2), np.nan), "foreground": np.zeros((1, 2, 2))},
            r"NaN at \(0, 0\)",
        ),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, np.ndarray], match: str) -> None:
    how = LabelSettings(window=(2, 2), bandwidth=1.0, background="foreground")
    with pytest.raises(InputError, match=match):
        segment_window(fields, settings=how)


def test_fields_that_are_not_read_may_have_any_shape() -> None:
    fields = {"embedding": np.zeros((1, 2, 2)), "coarse": np.zeros((1, 1, 1))}
    how = LabelSettings(window=(2, 2), bandwidth=1.0)
    assert (segment_window(fields, settings=how).labels == 1).all()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"window": [4, 4]}, "bandwidth None"),
        ({"window": [4, 4], "bandwidth": -1}, "bandwidth -1"),
        ({"window": [], "bandwidth": 1}, "no voxels"),
        ({"bandwidth": 1}, "no clustering window"),
        ({"window": [4, 4], "bandwith": 1}, "did you mean 'bandwidth'"),
        ({"window": [4, 4], "from": "magic"}, "'magic'.*argmax"),
        ({"window": [4, 4], "bandwidth": 1, "background": "no"}, "'no'.*largest-cluster"),
        ({"window": [4, 4], "bandwidth": 1, "min_size": -1}, "min_size is -1"),
        ({"window": [4, 4], "bandwidth": 1, "growth_threshold": 0.1}, "growth_threshold"),
        ({"window": [4, 4], "from": "foreground", "min_core": 5}, "min_core 5"),
        ({"window": [4, 4], "from": "foreground", "growth_threshold": 0.7}, "nowhere to grow"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        LabelSettings.from_json(values)


def test_settings_round_trip() -> None:
    how = LabelSettings(window=(4, 4), bandwidth=1.5, background="largest-cluster", min_size=3)
    assert LabelSettings.from_json(how.to_json()) == how


def test_records_round_trip() -> None:
    classes = np.random.default_rng(0).integers(0, 3, (5, 4, 6))
    got = segment_window(
        {"embedding": embedding(classes)}, settings=LabelSettings(window=(8, 8, 8), bandwidth=2.0)
    )
    record = WindowRecord.of_segments(got, Roi((8, 16, 0), (5, 4, 6)), (13, 20, 30))
    again = WindowRecord.from_arrays(record.to_arrays())
    assert (again.region, again.volume_shape, again.key) == (
        record.region,
        record.volume_shape,
        (8 * 20 + 16) * 30,
    )
    for name, value in record.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], value)
        assert again.to_arrays()[name].dtype == value.dtype
    for axis in range(3):
        np.testing.assert_array_equal(record.high[axis], got.labels.take(-1, axis))


def test_records_measure_segments_in_the_volume() -> None:
    classes = np.random.default_rng(1).integers(0, 2, (6, 5, 7))
    got = segment_window(
        {"embedding": embedding(classes)}, settings=LabelSettings(window=(8, 8, 8), bandwidth=2.0)
    )
    offset, shape = (8, 0, 16), (20, 20, 30)
    record = WindowRecord.of_segments(got, Roi(offset, classes.shape), shape)
    for k in range(got.count):
        where = np.argwhere(got.labels == k + 1) + offset
        assert record.voxels[k] == len(where)
        np.testing.assert_array_equal(record.sums[k], where.sum(axis=0))
        np.testing.assert_array_equal(record.box_begin[k], where.min(axis=0))
        np.testing.assert_array_equal(record.box_end[k], where.max(axis=0) + 1)
        assert record.first[k] == np.ravel_multi_index(tuple(where[0]), shape)


def test_segments_that_met_by_growing_do_not_unite_across_windows() -> None:
    """Two cores in two windows, far apart; grown, they fill both windows and touch at the face."""
    foreground = np.full((1, 8, 16), 0.1, np.float32)
    foreground[0, 2:6, 2:5] = foreground[0, 2:6, 11:14] = 0.95
    settings = LabelSettings(
        window=(8, 8), source="foreground", foreground_threshold=0.9, growth_threshold=0.0
    )
    records = []
    for column in (0, 8):
        fields = {"foreground": foreground[:, :, column : column + 8]}
        segments = segment_window(fields, settings=settings)
        assert (segments.labels > 0).all()
        records.append(WindowRecord.of_segments(segments, Roi((0, column), (8, 8)), (8, 16)))
    merge = merge_records(records, settings)
    assert merge.count == 2
    # Cores that touch do: the same with one core across the face.
    foreground[0, 2:6, 5:11] = 0.95
    records = [
        WindowRecord.of_segments(
            segment_window({"foreground": foreground[:, :, c : c + 8]}, settings=settings),
            Roi((0, c), (8, 8)),
            (8, 16),
        )
        for c in (0, 8)
    ]
    assert merge_records(records, settings).count == 1


@given(st.integers(0, 2**16), st.integers(2, 12))
@settings(deadline=None, max_examples=30)
def test_what_can_never_be_large_enough_is_dropped_early_and_changes_nothing(
    seed: int, min_size: int
) -> None:
    foreground = np.random.default_rng(seed).random((1, 24, 24)).astype(np.float32)
    outcomes = []
    for least in (0, min_size):
        rule = LabelSettings(
            window=(12, 12), source="foreground", foreground_threshold=0.6, min_size=least
        )
        records = []
        for corner in np.ndindex(2, 2):
            region = Roi((corner[0] * 12, corner[1] * 12), (12, 12))
            part = {"foreground": foreground[(slice(None), *region.slices)]}
            segments = segment_window(part, settings=rule)
            records.append(WindowRecord.of_segments(segments, region, (24, 24)))
        outcomes.append((sum(r.count for r in records), merge_records(records, rule)))
    (all_segments, everything), (fewer, found) = outcomes
    sizes = ndimage.label(foreground[0] >= 0.6)[0]
    expected = np.bincount(sizes.ravel())[1:]
    assert everything.count == len(expected)
    assert found.count == (expected >= min_size).sum()
    assert fewer < all_segments


def test_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of many batches gives what one batch gives."""
    random = np.random.default_rng(0)
    fields = {
        "embedding": ndimage.gaussian_filter(random.normal(size=(2, 30, 40, 20)), (0, 2, 2, 2)),
        "foreground": ndimage.gaussian_filter(random.random((1, 30, 40, 20)), (0, 2, 2, 2)),
    }
    values = LabelSettings(
        window=(30, 40, 20),
        bandwidth=0.1,
        background="foreground",
        growth_threshold=0.46,
        foreground_threshold=0.51,
    )
    at_once = segment_window(fields, settings=values)
    monkeypatch.setattr("stitchsafe.instances._windows._BATCH", 100)
    monkeypatch.setattr("stitchsafe.instances._growth._SOURCES", 7)
    in_parts = segment_window(fields, settings=values)
    assert at_once.count > 5
    for name in ("labels", "cores", "modes", "clusters", "voxels", "first"):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(at_once, name))


def test_a_window_of_many_segments_is_measured_in_little_memory() -> None:
    shape = (1500, 8, 8)
    segments = segment_window(
        {
            "classes": np.indices(shape).sum(axis=0)[None] % 2
            == np.array([0, 1])[:, None, None, None]
        },
        settings=LabelSettings(window=shape, source="argmax"),
    )
    tracemalloc.start()
    record = WindowRecord.of_segments(segments, Roi.whole(shape), shape)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.count == np.prod(shape) // 2
    assert peak < 1000 * record.count
    np.testing.assert_array_equal(record.box_end - record.box_begin, 1)
    np.testing.assert_array_equal(record.sums, record.box_begin)


@pytest.mark.parametrize("growth", [None, 0.46])
def test_outside_of_a_mask_is_as_where_fields_are_no_numbers(growth: float | None) -> None:
    """Neither clustered, nor grown into; and NaN and a mask add up."""
    random = np.random.default_rng(3)
    fields = {
        "embedding": ndimage.gaussian_filter(random.normal(size=(2, 20, 24)), (0, 2, 2)),
        "foreground": ndimage.gaussian_filter(random.random((1, 20, 24)), (0, 2, 2)),
    }
    inside, nan = random.random((2, 20, 24)) < 0.8
    values = LabelSettings(
        window=(20, 24), bandwidth=0.1, background="foreground", growth_threshold=growth,
        foreground_threshold=0.51,
    )  # fmt: skip

    def segmented(holes: NDArray[np.bool_], **more: Any) -> WindowSegments:
        given = {name: np.where(holes, np.nan, field) for name, field in fields.items()}
        return segment_window(given, settings=values, nan_is_background=True, **more)

    expected, got = segmented(~inside | ~nan), segmented(~nan, inside=inside)
    assert 5 < got.count != segmented(~nan).count
    assert not got.labels[~inside].any()
    for name in ("labels", "cores", "modes", "clusters", "voxels", "first"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
