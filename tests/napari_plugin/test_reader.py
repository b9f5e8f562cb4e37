"""The reader: layers of a result, none of which is read before it is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchsafe import open_volume
from stitchsafe.coordinates import Roi
from stitchsafe.errors import StoreError
from stitchsafe.napari_plugin._colours import Colours
from stitchsafe.napari_plugin._reader import get_reader, image_layers, result_layers
from stitchsafe.volumes import PyramidLevel, VoxelSize, create_field, create_image, create_labels
from stitchsafe.volumes._volume import SourceVolume


def by_name(layers: list[Any]) -> dict[str, Any]:
    return {options["name"]: (data, options, kind) for data, options, kind in layers}


def finest(data: Any) -> Any:
    return data[0] if isinstance(data, list) else data


def test_layers_are_what_the_result_holds(result: Path, disks: Any) -> None:
    reader = get_reader(str(result))
    assert reader is not None
    layers = by_name(reader(str(result)))
    assert list(layers) == ["disks image", "disks embedding", "disks labels"]
    labels = open_volume(result / "labels" / "instances")
    assert np.array_equal(finest(layers["disks image"][0]), disks[:200, :240])
    assert np.array_equal(finest(layers["disks labels"][0]), labels.read(Roi.whole((200, 240)))[0])
    for _, options, _ in layers.values():
        assert options["scale"] == (0.5, 0.5)
        assert set(options["units"]) == {"micrometer"}
        assert options["axis_labels"] == ("y", "x")


def test_a_field_is_coloured_by_its_principal_directions(result: Path) -> None:
    data, options, kind = by_name(result_layers(result))["disks embedding"]
    colours = np.asarray(data)
    assert (kind, options["rgb"], colours.shape) == ("image", True, (200, 240, 3))
    field = open_volume(result / "fields" / "embedding").read(Roi.whole((200, 240)))
    flat = field.reshape(len(field), -1)
    first = np.linalg.svd(np.cov(flat))[0][:, 0] @ (flat - flat.mean(axis=1, keepdims=True))
    assert abs(np.corrcoef(first, colours[..., 0].ravel())[0, 1]) > 0.95


def test_a_field_of_one_or_two_channels_has_colours_too() -> None:
    values = np.random.default_rng(0).normal(size=(2, 100))
    assert Colours.of(values)(values.reshape(2, 10, 10)).shape == (10, 10, 3)
    assert Colours.of(np.zeros((5, 0)))(np.zeros((5, 4))).shape == (4, 3)


@pytest.mark.parametrize("what", ["folder", "file", "zarr of others", "list"])
def test_others_are_declined(what: str, tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_text("")
    create_image(
        tmp_path / "others.zarr",
        axes="yx",
        levels=[PyramidLevel((8, 8), (1, 1))],
        dtype="u1",
        chunks=(8, 8),
    )
    paths: dict[str, Any] = {
        "folder": str(tmp_path),
        "file": str(tmp_path / "file.zarr"),
        "zarr of others": str(tmp_path / "others.zarr"),
        "list": [str(tmp_path)],
    }
    assert get_reader(paths[what]) is None


def test_a_result_whose_records_are_damaged_is_one_clear_error(
    result: Path, tmp_path: Path
) -> None:
    shutil.copytree(result, tmp_path / "damaged.zarr")
    record = tmp_path / "damaged.zarr" / ".stitchsafe" / "recipe.json"
    record.write_text("{")
    assert len(result_layers(tmp_path / "damaged.zarr")) == 3  # by its copy
    record.with_name("recipe-copy.json").write_text("{")
    with pytest.raises(StoreError, match="can be read"):
        result_layers(tmp_path / "damaged.zarr")


def test_channels_are_layers_and_one_time_is_taken(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)
    np.save(tmp_path / "movie.npy", values)
    import zarr

    array = zarr.create_array(str(tmp_path / "m.zarr"), data=values, dimension_names=tuple("tcyx"))
    assert array.shape == values.shape
    layers = image_layers(str(tmp_path / "m.zarr"), time=1)
    assert [options["name"] for _, options, _ in layers] == [
        f"m.zarr, channel {c}" for c in range(3)
    ]
    for channel, (data, _, _) in enumerate(layers):
        assert np.array_equal(finest(data), values[1, channel])


def test_opening_ten_gigabytes_reads_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shape = tmp_path / "large.zarr", (2048, 2048, 2560)
    size, chunks = VoxelSize((10, 10, 10), "nanometer"), (128, 128, 128)
    levels = [PyramidLevel(tuple(s // f for s in shape), (f,) * 3) for f in (1, 2, 4, 8)]
    create_image(out, axes="zyx", levels=levels, dtype="u1", chunks=chunks, voxel_size=size)
    create_labels(
        out, "instances", axes="zyx", levels=levels, dtype="u4", chunks=chunks, voxel_size=size
    )
    create_field(
        out, "embedding", axes="zyx", shape=shape, channels=8, dtype="f4", chunks=(64, 64, 64),
        voxel_size=size,
    )  # fmt: skip
    (out / ".stitchsafe").mkdir()
    recipe = {
        "network": "x", "roi": {"offset": [0, 0, 0], "shape": shape}, "labels": {"source": "x"},
        "tile_shape": [64, 64, 64], "cell_shape": [128, 128, 128],
    }  # fmt: skip
    record = out / ".stitchsafe" / "recipe.json"
    record.write_text(json.dumps({"recipe": recipe, "volume": {"time": 0}}))
    read = []

    def counted(self: SourceVolume, roi: Roi, original: Any = SourceVolume.read) -> Any:
        read.append(roi.size)
        return original(self, roi)

    monkeypatch.setattr(SourceVolume, "read", counted)
    layers = by_name(result_layers(out))
    assert sum(finest(data).size for data, _, _ in layers.values()) > 10 * 2**30
    assert sum(read) <= 64**3
    for data, _, _ in layers.values():
        assert np.asarray(finest(data)[1000, :50, :60]).shape[:2] == (50, 60)
    assert sum(read) <= 64**3 + 3 * 50 * 60
    fields = layers["large embedding"][0]
    warned = pytest.importorskip("napari.utils.notifications").notification_manager.records
    assert not np.asarray(fields[-1]).any()  # all of it, for 3-D: that is refused, and said once
    assert not np.asarray(fields[-1][1:]).any()
    assert sum("GB of the field" in str(each.message) for each in warned) == 1
    assert sum(read) <= 64**3 + 3 * 50 * 60
