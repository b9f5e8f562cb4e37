"""What predict writes, read by others: validators, plain JSON, zarr-python."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from reader_files import write_ome_zarr
from stores import smooth_volume, tiny_model, tree

import stitchsafe

OPTIONS = {"threads": 1, "max_memory": 10**10, "save": ("labels", "fields", "table")}
VOXELS = (30.0, 10.0, 10.0)


class Reader:
    """A reader of OME-Zarr that knows nothing of stitchsafe: zarr-python and the specification."""

    def __init__(self, path: Path, ngff: str) -> None:
        self.group = zarr.open_group(path, mode="r", zarr_format=3 if ngff == "0.5" else 2)
        attributes: Any = self.group.attrs
        if ngff == "0.5":
            attributes = attributes["ome"]
            assert attributes["version"] == "0.5"
        self.attributes = attributes
        (self.multiscale,) = attributes["multiscales"]
        if ngff == "0.4":
            assert self.multiscale["version"] == "0.4"

    @property
    def axes(self) -> list[tuple[str, str, str | None]]:
        return [(a["name"], a["type"], a.get("unit")) for a in self.multiscale["axes"]]

    def level(self, number: int) -> tuple[np.ndarray, list[float]]:
        dataset = self.multiscale["datasets"][number]
        (transformation,) = dataset["coordinateTransformations"]
        return np.asarray(self.group[dataset["path"]][...]), transformation["scale"]

    def __len__(self) -> int:
        return len(self.multiscale["datasets"])


@pytest.fixture(scope="module", params=["0.5", "0.4"])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A result with all there can be in it, and what went in."""
    here, ngff = tmp_path_factory.mktemp("result"), request.param
    model = tiny_model(here / "tiny", factors=[(1, 2, 2)], window=(4, 64, 64), voxel_size=VOXELS)
    volume = smooth_volume(6, 150, 140)
    np.save(here / "volume.npy", volume)
    made = stitchsafe.predict(
        here / "volume.npy", model, here / "out.zarr", ngff=ngff, image="copy",
        voxel_size="30,10,10nm", **OPTIONS,
    )  # fmt: skip
    return made, volume, ngff


SPACE = [(axis, "space", "nanometer") for axis in "zyx"]


def test_every_group_passes_the_validator(result) -> None:
    made, _, ngff = result
    for place in ("", "labels/instances", "fields/embedding", "fields/foreground"):
        yaozarrs.validate_zarr_store(str(made.out / place))
        version = Reader(made.out / place, ngff)
        assert len(version) >= 1


def test_the_image_is_a_copy_with_its_units(result) -> None:
    made, volume, ngff = result
    image = Reader(made.out, ngff)
    data, scale = image.level(0)
    np.testing.assert_array_equal(data, volume[None])
    assert image.axes == [("c", "channel", None), *SPACE]
    assert scale == [1.0, *VOXELS]


def test_labels_and_their_pyramid(result) -> None:
    made, volume, ngff = result
    labels = Reader(made.out / "labels" / "instances", ngff)
    assert labels.axes == SPACE
    assert labels.attributes["image-label"]["source"]["image"] == "../../"
    finest, scale = labels.level(0)
    assert finest.shape == volume.shape
    assert scale == list(VOXELS)
    ids = np.unique(finest)
    assert ids[0] == 0
    np.testing.assert_array_equal(ids, np.arange(made.progress.instances + 1))
    assert len(labels) >= 2
    for number in range(1, len(labels)):
        level, coarser = labels.level(number)
        steps = [round(c / f) for c, f in zip(coarser, VOXELS, strict=True)]
        np.testing.assert_array_equal(level, finest[tuple(slice(None, None, s) for s in steps)])
    listed = zarr.open_group(made.out / "labels", mode="r").attrs
    assert (listed["ome"] if ngff == "0.5" else listed)["labels"] == ["instances"]


def test_fields(result) -> None:
    made, volume, ngff = result
    for name, channels in (("embedding", 2), ("foreground", 1)):
        field = Reader(made.out / "fields" / name, ngff)
        data, scale = field.level(0)
        assert data.shape == (channels, *volume.shape)
        assert data.dtype == np.float32
        assert field.axes == [("c", "channel", None), *SPACE]
        assert scale == [1.0, *VOXELS]
        assert np.isfinite(data).all()
        assert np.ptp(data) > 0


