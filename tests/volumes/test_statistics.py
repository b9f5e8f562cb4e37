"""Statistics against NumPy on the whole, and against themselves over other chunks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stitchsafe.volumes._statistics as inside
from stitchsafe.coordinates import Roi
from stitchsafe.volumes import IntensityStatistics, open_volume, statistics

QS = (0, 1, 37.5, 50, 99.8, 100)
NARROW = ["bool", "uint8", "int8", "uint16", "int16", "float16"]
TYPES = [*NARROW, "int32", "uint32", "int64", "uint64", "float32", "float64"]


class Chunked:
    """An array that claims to be stored in chunks."""

    def __init__(self, array, chunks):
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index):
        return self.array[index]


def values(dtype, shape, rng):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    if dtype.kind == "f":
        spread = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)
        return spread.astype(dtype)
    limits = np.iinfo(dtype)
    made = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.where(rng.random(shape) < 0.5, made, made % 7).astype(dtype)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(inside, "_PIECE_VOXELS", 64)


@pytest.mark.parametrize("dtype", TYPES)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_equal_to_numpy(dtype, seed, shape, channels):
    data = values(dtype, (channels, *shape), np.random.default_rng(seed))
    found = statistics(open_volume(data, axes="czyx"), percentiles=QS)
    plain = data.reshape(channels, -1)
    wide = plain.astype(np.float64)
    assert found.count == (wide.shape[1],) * channels
    assert found.minimum == tuple(wide.min(axis=1))
    assert found.maximum == tuple(wide.max(axis=1))
    reach = max(np.ptp(wide), np.abs(wide).max())
    np.testing.assert_allclose(found.mean, wide.mean(axis=1), rtol=1e-12, atol=1e-12 * reach)
    np.testing.assert_allclose(found.std, wide.std(axis=1), rtol=1e-9, atol=1e-11 * reach)
    for q in QS:
        expected = np.percentile(wide, q, axis=1)
        np.testing.assert_allclose(
            found.percentile(q), expected, rtol=1e-12, atol=1e-13 * reach, err_msg=str(q)
        )


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64", "float32", "float64"])
def test_neither_chunks_nor_order_change_a_bit(dtype, small_pieces):
    rng = np.random.default_rng(5)
    data = values(dtype, (13, 11, 17), rng)
    reference = None
    for chunks in [(13, 11, 17), (1, 1, 1), (2, 3, 5), (13, 1, 4), (4, 11, 17)]:
        found = statistics(open_volume(Chunked(data, chunks)), percentiles=QS)
        assert reference is None or found == reference
        reference = found
    flipped = statistics(open_volume(data[::-1, ::-1, ::-1].copy()), percentiles=QS)
    assert flipped == reference
    assert reference is not None
    text = json.dumps(reference.to_json(), allow_nan=False)
    assert IntensityStatistics.from_json(json.loads(text)) == reference


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_counted_and_left_out(dtype, small_pieces):
    data = np.arange(2 * 5 * 6 * 7, dtype=dtype).reshape(2, 5, 6, 7)
    data[1, 3, 1, 2] = data[0, 3, 1, 1] = data[0, 4, 0, 0] = np.nan
    data[0, 2, 5, 6], data[1, 4, 4, 4] = np.inf, -np.inf
    found = statistics(open_volume(Chunked(data, (1, 2, 2, 2)), axes="czyx"), percentiles=(50,))
    assert (found.nan_count, found.first_nan) == (3, (3, 1, 1))
    assert (found.infinite_count, found.first_infinite) == (2, (2, 5, 6))
    for channel in range(2):
        kept = data[channel][np.isfinite(data[channel])].astype(float)
        assert found.count[channel] == kept.size
        assert found.mean[channel] == pytest.approx(kept.mean())
        assert found.percentile(50)[channel] == np.percentile(kept, 50)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nothing_but_nan(dtype):
    found = statistics(open_volume(np.full((3, 3), np.nan, dtype)), percentiles=(50,))
    assert found.count == (0,)
    assert math.isnan(found.mean[0])
    assert math.isnan(found.percentile(50)[0])
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.dumps(IntensityStatistics.from_json(json.loads(text)).to_json()) == text


def test_constant_and_extreme_volumes():
    for value in (0.1, -3e38, 1e-44):
        found = statistics(open_volume(np.full((4, 4), value, np.float32)), percentiles=(1,))
        assert found.mean == found.minimum == found.percentile(1) == (float(np.float32(value)),)
        assert found.std == (0.0,)
    both = np.array([[np.finfo("f8").max, -np.finfo("f8").max]])
    found = statistics(open_volume(both))
    assert found.std[0] == pytest.approx(np.finfo("f8").max)
    assert abs(found.mean[0]) < 1e-11 * np.finfo("f8").max


def test_region_and_events(shared_data):
    volume = open_volume(f"{shared_data}/fib25_em.h5:raw")
    roi = Roi((10, 20, 30), (40, 50, 60))
    seen = []
    found = statistics(volume, roi, percentiles=(1, 99), events=seen.append)
    part = volume.read(roi)[0].astype(float)
    assert found.percentile(99) == (np.percentile(part, 99),)
    assert found.mean == (pytest.approx(part.mean()),)
    assert seen[-1].voxels_done == seen[-1].voxels_total == roi.size
    with pytest.raises(ValueError, match="no voxel"):
        statistics(volume, Roi((0, 0, 0), (0, 1, 1)))
    with pytest.raises(ValueError, match="percentiles"):
        statistics(volume, roi, percentiles=(101,))


class Decoded(Chunked):
    """Chunks of an array that have to be decoded, and how often each was."""

    def __init__(self, array, chunks):
        super().__init__(array, chunks)
        self.counts = np.zeros([-(-s // c) for s, c in zip(array.shape, chunks, strict=True)], int)

    def __getitem__(self, index):
        ranges = zip(index, self.array.shape, self.chunks, strict=True)
        met = [slice(s.indices(n)[0] // c, -(-s.indices(n)[1] // c)) for s, n, c in ranges]
        self.counts[tuple(met)] += 1
        return self.array[index]


@pytest.mark.parametrize(("most", "times"), [(2**26, 1), (8 * 600, 2)])
def test_a_chunk_is_decoded_once_as_far_as_memory_allows(small_pieces, monkeypatch, most, times):
    monkeypatch.setattr(inside, "MOST_READ_BYTES", most)
    data = np.random.default_rng(0).normal(size=(20, 24, 30))
    expected = statistics(open_volume(data), percentiles=QS)
    stored = Decoded(data, (10, 12, 10))  # of 1200 voxels, and a piece has 64
    assert statistics(open_volume(stored), percentiles=QS) == expected
    assert set(stored.counts.ravel()) == {4 * times}  # four passes


def test_portions_hold_whole_chunks_however_large():
    data = np.broadcast_to(np.uint8(0), (600, 600, 600))
    assert inside.portion_shape(open_volume(Chunked(data, (300, 300, 300)))) == (300, 300, 300)
    plain = open_volume(data)  # where nothing is decoded, there is nothing to hold together
    assert math.prod(inside.portion_shape(plain)) <= 2**24


def test_pieces_are_bounded_and_cover_chunks():
    class Shape:
        channels = 2

        def __init__(self, shape, chunk_shape):
            self.shape, self.chunk_shape = shape, chunk_shape

    huge = inside._shape_within(Shape((4000, 4000, 4000), (4000, 4000, 4000)), inside._PIECE_VOXELS)
    assert math.prod(huge) <= inside._PIECE_VOXELS
    tiny = inside._shape_within(Shape((4000, 4000, 4000), (2, 16, 16)), inside._PIECE_VOXELS)
    assert all(piece % chunk == 0 for piece, chunk in zip(tiny, (2, 16, 16), strict=True))
    assert inside._PIECE_VOXELS / 16 < math.prod(tiny) <= inside._PIECE_VOXELS
