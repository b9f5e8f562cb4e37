"""Class maps: each voxel the class of its largest score."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.errors import InputError
from stitchsafe.instances import LabelSettings, class_map, class_type, voxel_bytes

SETTINGS = LabelSettings(window=(4, 4), source="argmax", parts=False)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(0, 99), st.sampled_from([(5,), (3, 4), (2, 3, 4)]))
def test_it_is_the_argmax_and_of_equal_scores_the_lowest(classes, seed, shape) -> None:
    scores = np.random.default_rng(seed).integers(-3, 4, (classes, *shape)).astype(np.float32)
    found = class_map({"classes": scores}, settings=SETTINGS)
    np.testing.assert_array_equal(found, scores.argmax(axis=0))
    assert found.dtype == (np.uint8 if classes <= 256 else np.uint16)


def test_types_hold_the_highest_class() -> None:
    assert [str(class_type(n)) for n in (2, 256, 257, 65536, 65537)] == [
        "uint8", "uint8", "uint16", "uint16", "uint32",
    ]  # fmt: skip


def test_nan_is_background_or_refused() -> None:
    scores = np.zeros((3, 2, 2), np.float32)
    scores[2] = 1
    scores[1, 0, 1] = np.nan
    scores[0, 1, 0] = np.inf
    with pytest.raises(InputError, match=r"NaN at \(0, 1\)"):
        class_map({"classes": scores}, settings=SETTINGS)
    found = class_map({"classes": scores}, settings=SETTINGS, nan_is_background=True)
    assert found.tolist() == [[2, 0], [0, 2]]


@pytest.mark.parametrize("nan_is_background", [False, True])
@pytest.mark.parametrize("classes", [2, 8])
def test_it_takes_the_memory_that_is_planned(nan_is_background: bool, classes: int) -> None:
    scores = np.random.default_rng(0).random((classes, 1000, 1000), np.float32)
    tracemalloc.start()
    class_map({"classes": scores}, settings=SETTINGS, nan_is_background=nan_is_background)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = voxel_bytes(SETTINGS, fields=4 * classes, nan_is_background=nan_is_background)
    assert 0.5 * planned < peak / 1e6 <= planned


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"source": "foreground"},
            "labels from foreground are connected parts, and parts is false",
        ),
        ({"source": "embeddings", "bandwidth": 1}, "labels from embeddings are connected parts"),
        ({"source": "argmax", "min_size": 3}, "min_size 3 is for instances"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelSettings(window=(4, 4), parts=False, **values)


def test_a_card_says_it() -> None:
    settings = LabelSettings.from_json({"from": "argmax", "window": [8, 8], "parts": False})
    assert settings.is_class_map
    assert LabelSettings.from_json(settings.to_json()) == settings
    assert not LabelSettings.from_json({"from": "argmax", "window": [8, 8]}).is_class_map