def test_the_table_counts_the_labels(result) -> None:
    made, _, ngff = result
    finest, _ = Reader(made.out / "labels" / "instances", ngff).level(0)
    with (made.out / "instances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, made.progress.instances + 1))
    counts = np.bincount(finest.ravel())[1:]
    assert [int(row["voxels"]) for row in rows] == counts.tolist()
    assert float(rows[0]["volume_nanometer3"]) == counts[0] * 3000


def test_what_is_not_asked_for_is_not_written(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    np.save(tmp_path / "volume.npy", smooth_volume(20, 24, 24))
    options = {"threads": 1, "max_memory": 10**10}
    run = lambda out, save: stitchsafe.predict(  # noqa: E731
        tmp_path / "volume.npy", model, tmp_path / out, save=save, **options
    )
    labels, fields = run("labels.zarr", "labels"), run("fields.zarr", "fields")
    names = [set(tree(made.out)) for made in (labels, fields)]
    assert not {name for name in names[0] if name.startswith(("fields", "instances.csv"))}
    assert not {name for name in names[1] if name.startswith(("labels", "instances.csv"))}
    assert fields.progress.instances is None
    yaozarrs.validate_zarr_store(str(tmp_path / "labels.zarr" / "labels" / "instances"))
    yaozarrs.validate_zarr_store(str(tmp_path / "fields.zarr" / "fields" / "embedding"))
    assert (labels.out / ".stitchsafe" / "provisional").exists() is False


def test_a_linked_image_is_the_input_and_is_not_harmed(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    volume = smooth_volume(40, 48, 48)
    write_ome_zarr(tmp_path / "volume.zarr", volume, nanometers=10, levels=2)
    before = tree(tmp_path / "volume.zarr")
    options = {**OPTIONS, "image": "link", "level": 1}
    made = stitchsafe.predict(tmp_path / "volume.zarr", model, tmp_path / "out.zarr", **options)
    yaozarrs.validate_zarr_store(str(made.out))
    data, scale = Reader(made.out, "0.5").level(0)
    np.testing.assert_array_equal(data, volume)
    assert scale == [10, 10, 10]
    labels, scale = Reader(made.out / "labels" / "instances", "0.5").level(0)
    assert labels.shape == (20, 24, 24)
    assert scale == [20, 20, 20]
    # Replaced by a copy, the links go and the input stays.
    options = {**options, "image": "copy", "overwrite": True}
    stitchsafe.predict(tmp_path / "volume.zarr", model, tmp_path / "out.zarr", **options)
    assert not (tmp_path / "out.zarr" / "0").is_symlink()
    assert tree(tmp_path / "volume.zarr") == before


def test_a_slice_is_not_shown_over_the_whole_image(tmp_path: Path) -> None:
    """Labels of one slice cannot have a 3-D image linked to them; a copy is of the slice."""
    model = tiny_model(tmp_path / "flat", ndim=2, window=(16, 16))
    volume = smooth_volume(20, 24, 40)
    write_ome_zarr(tmp_path / "volume.zarr", volume, nanometers=10)
    for image in ("link", "copy"):
        out = tmp_path / f"{image}.zarr"
        stitchsafe.predict(
            tmp_path / "volume.zarr", model, out, roi=[(7, 8), (None,) * 2, (None,) * 2],
            image=image, **OPTIONS,
        )  # fmt: skip
        assert not (out / "0").is_symlink()
        yaozarrs.validate_zarr_store(str(out / "labels" / "instances"))
    data, scale = Reader(out, "0.5").level(0)
    np.testing.assert_array_equal(data, volume[None, 7])
    assert scale == [1, 10, 10]


def test_an_image_of_several_channels_and_times(tmp_path: Path) -> None:
    """Picked by --channel and --time; the record opens the same volume again."""
    model = tiny_model(tmp_path / "flat", ndim=2, window=(16, 16), channels=1)
    data = np.stack([smooth_volume(3, 24, 40, seed=s) for s in range(2)])
    np.save(tmp_path / "volume.npy", data)
    options = {**OPTIONS, "axes": "tcyx", "time": 1, "channel": 2}
    made = stitchsafe.predict(
        tmp_path / "volume.npy", model, tmp_path / "out.zarr", image="copy", **options
    )
    image, _ = Reader(made.out, "0.5").level(0)
    np.testing.assert_array_equal(image[0], data[1, 2])
    assert stitchsafe.verify(made.out).ok


def test_the_record_names_what_made_it(result) -> None:
    made, _, ngff = result
    record = json.loads((made.out / ".stitchsafe" / "recipe.json").read_text())
    assert record["source"].endswith("volume.npy")
    assert record["model"].endswith("tiny")
    assert record["form"] == {
        "chunk_shape": None, "image": "copy", "ngff": ngff,
        "save": ["fields", "labels", "table"],
    }  # fmt: skip
    (run,) = json.loads((made.out / ".stitchsafe" / "provenance.json").read_text())["runs"]
    assert run["stitchsafe"] == stitchsafe.__version__
    assert stitchsafe.verify(made.out, cells=2).ok  # by what is recorded alone
