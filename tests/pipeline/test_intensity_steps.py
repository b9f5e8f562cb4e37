"""Steps before the network: with statistics of the whole volume, and of nothing less."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from model_files import package, small_package

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity
from stitchsafe.networks import TensorConfig
from stitchsafe.pipeline._steps import deciding_steps, first_percentiles
from stitchsafe.tiling import Normalization
from stitchsafe.volumes import answered, open_volume, statistics

RNG = np.random.default_rng(0)
VOLUME = np.concatenate(
    [RNG.integers(0, 4000, (1, 9, 30, 41)), RNG.integers(500, 900, (1, 9, 30, 41))]
).astype(np.uint16)


def applied(steps: Sequence[Sequence[dict[str, Any]]], volume: np.ndarray) -> np.ndarray:
    """What a rule makes of a volume, one list of steps for each input."""
    channels = len(volume) // len(steps)
    tensors = [TensorConfig(channels=channels, preprocessing=each) for each in steps]
    rule = Normalization("steps", tensors=tuple(t.model_dump(mode="json") for t in tensors))
    opened = open_volume(volume, axes="czyx")
    found = statistics(opened, percentiles=first_percentiles(rule))
    then = answered(deciding_steps(opened, rule, found))
    zero, one = (0.0,) * len(volume), (1.0,) * len(volume)
    return Intensity(zero, one, "float64", then=then).apply(volume)


def each(volume: np.ndarray, make: Any) -> np.ndarray:
    return np.stack([make(channel.astype(float)) for channel in volume])


def zscore(v: np.ndarray) -> np.ndarray:
    return (v - v.mean()) / (v.std() + 1e-6)


def ranged(v: np.ndarray, low: float = 2, high: float = 99.5, eps: float = 1e-6) -> np.ndarray:
    a, b = np.percentile(v, [low, high])
    return (v - a) / (b - a + eps)


Z = {"kind": "zscore", "eps": 1e-6}
P = {"kind": "percentiles", "low": 2, "high": 99.5, "eps": 1e-6}
LOG_LIKE = {"kind": "clip", "low": 100, "high": 700}
CASES = {
    "zscore per channel": ([[Z]], lambda v: each(v, zscore)),
    "zscore together": ([[{**Z, "together": True}]], lambda v: zscore(v.astype(float))),
    "percentiles per channel": ([[P]], lambda v: each(v, ranged)),
    "percentiles together": ([[{**P, "together": True}]], lambda v: ranged(v.astype(float))),
    "each input its own": (
        [[Z], [P]], lambda v: np.stack([zscore(v[0].astype(float)), ranged(v[1].astype(float))]),
    ),
    "each input by itself": (
        [[{**Z, "together": True}], [{**Z, "together": True}]], lambda v: each(v, zscore),
    ),
    "statistics of what was clipped": ([[LOG_LIKE, Z]], lambda v: each(v.clip(100, 700), zscore)),
    "of what was turned round": (
        [[{"kind": "linear", "gain": [-2, 1], "offset": [5, 0]}, P]],
        lambda v: np.stack([ranged(v[0] * -2.0 + 5), ranged(v[1].astype(float))]),
    ),
    "together, of what was scaled": (
        [[Z, {**P, "together": True}]], lambda v: ranged(each(v, zscore)),
    ),
    "clipped by percentiles": (
        [[P, {"kind": "clip_percentiles", "low": 10, "high": 90}]],
        lambda v: each(v, lambda c: np.clip(ranged(c), *np.percentile(ranged(c), [10, 90]))),
    ),
    "no statistics": (
        [[{"kind": "binarize", "threshold": [100, 600]}, {"kind": "sigmoid"}]],
        lambda v: 1 / (1 + np.exp(-(v > np.array([100, 600]).reshape(2, 1, 1, 1)).astype(float))),
    ),
    "cut off": (
        [[{"kind": "linear", "gain": [0.37]}, {"kind": "integer", "dtype": "uint8"}]],
        lambda v: (v * 0.37).astype("uint8").astype(float),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_steps_are_those_of_numpy_over_the_whole(case: str, dtype: str) -> None:
    steps, expected = CASES[case]
    volume = VOLUME.astype(dtype)
    if case == "cut off":
        volume = (volume % 600).astype(dtype)
    found = applied(steps, volume)
    np.testing.assert_allclose(found, expected(volume), rtol=1e-9, atol=1e-9)


def test_a_volume_without_contrast_becomes_zero() -> None:
    flat = np.full((1, 2, 8, 8), 7, np.uint8)
    np.testing.assert_array_equal(applied([[{"kind": "zscore"}]], flat), 0)
    np.testing.assert_array_equal(applied([[{**P, "eps": 0}]], flat), 0)


def test_chunks_change_no_bit(tmp_path: Path) -> None:
    """Neither the order nor the shape of what is read may reach the statistics."""
    rule = Normalization(
        "steps",
        tensors=tuple(
            t.model_dump(mode="json")
            for t in [TensorConfig(channels=2, preprocessing=[Z, {**P, "together": True}])]
        ),
    )
    found = []
    for chunks in ((2, 9, 30, 41), (1, 4, 7, 5), (2, 1, 30, 3)):
        name = "-".join(map(str, chunks))
        array = zarr.create_array(
            tmp_path / f"{name}.zarr", shape=VOLUME.shape, chunks=chunks, dtype="float32"
        )
        array[...] = VOLUME.astype(np.float32) / 7
        opened = open_volume(tmp_path / f"{name}.zarr", axes="czyx")
        raw = statistics(opened, percentiles=first_percentiles(rule))
        found.append(answered(deciding_steps(opened, rule, raw)))
    assert found[0] == found[1] == found[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = package()
    content["inputs"][0]["preprocessing"] = [
        {"id": "scale_range", "kwargs": {"max_percentile": 99, "axes": ["y", "x"]}},
        {"id": "clip", "kwargs": {"min": 0, "max": 1}},
        {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}},
    ]
    return small_package(tmp_path / "package", **content)


def reference(folder: Path, image: np.ndarray) -> np.ndarray:
    made: dict[str, Any] = {}
    exec((folder / "net.py").read_text(), made)
    module = made["make"](features=3).eval()
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    x = zscore(ranged(image.astype(float), 0, 99).clip(0, 1)).astype(np.float32)
    with torch.no_grad():
        return module(torch.from_numpy(x[None, None])).sigmoid().numpy()[0]


IMAGE = RNG.integers(0, 60_000, (96, 120)).astype(np.uint16)
IMAGE[:40] //= 100  # so that a tile's statistics are not the whole's


def test_tiles_and_regions_are_scaled_as_the_whole(folder: Path) -> None:
    expected = reference(folder, IMAGE)
    for more in ({}, {"roi": Roi((8, 20), (40, 50))}):
        made = stitchsafe.predict(
            IMAGE, folder, trust_model=True, save="fields", tile_shape=(16, 24), **more
        )
        roi = more.get("roi", Roi.whole(IMAGE.shape))
        np.testing.assert_allclose(
            made.fields["probability"], expected[(slice(None), *roi.slices)], atol=1e-6
        )


def test_the_recipe_says_the_steps_and_a_users_rule_takes_their_place(folder: Path) -> None:
    plan = stitchsafe.plan(IMAGE, folder, trust_model=True, save="fields")
    rule = plan.to_json()["recipe"]["normalization"]
    assert rule["kind"] == "steps"
    assert [s["kind"] for s in rule["tensors"][0]["preprocessing"]] == [
        "percentiles", "clip", "zscore",
    ]  # fmt: skip
    other = stitchsafe.plan(IMAGE, folder, trust_model=True, save="fields", normalize="none")
    assert other.to_json()["recipe"]["normalization"]["kind"] == "none"
    assert other.recipe.fingerprint != plan.recipe.fingerprint


def test_what_was_decided_is_kept_and_used_again(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", IMAGE)
    out = tmp_path / "out.zarr"
    stitchsafe.predict(tmp_path / "image.npy", folder, out, trust_model=True, save="fields")
    kept = json.loads((out / ".stitchsafe" / "consensus.json").read_text())
    (steps,) = kept["then"]
    assert [step["kind"] for step in steps] == ["affine", "clip", "affine"]
    verified = stitchsafe.verify(out, trust_model=True)
    assert verified.ok
    assert verified.voxels > 0
    assert verified.bit_mismatches == 0


def test_nan_is_refused_and_left_out_of_statistics(folder: Path) -> None:
    image = IMAGE.astype(np.float32)
    image[3, 4] = np.nan
    options: dict[str, Any] = {"trust_model": True, "save": "fields"}
    with pytest.raises(stitchsafe.StitchsafeError, match="NaN"):
        stitchsafe.predict(image, folder, **options)
    made = stitchsafe.predict(image, folder, nan="zero", **options)
    assert np.isfinite(made.fields["probability"]).all()
