"""Growth of segments: a watershed of the foreground, in levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.segmentation import watershed

from stitchsafe.instances import connected_parts, grow_segments


def test_high_foreground_is_taken_first() -> None:
    labels = np.asarray([[1, 0, 0, 0, 0, 2]], np.uint32)
    foreground = np.asarray([[1, 0.2, 0.6, 0.7, 0.8, 1]], np.float32)
    grown = grow_segments(labels, foreground, np.ones((1, 6), bool))
    assert grown.tolist() == [[1, 1, 2, 2, 2, 2]]  # steps alone would put the border in the middle
    assert labels.tolist() == [[1, 0, 0, 0, 0, 2]]


def test_growth_stays_in_the_allowed_and_goes_so_far() -> None:
    labels = np.asarray([[0, 0, 1, 0, 0, 0, 2, 0]], np.uint32)
    allowed = np.asarray([[0, 1, 0, 1, 1, 1, 0, 1]], bool)
    level = np.full(labels.shape, 0.5, np.float32)
    assert grow_segments(labels, level, allowed).tolist() == [[0, 1, 1, 1, 1, 2, 2, 2]]
    assert grow_segments(labels, level, allowed, steps=1).tolist() == [[0, 1, 1, 1, 0, 2, 2, 2]]
    far = np.ones_like(allowed)
    assert grow_segments(labels, level, far, steps=1).tolist() == [[0, 1, 1, 1, 0, 2, 2, 2]]


def test_what_nothing_reaches_stays_free() -> None:
    labels = np.zeros((3, 3, 3), np.uint32)
    everywhere = np.ones(labels.shape, bool)
    assert not grow_segments(labels, everywhere.astype(np.float32), everywhere).any()
    labels[0, 0, 0] = 1
    everywhere[1] = False
    grown = grow_segments(labels, everywhere.astype(np.float32), everywhere)
    assert (grown[0] == 1).all()
    assert not grown[1:].any()


def flood(labels: np.ndarray, levels: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The definition, voxel by voxel."""
    out = labels.copy()
    claims: dict[tuple[int, ...], int] = {}

    def beside(place: tuple[int, ...]) -> list[tuple[int, ...]]:
        moved = [
            tuple(n + d * (a == axis) for a, n in enumerate(place))
            for axis in range(len(place))
            for d in (-1, 1)
        ]
        return [
            p for p in moved if all(0 <= n < size for n, size in zip(p, out.shape, strict=True))
        ]

    def claim() -> None:
        for place in map(tuple, np.argwhere(allowed & (out == 0)).tolist()):
            owners = [int(out[p]) for p in beside(place) if out[p]]
            if owners and place not in claims:
                claims[place] = min(owners)

    claim()
    for at in range(255, -1, -1):
        while due := [p for p in claims if levels[p] >= at and not out[p]]:
            for place in due:
                out[place] = claims[place]
            claim()
    return out


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(30,), (7, 8), (3, 4, 5)]))
def test_it_is_what_the_definition_says(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.choice([10, 60, 61, 100, 150, 200, 255], shape)
    labels = np.zeros(shape, np.uint32)
    labels.reshape(-1)[rng.choice(labels.size, 3, replace=False)] = [1, 2, 3]
    allowed = levels > 40
    grown = grow_segments(labels, ((levels + 0.5) / 256).astype(np.float32), allowed)
    np.testing.assert_array_equal(grown, flood(labels, levels, allowed))


def test_it_is_close_to_scikit_images_watershed() -> None:
    rng = np.random.default_rng(0)
    foreground = gaussian_filter(rng.random((32, 32, 32)), 2)
    foreground = (foreground - foreground.min()) / np.ptp(foreground)
    seeds, _ = connected_parts((foreground > 0.55).astype(np.int32))
    allowed = foreground > 0.2
    expected = watershed(-foreground, markers=seeds.astype(int), mask=allowed, connectivity=1)
    grown = grow_segments(seeds, foreground.astype(np.float32), allowed)
    np.testing.assert_array_equal(grown > 0, expected > 0)
    assert (grown == expected)[expected > 0].mean() > 0.95  # they differ on ties


@pytest.mark.parametrize("value", [-3.0, 7.0])
def test_values_beyond_a_probability_do_no_harm(value: float) -> None:
    labels = np.asarray([[1, 0, 0]], np.uint32)
    grown = grow_segments(labels, np.full((1, 3), value, np.float32), np.ones((1, 3), bool))
    assert grown.tolist() == [[1, 1, 1]]
