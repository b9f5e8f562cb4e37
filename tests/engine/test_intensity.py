from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchsafe.engine import Intensity, border_map


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "bool"])
def test_the_table_of_narrow_integers_is_the_affine_map(dtype):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2, (2, 3, 4, 5)).astype(dtype)
    if dtype != "bool":
        info = np.iinfo(dtype)
        raw = rng.integers(info.min, info.max + 1, (2, 3, 4, 5)).astype(dtype)
        raw[0, 0, 0, :2] = info.min, info.max
    scaled = Intensity((3.0, -7.5), (0.25, 1 / 3)).apply(raw)
    exact = (raw.astype(float) - np.array([3.0, -7.5]).reshape(2, 1, 1, 1)) * np.array(
        [0.25, 1 / 3]
    ).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(scaled, exact.astype(np.float32))
    assert scaled.dtype == np.float32


def test_floats_are_scaled_in_double_and_rounded_once():
    raw = np.random.default_rng(0).normal(1e6, 1, (1, 4, 4)).astype(np.float32)
    scaled = Intensity.between([1e6], [1e6 + 3], dtype="float32", nan_to_zero=False).apply(raw)
    np.testing.assert_array_equal(scaled, ((raw.astype(float) - 1e6) * (1 / 3)).astype(np.float32))


def test_nan_becomes_zero_before_scaling_only_where_asked():
    raw = np.array([[[1.0, np.nan]]], np.float32)
    assert np.isnan(Intensity((1.0,), (2.0,)).apply(raw)).any()
    np.testing.assert_array_equal(
        Intensity((1.0,), (2.0,), nan_to_zero=True).apply(raw), [[[0.0, -2.0]]]
    )


def test_a_channel_without_contrast_becomes_zero():
    raw = np.full((1, 2, 2), 7, np.uint8)
    scaled = Intensity.between([7], [7], dtype="float32", nan_to_zero=False).apply(raw)
    np.testing.assert_array_equal(scaled, 0)


@given(
    st.integers(1, 9), st.integers(0, 40), st.integers(0, 40), st.sampled_from(["reflect", "edge"])
)
def test_border_rules_are_numpys(extent, before, after, rule):
    expected = np.pad(np.arange(extent), (before, after), mode=rule)
    np.testing.assert_array_equal(border_map(-before, extent + after, extent, rule), expected)
