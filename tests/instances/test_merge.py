"""Windows become instances: whole objects, whatever the windows and their order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.instances import (
    Contacts,
    Decision,
    LabelSettings,
    Merge,
    SegmentTable,
    WindowRecord,
    WindowSegments,
    connected_parts,
    instance_table,
    merge_segments,
    relabel,
    segment_window,
    smallest_dtype,
    stream_contacts,
    touching,
)


def embedding(classes: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    """A field in which class k lies about (10 k, -10 k)."""
    noise = jitter * np.random.default_rng(0).standard_normal((2, *classes.shape))
    return (np.stack([10.0 * classes, -10.0 * classes]) + noise).astype(np.float32)


def run(
    fields: dict[str, np.ndarray], how: LabelSettings, *, order: random.Random | None = None
) -> tuple[np.ndarray, list[WindowRecord], Merge]:
    """The whole way, window by window in any order."""
    shape = next(iter(fields.values())).shape[1:]
    cells = list(grid_cells(Roi.whole(shape), how.window))
    if order is not None:
        order.shuffle(cells)
    records, provisional = [], {}
    for cell in cells:
        inside = {name: field[:, *cell.slices] for name, field in fields.items()}
        got = segment_window(inside, settings=how)
        provisional[cell] = got.labels
        records.append(WindowRecord.of_segments(got, cell, shape))
    table = SegmentTable.of_records(records)
    ordered = sorted(records, key=lambda record: record.key)
    pairs = [found for _, found in stream_contacts(ordered)]
    if order is not None:
        order.shuffle(pairs)
    merge = merge_segments(table, Contacts.concatenate(pairs), settings=how)
    labels = np.zeros(shape, merge.dtype)
    for record in records:
        final = relabel(provisional[record.region], merge.final.lookup(record.key))
        labels[record.region.slices] = final
    return labels, records, merge


def chain(modes: Sequence[Sequence[float]], heights: Sequence[Sequence[int]]) -> list[WindowRecord]:
    """Windows in a row, each a stack of segments of these heights with these 1-D modes."""
    size = sum(heights[0])
    records = []
    for column, (values, parts) in enumerate(zip(modes, heights, strict=True)):
        labels = np.repeat(np.arange(1, len(parts) + 1), parts).astype(np.uint32)
        labels = np.repeat(labels[:, None], 4, axis=1)
        tops = np.concatenate([[0], np.cumsum(parts)[:-1]])
        got = WindowSegments(
            labels=labels,
            cores=labels,
            modes=np.asarray(values, np.float32)[:, None],
            clusters=np.arange(len(parts), dtype=np.int32),
            voxels=np.asarray(parts, np.int64) * 4,
            first=np.stack([tops, np.zeros_like(tops)], axis=1).astype(np.int64),
        )
        region = Roi((0, 4 * column), (size, 4))
        records.append(WindowRecord.of_segments(got, region, (size, 4 * len(modes))))
    return records


def merged(records: Sequence[WindowRecord], **values: Any) -> tuple[SegmentTable, Merge]:
    how = LabelSettings(window=(4, 4), **{"bandwidth": 1.0} | values)
    table = SegmentTable.of_records(records)
    contacts = Contacts.concatenate(found for _, found in stream_contacts(records))
    return table, merge_segments(table, contacts, settings=how)


volumes = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        arrays(np.int32, shape, elements=st.integers(0, 3), fill=st.nothing()),
        st.tuples(*[st.integers(1, 6)] * len(shape)),
    )
)


@settings(deadline=None, max_examples=80)
@given(volumes, st.randoms(use_true_random=False))
def test_separated_clusters_merge_to_what_the_whole_gives(
    case: tuple[np.ndarray, tuple[int, ...]], order: random.Random
) -> None:
    classes, window = case
    fields = {"embedding": embedding(classes, jitter=0.05)}
    how = LabelSettings(window=window, bandwidth=2.0)
    labels, records, merge = run(fields, how, order=order)
    expected, _ = connected_parts(classes + 1)
    np.testing.assert_array_equal(labels, expected)
    assert merge.conflicts == 0
    assert merge.count == labels.max(initial=0)
    again, _, same = run(fields, how)
    np.testing.assert_array_equal(labels, again)
    for name, value in same.evidence.to_arrays().items():
        np.testing.assert_array_equal(value, merge.evidence.to_arrays()[name])
    # The table speaks of the very labels.
    found = instance_table(records, merge)
    for id_, voxels, centroid, begin, end, border in zip(
        found.ids,
        found.voxels,
        found.centroids,
        found.box_begin,
        found.box_end,
        found.touches_border,
        strict=True,
    ):
        where = np.argwhere(labels == id_)
        assert voxels == len(where)
        np.testing.assert_allclose(centroid, where.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(begin, where.min(axis=0))
        np.testing.assert_array_equal(end, where.max(axis=0) + 1)
        assert border == bool(((where == 0) | (where == np.asarray(labels.shape) - 1)).any())


@settings(deadline=None, max_examples=40)
@given(volumes, st.sampled_from(["foreground", "argmax"]))
def test_other_sources_give_the_parts_of_the_whole(
    case: tuple[np.ndarray, tuple[int, ...]], source: str
) -> None:
    classes, window = case
    scores = np.stack([classes == k for k in range(4)]).astype(np.float32)
    fields = {"classes": scores, "foreground": (classes[None] > 1).astype(np.float32)}
    labels, _, merge = run(fields, LabelSettings.from_json({"from": source, "window": window}))
    whole = classes if source == "argmax" else (classes > 1).astype(np.int32)
    np.testing.assert_array_equal(labels, connected_parts(whole)[0])
    assert merge.conflicts == 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_object_over_3_windows_each_way(ndim: int) -> None:
    fields = {"embedding": np.full((3, *(12,) * ndim), 1.25, np.float32)}
    labels, records, merge = run(fields, LabelSettings(window=(4,) * ndim, bandwidth=0.5))
    assert sum(record.count for record in records) == 3**ndim
    assert merge.count == 1
    assert merge.dtype == np.uint8
    assert (labels == 1).all()


def test_equal_embeddings_apart_stay_two() -> None:
    classes = np.zeros((20, 20), int)
    classes[2:6, 2:9] = classes[11:18, 3:6] = 1
    labels, _, merge = run(
        {"embedding": embedding(classes)}, LabelSettings(window=(8, 8), bandwidth=1.0)
    )
    assert merge.count == 3
    assert {labels[3, 3], labels[3, 8]} == {2}
    assert {labels[12, 4], labels[17, 5]} == {3}


def test_touching_but_unlike_stay_two() -> None:
    _, merge = merged(chain([[0.0], [1.5]], [[5], [5]]))
    assert merge.count == 2
    assert merge.conflicts == 0
    assert merge.evidence.decisions.tolist() == [Decision.UNLIKE]
    assert merge.evidence.voxels.tolist() == [5]
    assert merge.evidence.distances.tolist() == [1.5]
    assert merged(chain([[0.0], [1.0]], [[5], [5]]))[1].count == 1  # at the bandwidth: one


def test_a_drifting_chain_unites_the_closer_pair_and_counts_the_other() -> None:
    # A (0.0) and C (1.6) share a window; B (0.9) is like both, and closer to C.
    records = chain([[0.0, 1.6], [0.9]], [[3, 2], [5]])
    _, merge = merged(records)
    assert merge.ids.tolist() == [1, 2, 2]
    assert merge.conflicts == 1
    assert merge.evidence.decisions.tolist() == [Decision.UNITED, Decision.CONFLICT]
    assert merge.evidence.rows.tolist() == [[1, 2], [0, 2]]
    assert merge.evidence.voxels.tolist() == [2, 3]


def test_of_equally_close_pairs_the_first_in_the_table_unites() -> None:
    _, merge = merged(chain([[0.0, 1.5], [0.75]], [[1, 4], [5]]))
    assert merge.ids.tolist() == [1, 2, 1]
    assert merge.conflicts == 1


def test_a_long_drift_never_holds_two_clusters_of_a_window() -> None:
    # Two objects drift towards each other and apart again; each step is like both of the next.
    steps = np.linspace(0, 1, 12)
    low = np.minimum(steps, 1 - steps) * 1.2
    modes = [[value, 1.5 - value] for value in low]
    table, merge = merged(chain(modes, [[3, 3]] * 12))
    for window in range(12):
        own = merge.ids[table.windows == window]
        assert len(set(own.tolist())) == 2
    assert set(merge.ids.tolist()) == {1, 2}


def test_the_walk_agrees_with_plain_brute_force() -> None:
    rng = np.random.default_rng(5)
    conflicts = 0
    for _ in range(40):
        columns = int(rng.integers(2, 7))
        records = chain(
            np.sort(rng.uniform(0, 3, (columns, 3)), axis=1).tolist(),
            [[2, 2, 2] if column % 2 else [1, 3, 2] for column in range(columns)],
        )
        table, merge = merged(records)
        sets = [{row} for row in range(table.rows)]
        refused = 0
        for (a, b), distance in zip(merge.evidence.rows, merge.evidence.distances, strict=True):
            first, second = (next(s for s in sets if row in s) for row in (a, b))
            if distance > 1.0 or first is second:
                continue
            held = [(table.windows[r], table.clusters[r]) for r in first | second]
            if len({window for window, _ in held}) < len(set(held)):
                continue
            sets.remove(second)
            first |= second
        for (a, b), distance in zip(merge.evidence.rows, merge.evidence.distances, strict=True):
            together = any(a in s and b in s for s in sets)
            assert together == (merge.ids[a] == merge.ids[b])
            refused += distance <= 1.0 and not together
        assert merge.count == len(sets)
        assert merge.conflicts == refused
        conflicts += refused
    assert conflicts > 20


def test_parts_of_one_cluster_may_join_through_another_window() -> None:
    classes = np.zeros((6, 8), int)
    classes[1, :6] = classes[4, :6] = classes[1:5, 5] = 1  # a bracket, closed in the second window
    labels, _, merge = run(
        {"embedding": embedding(classes)}, LabelSettings(window=(6, 4), bandwidth=1.0)
    )
    assert merge.conflicts == 0
    np.testing.assert_array_equal(labels, connected_parts(classes + 1)[0])


def test_minimum_size_counts_whole_instances() -> None:
    classes = np.zeros((3, 40), int)
    classes[1, 2:38] = 1  # 36 voxels, at most 4 in any window
    classes[2, 6:9] = 2  # 3 voxels
    fields = {"embedding": embedding(classes)}
    labels, _, merge = run(fields, LabelSettings(window=(3, 4), bandwidth=1.0, min_size=10))
    assert (labels[1, 2:38] == labels[1, 2]).all()
    assert labels[1, 2] > 0
    assert not labels[2, 6:9].any()
    assert merge.dropped_small == 1
    assert sorted(np.unique(labels)) == [0, *range(1, merge.count + 1)]


def test_the_largest_cluster_of_the_volume_is_background() -> None:
    classes = np.zeros((16, 16), int)
    classes[4:12, 4:12] = 1  # fills the middle windows, so is the largest cluster of some
    classes[6:10, 6:10] = 0  # background, closed in
    classes[0:3, 13:16] = 2
    fields = {"embedding": embedding(classes)}
    how = LabelSettings(window=(4, 4), bandwidth=2.0, background="largest-cluster")
    labels, records, merge = run(fields, how)
    np.testing.assert_array_equal(labels, np.select([classes == 2, classes == 1], [1, 2], 0))
    assert merge.count == 2
    assert merge.dropped_background == 2
    found = instance_table(records, merge)
    assert found.voxels.tolist() == [9, 48]
    assert found.touches_border.tolist() == [True, False]
    assert list(found.columns("yx")) == [
        "id",
        "voxels",
        "centroid_y",
        "centroid_x",
        "begin_y",
        "begin_x",
        "end_y",
        "end_x",
        "touches_border",
    ]


def test_all_background() -> None:
    fields = {"foreground": np.zeros((1, 7, 9), np.float32)}
    labels, records, merge = run(fields, LabelSettings(window=(4, 4), source="foreground"))
    assert not labels.any()
    assert (sum(r.count for r in records), merge.count, merge.dtype) == (0, 0, np.uint8)
    assert len(instance_table(records, merge).ids) == 0


def test_empty_windows_lie_between_others() -> None:
    foreground = np.zeros((1, 3, 12), np.float32)
    foreground[0, 1, [0, 10]] = 1
    labels, _, merge = run(
        {"foreground": foreground}, LabelSettings(window=(3, 4), source="foreground")
    )
    assert merge.final.starts.tolist() == [0, 1, 1, 2]
    assert labels[1].tolist() == [1] + 9 * [0] + [2, 0]
    assert merge.final.lookup(4).tolist() == [0]
    with pytest.raises(KeyError, match="5"):
        merge.final.lookup(5)


def test_a_region_that_does_not_begin_at_the_origin() -> None:
    classes = np.random.default_rng(3).integers(0, 2, (14, 17)).astype(np.int32)
    region = Roi((3, 5), (9, 11))
    how = LabelSettings(window=(4, 4), bandwidth=1.0)
    records, provisional = [], {}
    for cell in grid_cells(region, how.window):
        got = segment_window({"embedding": embedding(classes[cell.slices])}, settings=how)
        provisional[cell] = got.labels
        records.append(WindowRecord.of_segments(got, cell, classes.shape))
    _, merge = merged(records)
    labels = np.zeros(classes.shape, merge.dtype)
    for record in records:
        lookup = merge.final.lookup(record.key)
        labels[record.region.slices] = relabel(provisional[record.region], lookup)
    expected = connected_parts(classes[region.slices] + 1)[0]
    np.testing.assert_array_equal(labels[region.slices], expected)
    border = instance_table(records, merge, region).touches_border
    assert border.any()
    assert not border.all()


def test_contacts_count_faces() -> None:
    high = np.asarray([[1, 1, 0], [2, 2, 3]], np.uint32)
    low = np.asarray([[4, 4, 4], [1, 4, 0]], np.uint32)
    labels, voxels = touching(high, low)
    assert labels.tolist() == [[1, 4], [2, 1], [2, 4]]
    assert voxels.tolist() == [2, 1, 1]
    assert touching(low * 0, high)[0].shape == (0, 2)
    with pytest.raises(ValueError, match="face"):
        touching(high, low[:1])


def test_windows_off_the_grid_are_refused() -> None:
    first, second = chain([[0.0], [0.0]], [[5], [5]])
    with pytest.raises(ValueError, match="twice"):
        SegmentTable.of_records([first, second, first])
    (short,) = chain([[0.0]], [[4]])
    moved = WindowRecord(**{**vars(short), "region": Roi((0, 4), (4, 4))})
    with pytest.raises(ValueError, match="do not face each other"):
        list(stream_contacts([first, moved]))


def test_tables_of_other_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="label 3"):
        relabel(np.asarray([0, 3], np.uint32), np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8")],
)
def test_the_smallest_type_that_holds(count: int, dtype: str) -> None:
    assert smallest_dtype(count) == np.dtype(dtype)
