"""For one recipe no schedule changes a byte: of fields, labels, tables, evidence, or the ledger."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.volumes import ArrayStore

OPTIONS = {"threads": 1, "max_memory": 10**10, "image": "none"}
EVERYTHING = ("labels", "fields", "table")

CASES = {
    "3-D, anisotropic, not divisible": (
        {"factors": [(1, 2, 2)], "window": (4, 16, 16), "tile": (4, 8, 8)},
        (11, 41, 37),
        [(4, 16, 16), (4, 32, 16), (8, 16, 48), (12, 48, 48), (4, 16, 64), (99, 99, 99)],
    ),
    "2-D, two levels": (
        {"ndim": 2, "levels": 2, "window": (24, 24), "tile": (8, 12)},
        (61, 83),
        [(24, 24), (48, 24), (24, 72), (72, 96), (48, 48), (24, 96)],
    ),
    "2-D, same padding": (
        {"ndim": 2, "padding": "same", "window": (16, 16), "tile": (16, 8)},
        (45, 50),
        [(16, 16), (32, 16), (16, 48), (48, 64), (32, 32)],
    ),
    "smaller than one tile": (
        {"window": (16, 16, 16)},
        (3, 7, 5),
        [(16, 16, 16), (4, 8, 6)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_block_shapes_change_no_byte(tmp_path: Path, name: str) -> None:
    arguments, shape, blocks = CASES[name]
    model = tiny_model(tmp_path / "tiny", **arguments)
    np.save(tmp_path / "volume.npy", smooth_volume(*shape))
    first = None
    for count, block in enumerate(blocks):
        out = tmp_path / f"out{count}.zarr"
        made = stitchsafe.predict(
            tmp_path / "volume.npy", model, out, save=EVERYTHING, block_shape=block, **OPTIONS
        )
        content = content_of(out)
        if first is None:
            first, cells = content, made.plan.blocks
            assert made.progress.instances > 0
            assert {"instances.csv", "labels/zarr.json"} <= content.keys()
            assert any(key.startswith(".stitchsafe/merged/") for key in content)
            assert any(key.startswith("fields/embedding/0/c/") for key in content)
        assert content.keys() == first.keys()
        assert [key for key in first if content[key] != first[key]] == []
    if "smaller" not in name:
        assert made.plan.blocks != cells  # the last block shape is another than the first


def field(out: Path, name: str = "embedding") -> np.ndarray:
    array = ArrayStore.open(out / "fields" / name / "0")
    return array.read(stitchsafe.Roi.whole(array.shape))


def test_a_region_is_a_part_of_the_whole(tmp_path: Path) -> None:
    """Bit for bit, though the region begins and ends inside tiles."""
    model = tiny_model(tmp_path / "tiny", factors=[(1, 2, 2)], window=(4, 16, 16), tile=(4, 8, 8))
    np.save(tmp_path / "volume.npy", smooth_volume(11, 41, 37))
    run = lambda out, **more: stitchsafe.predict(  # noqa: E731
        tmp_path / "volume.npy", model, tmp_path / out, save="fields", tile_shape=(4, 8, 8),
        **OPTIONS, **more,
    )  # fmt: skip
    run("whole.zarr")
    run("part.zarr", roi=[(3, None), (5, 30), (13, 36)])
    whole, part = field(tmp_path / "whole.zarr"), field(tmp_path / "part.zarr")
    inside = (slice(None), slice(3, None), slice(5, 30), slice(13, 36))
    assert np.ptp(whole) > 0
    np.testing.assert_array_equal(part[inside], whole[inside])
    part[inside] = 0
    assert not part.any()


def test_a_single_slice_of_a_volume_through_a_2d_network(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "flat", ndim=2, window=(16, 16), normalize="none")
    volume = smooth_volume(11, 41, 37)
    np.save(tmp_path / "volume.npy", volume)
    np.save(tmp_path / "slice.npy", volume[7])
    run = lambda source, **more: stitchsafe.predict(  # noqa: E731
        tmp_path / f"{source}.npy", model, tmp_path / f"{source}.zarr", save=EVERYTHING,
        **OPTIONS, **more,
    )  # fmt: skip
    made = run("volume", roi=[(7, 8), (None, None), (None, None)])
    alone = run("slice")
    assert made.progress.instances == alone.progress.instances > 0
    for place in ("fields/embedding/0/c", "labels/instances/0/c"):
        one, other = ({
            str(p.relative_to(tmp_path / name)): p.read_bytes()
            for p in (tmp_path / name / place).rglob("*") if p.is_file()
        } for name in ("volume.zarr", "slice.zarr"))  # fmt: skip
        assert one == other != {}
    assert stitchsafe.verify(tmp_path / "volume.zarr").ok


def test_whole_passes_equal_what_any_tile_shape_stitches(tmp_path: Path) -> None:
    """Across recipes fields agree to rounding, and the labels' fields are the same."""
    model = tiny_model(tmp_path / "tiny", ndim=2, levels=2, window=(48, 48))
    np.save(tmp_path / "volume.npy", smooth_volume(61, 83))
    fields = []
    for count, tile in enumerate([(64, 84), (4, 16), (24, 12)]):
        out = tmp_path / f"{count}.zarr"
        stitchsafe.predict(
            tmp_path / "volume.npy", model, out, save="fields", tile_shape=tile, **OPTIONS
        )
        fields.append(field(out))
    for one, other in itertools.pairwise(fields):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize(
    ("model", "shape", "tiles"),
    [
        ("nuclei-2d", (300, 520), [(256, 256), (64, 128), (256, 64)]),
        pytest.param(
            "neurites-em", (96, 160, 160), [(64, 64, 64), (32, 128, 64), (16, 32, 128)],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_labels_of_other_tile_shapes_hardly_differ(
    model: str, shape: tuple[int, ...], tiles: list[tuple[int, ...]]
) -> None:
    """The windows stay; only the rounding of fields can move a voxel over a threshold."""
    volume = smooth_volume(*shape)
    made = [
        stitchsafe.predict(
            volume, model, tile_shape=tile, save=("fields", "labels"), max_memory=8 * 10**9,
            voxel_size="10,10,10nm" if len(shape) == 3 else None, threads=1,
        )
        for tile in tiles
    ]  # fmt: skip
    assert made[0].progress.instances > 5
    for one, other in itertools.combinations(made, 2):
        assert one.plan.recipe.cell_shape == other.plan.recipe.cell_shape
        assert one.plan.recipe.tile_shape != other.plan.recipe.tile_shape
        apart = {
            name: float(np.abs(values - other.fields[name]).max() / np.abs(values).max())
            for name, values in one.fields.items()
        }
        found = stitchsafe.evaluate(one.labels, other.labels).to_json()
        bits = found["voi_split"] + found["voi_merge"]
        print(model, one.plan.recipe.tile_shape, other.plan.recipe.tile_shape, apart, bits)
        assert max(apart.values()) <= 1e-5
        assert bits <= 1e-3
