"""Clusters that are those of the whole volume: found in parts, as if all were clustered at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from merging import merge_records

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.errors import InputError
from stitchsafe.instances import (
    LabelSettings,
    Modes,
    PointSample,
    Sketch,
    SketchUnion,
    WindowRecord,
    clustered_points,
    connected_parts,
    estimate_bandwidth,
    find_modes,
    mean_shift,
    modes_of,
    segment_window,
    to_units,
)

THRESHOLD = 0.5
NUMBERS = {"allow_nan": False, "allow_infinity": False, "width": 32}


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], LabelSettings]:
    """Fields whose embeddings drift and touch at will, with windows and settings."""
    shape = draw(array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))
    dims = draw(st.integers(1, 3))
    # Few distinct values make clusters that lie in several windows.
    embedding = draw(arrays(np.float32, (dims, *shape), elements=st.integers(-5, 5).map(float)))
    foreground = draw(arrays(np.float32, (1, *shape), elements=st.floats(0, 1, **NUMBERS)))
    how = LabelSettings(
        window=draw(st.tuples(*[st.integers(1, 6)] * len(shape))),
        bandwidth=draw(st.sampled_from([0.7, 1.0, 2.5, 8.0])),
        kernel=draw(st.sampled_from(["flat", "gaussian"])),
        background=draw(st.sampled_from(["none", "foreground"])),
        clusters="volume",
        parts=draw(st.booleans()),
        min_mode=draw(st.sampled_from([1, 5])),
    )
    return {"embedding": embedding, "foreground": foreground}, how


def sketched(parts: Sequence[np.ndarray], how: LabelSettings) -> SketchUnion:
    union = SketchUnion(parts[0].shape[1])
    for part in parts:
        union.add(Sketch.of_units(to_units(part, how.radius)))
    return union


def in_windows(
    fields: dict[str, np.ndarray], how: LabelSettings, district: int | None = None
) -> tuple[np.ndarray, Modes]:
    """The whole way of what a run does: sketches of parts, one set of modes, windows, merging."""
    shape = next(iter(fields.values())).shape[1:]
    cells = list(grid_cells(Roi.whole(shape), how.window))
    parts = {c: {name: f[:, *c.slices] for name, f in fields.items()} for c in cells}
    points = [clustered_points(parts[cell], how) for cell in reversed(cells)]
    modes = modes_of(sketched(points, how).whole(), how)
    provisional, records = {}, []
    for cell in cells:
        got = segment_window(parts[cell], settings=how, modes=modes)
        provisional[cell] = got.labels
        records.append(WindowRecord.of_segments(got, cell, shape))
    merged = merge_records(records, how, windows_per_district=district)
    labels = np.zeros(shape, np.int64)
    for cell in cells:
        labels[cell.slices] = merged.labels(provisional[cell], cell, shape)
    assert merged.conflicts == 0
    return labels, modes


def at_once(fields: dict[str, np.ndarray], how: LabelSettings) -> np.ndarray:
    """Connected parts of the clusters of all points, which are clustered at once."""
    shape = fields["embedding"].shape[1:]
    inside = np.ones(shape, bool)
    if how.background == "foreground":
        inside = fields["foreground"][0] >= THRESHOLD
    points = fields["embedding"][:, inside].T
    clusters = np.zeros(shape, np.int32)
    if how.kernel == "flat":
        _, found = mean_shift(points, how.radius, min_support=how.min_mode)
    else:
        sketch = Sketch.of_units(to_units(points, how.radius))
        modes = find_modes(sketch, how.radius, kernel="gaussian", min_support=how.min_mode)
        # By distances themselves, none of the fast ways.
        apart = to_units(points, how.radius)[:, None] - modes.units
        found = (apart.astype(float) ** 2).sum(axis=2).argmin(axis=1) if len(points) else ()
    clusters[inside] = np.asarray(found, np.int32) + 1
    if how.parts:
        return connected_parts(clusters)[0]
    flat = clusters.reshape(-1).tolist()
    ids = dict.fromkeys(cluster for cluster in flat if cluster)  # by first voxel
    numbers = {0: 0} | {cluster: number for number, cluster in enumerate(ids, 1)}
    return np.asarray([numbers[cluster] for cluster in flat]).reshape(shape)


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([None, 1, 2]))
def test_windows_give_what_clustering_all_at_once_gives(
    case: tuple[dict[str, np.ndarray], LabelSettings], district: int | None
) -> None:
    """Voxel by voxel and id by id, whether clusters are separated or not."""
    fields, how = case
    labels, _ = in_windows(fields, how, district)
    np.testing.assert_array_equal(labels, at_once(fields, how))


def test_a_drifting_chain_is_cut_where_the_whole_is() -> None:
    """Windows by themselves refuse a conflict here; clusters of the volume know none."""
    ramp = np.tile(np.linspace(0, 6, 24, dtype=np.float32), (4, 1))
    how = LabelSettings(window=(4, 6), bandwidth=1.5, clusters="volume")
    labels, modes = in_windows({"embedding": ramp[None]}, how)
    assert 1 < len(modes.units) == labels.max()
    assert (np.diff(labels, axis=0) == 0).all()


def test_equal_embeddings_that_do_not_touch_stay_two() -> None:
    classes = np.zeros((12, 20), np.float32)
    classes[2:9, 1:8] = classes[2:10, 10:18] = 5  # both in several windows
    how = LabelSettings(window=(5, 6), bandwidth=1.0, clusters="volume", background="none")
    labels, modes = in_windows({"embedding": classes[None]}, how)
    assert len(modes.units) == 2
    assert labels.max() == 3
    assert len({labels[4, 4], labels[4, 12], labels[0, 0]}) == 3


def test_a_mode_of_the_volume_needs_its_voxels_in_the_volume() -> None:
    """Three voxels in each of four windows make one cluster of twelve."""
    field = np.zeros((1, 12, 12), np.float32)
    for row in (1, 7):
        for column in (1, 7):
            field[0, row, column : column + 3] = 9
    how = {"window": (6, 6), "bandwidth": 1.0, "min_mode": 10}
    volume = LabelSettings(**how, clusters="volume")
    assert in_windows({"embedding": field}, volume)[0].max() == 5
    alone = segment_window({"embedding": field[:, :6, :6]}, settings=LabelSettings(**how))
    assert alone.count == 1  # too few for a window


@settings(deadline=None, max_examples=40)
@given(
    st.lists(arrays(np.float32, st.tuples(st.integers(0, 40), st.just(2)),
                    elements=st.floats(-50, 50, **NUMBERS)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_parts_in_any_order_unite_to_the_sketch_and_the_sample_of_all(
    parts: list[np.ndarray], chance: Any
) -> None:
    how = LabelSettings(window=(4, 4), bandwidth=0.5)
    whole = np.concatenate(parts)
    chance.shuffle(parts)
    union, expected = sketched(parts, how).whole(), Sketch.of_units(to_units(whole, 0.5))
    for name in ("cells", "counts", "sums"):
        np.testing.assert_array_equal(getattr(union, name), getattr(expected, name))
    sample = PointSample.union([PointSample.of_points(part) for part in parts])
    assert sample.bandwidth(0.2) == estimate_bandwidth(whole, quantile=0.2)


def test_a_union_holds_little_beyond_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts come: those not united yet are no more than what is."""
    monkeypatch.setattr("stitchsafe.instances._sketch._HELD", 4)
    union, rng = SketchUnion(1), np.random.default_rng(0)
    for _ in range(200):
        union.add(Sketch.of_units(rng.integers(0, 50_000, (30, 1))))
        held = sum(len(part.counts) for part in union._parts)
        assert held <= max(4, len(union._united.counts)) + 30
    assert union.whole().counts.sum() == 200 * 30


