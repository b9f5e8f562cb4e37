"""The table of final labels, against one instance at a time, and however they are cut."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.instances import LabelMeasures


@settings(deadline=None)
@given(st.data())
def test_the_table_is_that_of_each_instance_alone(data) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(1, 8)) for _ in range(ndim))
    offset = tuple(data.draw(st.integers(0, 100)) for _ in range(ndim))
    region = Roi(offset, shape)
    count = data.draw(st.integers(0, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    labels = rng.integers(0, count + 1, shape).astype(np.uint8)
    measures = LabelMeasures(count, region)
    cells = list(grid_cells(region, [data.draw(st.integers(1, 9)) for _ in shape]))
    random.Random(0).shuffle(cells)
    for cell in cells:
        measures.add(labels[cell.relative_to(region).slices], cell.offset)
    (table,) = measures.tables()
    shown = sorted(set(labels.reshape(-1).tolist()) - {0})
    assert table.ids.tolist() == shown
    for row, name in enumerate(shown):
        places = np.argwhere(labels == name) + offset
        assert table.voxels[row] == len(places)
        np.testing.assert_allclose(table.centroids[row], places.mean(axis=0), rtol=1e-14)
        assert table.box_begin[row].tolist() == places.min(axis=0).tolist()
        assert table.box_end[row].tolist() == (places.max(axis=0) + 1).tolist()
        ends = (places.min(axis=0) == offset) | (places.max(axis=0) + 1 == region.end)
        assert table.touches_border[row] == ends.any()


def test_many_instances_come_in_portions() -> None:
    labels = np.arange(1, 70_001, dtype=np.uint32).reshape(700, 100)
    measures = LabelMeasures(70_000, Roi.whole(labels.shape))
    measures.add(labels, (0, 0))
    tables = list(measures.tables())
    assert len(tables) == 2
    assert np.concatenate([table.ids for table in tables]).tolist() == list(range(1, 70_001))
    assert tables[1].box_begin[-1].tolist() == [699, 99]
