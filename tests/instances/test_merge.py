"""Windows become instances: whole objects, whatever the windows and their order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from merging import Merged, expected_ids, merge_records

from stitchsafe.coordinates import CellGrid, Roi, grid_cells
from stitchsafe.instances import (
    Contacts,
    Decision,
    LabelSettings,
    Order,
    Segments,
    WindowRecord,
    WindowSegments,
    _merging,
    _numbering,
    choose_districts,
    connected_parts,
    relabel,
    segment_window,
    touching,
)


def embedding(classes: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    """A field in which class k lies about (10 k, -10 k)."""
    noise = jitter * np.random.default_rng(0).standard_normal((2, *classes.shape))
    return (np.stack([10.0 * classes, -10.0 * classes]) + noise).astype(np.float32)


def run(
    fields: dict[str, np.ndarray],
    how: LabelSettings,
    *,
    order: random.Random | None = None,
    district: int | None = None,
) -> tuple[np.ndarray, list[WindowRecord], Merged]:
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
    merge = merge_records(records, how, windows_per_district=district, order=order)
    labels = np.zeros(shape, merge.order.dtype)
    for cell, local in provisional.items():
        labels[cell.slices] = merge.labels(local, cell, shape)
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


def merged(records: Sequence[WindowRecord], **values: Any) -> Merged:
    size = records[0].region.shape[0]
    how = LabelSettings(window=(size, 4), **{"bandwidth": 1.0} | values)
    return merge_records(records, how)


def ids(merge: Merged) -> list[int]:
    """Ids of segments in order of windows, and in these of first voxels."""
    return [
        value
        for _, arrays in sorted(
            (tuple(each["keys"].tolist()), each["ids"].tolist()) for each in merge.districts
        )
        for value in arrays
    ]


volumes = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        arrays(np.int32, shape, elements=st.integers(0, 3), fill=st.nothing()),
        st.tuples(*[st.integers(1, 6)] * len(shape)),
    )
)


@settings(deadline=None, max_examples=50)
@given(volumes, st.randoms(use_true_random=False), st.integers(1, 3))
def test_separated_clusters_merge_to_what_the_whole_gives(
    case: tuple[np.ndarray, tuple[int, ...]], order: random.Random, district: int
) -> None:
    classes, window = case
    fields = {"embedding": embedding(classes, jitter=0.05)}
    how = LabelSettings(window=window, bandwidth=2.0)
    labels, _, merge = run(fields, how, order=order, district=district)
    expected, _ = connected_parts(classes + 1)
    np.testing.assert_array_equal(labels, expected)
    assert merge.conflicts == 0
    assert merge.count == labels.max(initial=0)
    again, _, same = run(fields, how)
    np.testing.assert_array_equal(labels, again)
    assert same.pairs == merge.pairs
    # The table speaks of the very labels.
    rows = [row for part in merge.table for row in _rows(part)]
    assert [row[0] for row in rows] == list(range(1, merge.count + 1))
    for id_, voxels, centroid, begin, end, border in rows:
        where = np.argwhere(labels == id_)
        assert voxels == len(where)
        np.testing.assert_allclose(centroid, where.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(begin, where.min(axis=0))
        np.testing.assert_array_equal(end, where.max(axis=0) + 1)
        assert border == bool(((where == 0) | (where == np.asarray(labels.shape) - 1)).any())


def _rows(part: Any) -> Any:
    return zip(
        part.ids,
        part.voxels,
        part.centroids,
        part.box_begin,
        part.box_end,
        part.touches_border,
        strict=True,
    )


def drifting(shape: Sequence[int], how: LabelSettings, rng: np.random.Generator) -> Any:
    """Windows of random parts, whose modes drift so that many candidates conflict.

    Where segments grow, some of the parts are strays.
    """
    records = []
    for cell in grid_cells(Roi.whole(shape), how.window):
        clusters = rng.integers(0, 5 if how.adopts else 4, cell.shape).astype(np.int32)
        labels, first = connected_parts(clusters)
        of_segment = clusters.reshape(-1)[first] - 1
        modes = np.sort(rng.uniform(0, 5, 4))[:, None].astype(np.float32)
        modes[3] = np.nan
        got = WindowSegments(
            labels=labels,
            cores=np.where(clusters == 4, np.uint32(0), labels),
            modes=modes[of_segment],
            clusters=np.where(of_segment == 3, -1, of_segment).astype(np.int32),
            voxels=np.bincount(labels.reshape(-1), minlength=len(first) + 1)[1:],
            first=np.stack(np.unravel_index(first, cell.shape), axis=1).astype(np.int64),
        )
        records.append(WindowRecord.of_segments(got, cell, tuple(shape)))
    return records


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 14), min_size=2, max_size=3),
    st.integers(2, 5),
    st.integers(1, 4),
    st.sampled_from(["none", "largest-cluster", "foreground"]),
    st.sampled_from([0, 3]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_districts_follow_the_rule_as_it_is_stated(
    shape: list[int],
    window: int,
    district: int,
    background: Any,
    min_size: int,
    grows: bool,
    order: random.Random,
) -> None:
    """With small portions of everything: several are walked, sorted and put in the table."""
    how = LabelSettings(
        window=(window,) * len(shape),
        bandwidth=1.0,
        background=background,
        min_size=min_size,
        growth_threshold=0.1 if grows and background == "foreground" else None,
    )
    records = drifting(shape, how, np.random.default_rng(order.randrange(2**32)))
    masked = order.choice([0.0, 0.3, 0.9])  # windows that a mask leaves out, whole districts too
    records = [record for record in records if order.random() >= masked] or records[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numbering, "AT_ONCE", 4)
        patch.setattr(_merging, "WALKED_AT_ONCE", 5000)
        cut = merge_records(records, how, windows_per_district=district, order=order)
    whole = merge_records(records, how, windows_per_district=64)
    assert cut.ids == whole.ids == expected_ids(records, how)
    assert cut.pairs == whole.pairs
    assert cut.conflicts == whole.conflicts
    assert [cut.order.dropped_small, cut.order.dropped_background, cut.count] == [
        whole.order.dropped_small,
        whole.order.dropped_background,
        whole.count,
    ]
    joined = [
        np.concatenate([np.stack(list(p.columns("abc"[: len(shape)]).values())) for p in m], axis=1)
        for m in (cut.table, whole.table)
        if m
    ]
    assert len(joined) in {0, 2}
    if joined:
        np.testing.assert_array_equal(*joined)
        assert joined[0].shape[1] == cut.count


def test_much_is_walked_in_the_property_above() -> None:
    how = LabelSettings(window=(3, 3, 3), bandwidth=1.0)
    records = drifting((12, 12, 12), how, np.random.default_rng(1))
    merge = merge_records(records, how, windows_per_district=2)
    assert merge.merging.levels == 1
    assert len(merge.memory.said["walk"][()]["walked"]) > 4
    assert merge.conflicts > 20


def test_strays_are_adopted_over_several_rounds_in_the_property_above() -> None:
    how = LabelSettings(
        window=(2, 2, 2), bandwidth=1.0, background="foreground", growth_threshold=0.1
    )
    merge = merge_records(
        drifting((10, 10, 10), how, np.random.default_rng(1)), how, windows_per_district=2
    )
    assert merge.memory.said["adopted"][()]["rounds"] > 2
    assert len(merge.memory.said["walk"][()]["walked"]) > 4


@pytest.mark.parametrize("shape", [(40, 40), (20, 20, 20)])
def test_growth_goes_on_over_faces_of_windows(shape: tuple[int, ...]) -> None:
    """Objects apart from each other, each with a core at one end, wherever windows cut them."""
    rng = np.random.default_rng(3)
    where = np.indices(shape)
    foreground = np.zeros((1, *shape), np.float32)
    for center in itertools.product(range(5, shape[0], 10), repeat=len(shape)):
        offset = where - np.reshape(center, (-1, *[1] * len(shape)))
        foreground[0][(offset**2).sum(axis=0) < 4.5**2] = 0.5
        core = np.asarray(center) + rng.integers(-2, 3, len(shape))
        foreground[0][tuple(core)] = 0.95
    expected, _ = connected_parts((foreground[0] > 0).astype(np.int32))
    assert expected.max() == (shape[0] // 10) ** len(shape)
    how = LabelSettings(
        window=(5,) * len(shape),
        source="foreground",
        foreground_threshold=0.9,
        growth_threshold=0.4,
    )
    labels, _, merge = run({"foreground": foreground}, how, district=2)
    np.testing.assert_array_equal(labels, expected)
    assert merge.memory.said["adopted"][()]["rounds"] >= len(shape)
    # Without a core there is nothing to adopt them.
    foreground[0][foreground[0] > 0.9] = 0.5
    labels, _, merge = run({"foreground": foreground}, how)
    assert not labels.any()
    assert (merge.count, merge.order.dropped_small, merge.order.dropped_background) == (0, 0, 0)


def test_a_stray_goes_where_it_shares_most_faces() -> None:
    """Left, two segments that touch the face with 2 and 3 voxels; right, no core."""
    foreground = np.full((1, 6, 12), 0.5, np.float32)
    foreground[0, 2, :6] = 0.1
    foreground[0, 0, 2] = foreground[0, 4, 2] = 0.95
    how = LabelSettings(
        window=(6, 6), source="foreground", foreground_threshold=0.9, growth_threshold=0.4
    )
    labels, records, merge = run({"foreground": foreground}, how)
    assert [record.strays.tolist() for record in records] == [[False, False], [True]]
    assert labels[:, 5].tolist() == [1, 1, 0, 2, 2, 2]
    assert (labels[:, 6:] == 2).all()
    assert merge.table[0].voxels.tolist() == [12, 54]


def test_growth_with_a_limit_ends_at_faces() -> None:
    foreground = np.full((1, 6, 12), 0.5, np.float32)
    foreground[0, :, 4] = 0.95
    how = LabelSettings(
        window=(6, 6),
        source="foreground",
        foreground_threshold=0.9,
        growth_threshold=0.4,
        growth_steps=4,
    )
    labels, _, _ = run({"foreground": foreground}, how)
    assert labels[0].tolist() == [1] * 6 + [0] * 6


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
    assert merge.order.dtype == np.uint8
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
    merge = merged(chain([[0.0], [1.5]], [[5], [5]]))
    assert merge.count == 2
    assert merge.conflicts == 0
    assert merge.pairs == {(0, 4): (5, 1.5, Decision.UNLIKE)}
    assert merged(chain([[0.0], [1.0]], [[5], [5]])).count == 1  # at the bandwidth: one


def test_a_drifting_chain_unites_the_closer_pair_and_counts_the_other() -> None:
    # A (0.0) and C (1.6) share a window; B (0.9) is like both, and closer to C.
    records = chain([[0.0, 1.6], [0.9]], [[3, 2], [5]])
    merge = merged(records)
    assert ids(merge) == [1, 2, 2]
    assert merge.conflicts == 1
    told = {pair: (voxels, decision) for pair, (voxels, _, decision) in merge.pairs.items()}
    assert told == {(0, 4): (3, Decision.CONFLICT), (4, 24): (2, Decision.UNITED)}


def test_of_equally_close_pairs_the_one_that_begins_first_unites() -> None:
    merge = merged(chain([[0.0, 1.5], [0.75]], [[1, 4], [5]]))
    assert ids(merge) == [1, 2, 1]
    assert merge.conflicts == 1


def test_a_long_drift_never_holds_two_clusters_of_a_window() -> None:
    # Two objects drift towards each other and apart again; each step is like both of the next.
    steps = np.linspace(0, 1, 12)
    low = np.minimum(steps, 1 - steps) * 1.2
    modes = [[value, 1.5 - value] for value in low]
    merge = merged(chain(modes, [[3, 3]] * 12))
    found = np.reshape(ids(merge), (12, 2))
    assert (found[:, 0] != found[:, 1]).all()
    assert set(found.reshape(-1).tolist()) == {1, 2}


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
    assert merge.order.dropped_small == 1
    assert sorted(np.unique(labels)) == [0, *range(1, merge.count + 1)]


def test_the_largest_cluster_of_the_volume_is_background() -> None:
    classes = np.zeros((16, 16), int)
    classes[4:12, 4:12] = 1  # fills the middle windows, so is the largest cluster of some
    classes[6:10, 6:10] = 0  # background, closed in
    classes[0:3, 13:16] = 2
    fields = {"embedding": embedding(classes)}
    how = LabelSettings(window=(4, 4), bandwidth=2.0, background="largest-cluster")
    labels, _, merge = run(fields, how)
    np.testing.assert_array_equal(labels, np.select([classes == 2, classes == 1], [1, 2], 0))
    assert merge.count == 2
    assert merge.order.dropped_background == 2
    (found,) = merge.table
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
    found = (sum(r.count for r in records), merge.count, merge.order.dtype)
    assert found == (0, 0, np.uint8)
    assert merge.table == []


def test_empty_windows_lie_between_others() -> None:
    foreground = np.zeros((1, 3, 12), np.float32)
    foreground[0, 1, [0, 10]] = 1
    labels, _, merge = run(
        {"foreground": foreground}, LabelSettings(window=(3, 4), source="foreground")
    )
    assert merge.districts[0]["starts"].tolist() == [0, 1, 1, 2]
    assert labels[1].tolist() == [1] + 9 * [0] + [2, 0]
    nothing = np.zeros((3, 4), np.uint32)
    assert not merge.labels(nothing, Roi((0, 4), (3, 4)), (3, 12)).any()
    with pytest.raises(KeyError, match="5"):
        merge.labels(nothing, Roi((0, 5), (3, 4)), (3, 12))


@pytest.mark.parametrize("district", [1, 2, 8])
def test_a_region_that_does_not_begin_at_the_origin(district: int) -> None:
    classes = np.random.default_rng(3).integers(0, 2, (14, 17)).astype(np.int32)
    region = Roi((3, 5), (9, 11))
    how = LabelSettings(window=(4, 4), bandwidth=1.0)
    records, provisional = [], {}
    for cell in grid_cells(region, how.window):
        got = segment_window({"embedding": embedding(classes[cell.slices])}, settings=how)
        provisional[cell] = got.labels
        records.append(WindowRecord.of_segments(got, cell, classes.shape))
    merge = merge_records(records, how, region=region, windows_per_district=district)
    labels = np.zeros(classes.shape, merge.order.dtype)
    for cell, local in provisional.items():
        labels[cell.slices] = merge.labels(local, cell, classes.shape)
    expected = connected_parts(classes[region.slices] + 1)[0]
    np.testing.assert_array_equal(labels[region.slices], expected)
    border = np.concatenate([part.touches_border for part in merge.table])
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
    (long,), (short,) = chain([[0.0]], [[5]]), chain([[0.0]], [[4]])
    with pytest.raises(ValueError, match="do not face each other"):
        Contacts.between(long, short, 1)


def test_tables_of_other_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="label 3"):
        relabel(np.asarray([0, 3], np.uint32), np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8")],
)
def test_the_smallest_type_that_holds(count: int, dtype: str) -> None:
    assert Order(starts=(0,), counts=(count,)).dtype == np.dtype(dtype)


def test_districts_hold_what_memory_allows() -> None:
    cells = CellGrid(Roi((8, 0), (25, 40)), (4, 4))
    indices = [cells.index(cell) for cell in cells.cells()]
    few = dict.fromkeys(indices, 10)
    assert choose_districts(cells, few) == (64, 64)  # all is one district
    many = dict.fromkeys(indices, 40_000)
    assert choose_districts(cells, many) == (4, 4)
    assert choose_districts(cells, dict.fromkeys(indices, 20_000)) == (8, 8)
    assert choose_districts(cells, {**few, indices[7]: 10**7}) == (4, 4)


def test_districts_without_any_window() -> None:
    """All that a mask leaves out; windows beside it have no neighbours there."""
    fields = {"embedding": np.full((1, 4, 16), 0.5, np.float32)}
    how = LabelSettings(window=(4, 4), bandwidth=1.0)
    _, records, _ = run(fields, how)
    kept = [record for record in records if record.region.offset[1] not in (4, 8)]
    merge = merge_records(kept, how, windows_per_district=1)
    assert merge.count == 2
    assert merge.pairs == {}
    assert Segments.of_records([], 2).names.shape == (0,)