def test_the_sums_of_a_gaussian_kernel_do_not_follow_the_threads() -> None:
    """They are computed by no library whose order of summation follows its threads."""
    from threadpoolctl import threadpool_limits

    from stitchsafe.instances._meanshift import numpy_sums

    rng = np.random.default_rng(1)
    cells = np.rint(rng.normal(0, 8000, (30_000, 4)))
    values = np.rint(rng.uniform(1, 1e6, (30_000, 5)))
    near, found = cells[:300], []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            found.append(numpy_sums(cells, values, "gaussian")(near, 0, len(cells)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    squares = ((near[:, None] - cells[:200]) ** 2).sum(axis=2) / 4096**2
    weights = np.where(squares > 36, 0, np.exp(-squares / 2))
    few = numpy_sums(cells[:200], values[:200], "gaussian")(near, 0, 200)
    np.testing.assert_allclose(few, weights @ values[:200], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bandwidth": "auto "}, "bandwidth auto"),
        ({"bandwidth": "wide"}, "wide"),
        ({"bandwidth": 0}, "bandwidth 0"),
        ({"bandwidth": float("nan")}, "nan"),
        ({"bandwidth": 1.0, "bandwidth_quantile": 1.5}, "1.5"),
        ({"bandwidth": 1.0, "kernel": "cubic"}, "flat, gaussian"),
        ({"bandwidth": 1.0, "clusters": "global"}, "window, volume"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        LabelSettings(window=(4, 4), **values)


def test_settings_survive_json() -> None:
    how = LabelSettings(window=(4, 4), bandwidth="auto", clusters="volume", kernel="gaussian")
    assert LabelSettings.from_json(how.to_json()) == how
    with pytest.raises(ValueError, match="not decided"):
        _ = how.radius
