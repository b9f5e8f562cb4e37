"""Results in forms that other programs read, opened by those."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from servers import Bucket
from zygote import Zygote

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Silent
from stitchsafe.errors import InputError, IntegrityError, MissingExtraError, PlanError, StoreError
from stitchsafe.volumes import open_volume

NAMES = ["out.csv", "out.ome.tif", "out.parquet"]


def blobs(*shape: int) -> np.ndarray:
    """A foreground of some blobs, as a network that gives back its input takes it."""
    rng = np.random.default_rng(0)
    coarse = rng.random([-(-size // 5) for size in shape]) > 0.6
    return np.kron(coarse, np.ones((5,) * len(shape)))[tuple(map(slice, shape))].astype(np.float32)


@pytest.fixture(scope="module", params=["zyx", "yx"])
def results(request, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """``out.zarr`` without a table, ``tabled.zarr`` with one; of a region of an image."""
    folder = tmp_path_factory.mktemp(request.param)
    three = request.param == "zyx"
    np.save(folder / "image.npy", blobs(*((24, 30, 40) if three else (90, 70))))
    (folder / "giving.py").write_text(
        f"from torch import nn\ndef back(): return nn.Conv{3 if three else 2}d(1, 1, 1)\n"
    )
    import torch
    from torch import nn

    same = (nn.Conv3d if three else nn.Conv2d)(1, 1, 1)
    with torch.no_grad():
        same.weight.fill_(1)
        same.bias.fill_(0)
    torch.save(same.state_dict(), folder / "same.pth")
    for name, save in (("out.zarr", "labels"), ("tabled.zarr", "labels,table")):
        done = zygote.run(
            "predict", "image.npy", "-m", "giving:back", "--weights", "same.pth", "-o", name,
            "--labels-from", "foreground", "--axes", request.param, "--save", save,
            "--voxel-size", "4,0.5,0.5" if three else "0.5,0.5", "--tile-shape",
            "8,16,16" if three else "16,16", "--roi", "3:24,:,7:" if three else "3:90,7:",
            cwd=folder, window=16, PYTHONPATH=str(folder),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


def expected_rows(labels: np.ndarray) -> list[dict[str, object]]:
    """The table, one instance after the other."""
    axes = "zyx"[-labels.ndim :]
    region = Roi((3, 0, 7)[-labels.ndim :] if labels.ndim == 3 else (3, 7), (0,) * labels.ndim)
    unit = np.prod([4, 0.5, 0.5][-labels.ndim :])
    rows = []
    for name in range(1, labels.max() + 1):
        places = np.argwhere(labels == name)
        begin, end = places.min(axis=0), places.max(axis=0) + 1
        row: dict[str, object] = {"id": name, "voxels": len(places)}
        row |= {f"centroid_{a}": v for a, v in zip(axes, places.mean(axis=0), strict=True)}
        row |= {f"begin_{a}": v for a, v in zip(axes, begin, strict=True)}
        row |= {f"end_{a}": v for a, v in zip(axes, end, strict=True)}
        row["touches_border"] = bool((begin == region.offset).any() or (end == labels.shape).any())
        row[f"volume_micrometer{labels.ndim}"] = len(places) * unit
        rows.append(row)
    return rows


def test_other_programs_find_what_is_there(results: Path, tmp_path: Path, zygote: Zygote) -> None:
    words = ("export", results / "out.zarr", "--to", "tiff,csv,parquet", "-o", tmp_path, "--json")
    done = zygote.run(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert told["files"]["tiff"] == str(tmp_path / "out.ome.tif")
    assert told["bytes"]["csv"] == (tmp_path / "out.csv").stat().st_size

    volume = open_volume(results / "out.zarr" / "labels" / "instances")
    labels = volume.read(Roi.whole(volume.shape))[0]
    assert labels.max() > 5
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert file.series[0].axes == volume.axes.upper()
        np.testing.assert_array_equal(file.series[0].asarray(), labels)
    assert open_volume(tmp_path / "out.ome.tif").voxel_size == volume.voxel_size

    rows = expected_rows(labels)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == list(rows[0])
    assert table.num_rows == len(rows)
    for found, row in zip(table.to_pylist(), rows, strict=True):
        assert found == pytest.approx(row)
    kinds = {name: str(table.schema.field(name).type) for name in ("id", "end_x", "centroid_x")}
    assert kinds == {"id": "int64", "end_x": "int64", "centroid_x": "double"}
    with (tmp_path / "out.csv").open() as file:
        for found, row in zip(csv.DictReader(file), rows, strict=True):
            assert found.pop("touches_border") == str(row.pop("touches_border"))
            assert {name: float(value) for name, value in found.items()} == pytest.approx(row)


def test_the_table_of_predict_is_the_one_that_is_computed(results: Path, tmp_path: Path) -> None:
    for name in ("out", "tabled"):
        stitchsafe.export(results / f"{name}.zarr", ["csv", "parquet"], tmp_path)
    kept = (results / "tabled.zarr" / "instances.csv").read_bytes()
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "tabled.csv").read_bytes() == kept
    computed, copied = (
        pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("out", "tabled")
    )
    assert computed.equals(copied)


def test_files_lie_beside_the_result(results: Path) -> None:
    export = stitchsafe.export(results / "out.zarr", "csv")
    assert export.files == {"csv": results / "out.csv"}
    with pytest.raises(StoreError, match=r"out\.csv exists; replace it with --overwrite"):
        stitchsafe.export(results / "out.zarr", "csv")
    before = export.files["csv"].read_bytes()
    export.files["csv"].write_text("mine")
    assert stitchsafe.export(results / "out.zarr", "csv", overwrite=True).files == export.files
    assert export.files["csv"].read_bytes() == before
    export.files["csv"].unlink()


class Interrupting(Silent):
    """Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [0, 1])
def test_what_is_stopped_leaves_nothing(results: Path, tmp_path: Path, steps: int) -> None:
    (tmp_path / "out.csv").write_text("mine")
    forms = ["tiff", "csv", "parquet"]
    with pytest.raises(KeyboardInterrupt):
        stitchsafe.export(
            results / "out.zarr", forms, tmp_path, overwrite=True, events=Interrupting(steps)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_a_file_that_comes_meanwhile_is_not_replaced(results: Path, tmp_path: Path) -> None:
    class Coming(Silent):
        def advance(self, count: int = 1) -> None:
            (tmp_path / "out.csv").write_text("mine")

    with pytest.raises(StoreError, match="exists"):
        stitchsafe.export(results / "out.zarr", ["csv", "tiff"], tmp_path, events=Coming())
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out.zarr", "--to", "onnx"], "is a result of predict, which has no form 'onnx'"),
        (["out.zarr", "--to", "csv,"], "no form ''"),
        (["model", "--to", "tiff"], "has no form 'tiff'; it can be exported to onnx, bioimageio"),
        (["out.zarr", "--to", "csv", "--trust-model"], "--trust-model is for a trained network"),
        (["image.npy", "--to", "tiff"], "image.npy is nothing that can be exported"),
        (["gone.zarr", "--to", "tiff"], "there is no gone.zarr"),
        (["out.zarr", "--to", "csv,tiff", "-o", "gone"], "csv, tiff are 2 files"),
        (["out.zarr", "--to", "csv", "-o", "gone/a.csv"], "gone does not exist"),
        (["out.zarr", "--to", "csv", "-o", "out.zarr/a.csv"], "lies in the result itself"),
        (["out.zarr", "--to", "csv", "-o", "s3://bucket/a.csv"], "is a URL"),
        (["out.zarr", "--to", "tiff", "-o", "./image.npy", "--overwrite"], "is the volume that"),
        (["out.zarr", "--to", "csv", "--max-memory", "100MB"], "raise --max-memory, or let"),
    ],
)
def test_what_cannot_be_is_refused(
    results: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(results)
    (results / "model").mkdir(exist_ok=True)
    (results / "model" / "config.yaml").touch()
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    with pytest.raises(SystemExit) as ended:
        main(["export", *words])
    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_memory_is_of_no_matter_where_there_is_a_table(results: Path, tmp_path: Path) -> None:
    stitchsafe.export(results / "tabled.zarr", "csv", tmp_path, max_memory=10**6)
    stitchsafe.export(results / "out.zarr", "tiff", tmp_path, max_memory=10**6)
    with pytest.raises(PlanError, match="instances takes"):
        stitchsafe.export(results / "out.zarr", "parquet", tmp_path, max_memory=10**6)


def test_a_damaged_table_is_told(results: Path, tmp_path: Path) -> None:
    place = results / "tabled.zarr" / "instances.csv"
    sound = place.read_bytes()
    try:
        place.write_bytes(sound.replace(b"True", b"true", 1))
        for form in ("csv", "parquet"):
            with pytest.raises(IntegrityError, match="not the table that was written"):
                stitchsafe.export(results / "tabled.zarr", form, tmp_path)
        place.unlink()
        with pytest.raises(IntegrityError, match="not the table that was written"):
            stitchsafe.export(results / "tabled.zarr", "csv", tmp_path)
    finally:
        place.write_bytes(sound)
    assert not list(tmp_path.iterdir())


def test_parquet_without_its_extra(results: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"stitchsafe\[parquet\]"):
        stitchsafe.export(results / "out.zarr", ["csv", "parquet"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", ["labels", "labels,table"])
def test_a_table_of_nothing(tmp_path: Path, save: str) -> None:
    from torch import nn

    network = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(network.weight)
    nn.init.constant_(network.bias, -9.0)
    np.save(tmp_path / "image.npy", np.zeros((20, 20), np.float32))
    out = tmp_path / "out.zarr"
    stitchsafe.predict(
        tmp_path / "image.npy", network, out, axes="yx", labels_from="foreground",
        save=save.split(","),
    )  # fmt: skip
    stitchsafe.export(out, ["csv", "parquet", "tiff"])
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.column_names[:2]) == (0, ["id", "voxels"])
    assert str(table.schema.field("id").type) == "int64"
    assert (tmp_path / "out.csv").read_text().count("\n") == 1
    assert not tifffile.imread(tmp_path / "out.ome.tif").any()


def test_a_result_on_an_object_store(bucket: Bucket, tmp_path: Path) -> None:
    from torch import nn

    network = nn.Conv2d(1, 1, 1)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    np.save(tmp_path / "image.npy", blobs(20, 30))
    forms = ["csv", "parquet", "tiff"]
    for save in ("labels", "labels,table"):
        stitchsafe.predict(
            tmp_path / "image.npy", network, f"{bucket.url}/{save}.zarr", axes="yx",
            labels_from="foreground", save=save.split(","),
        )  # fmt: skip
        with pytest.raises(StoreError, match="lies on no disk"):
            stitchsafe.export(f"{bucket.url}/{save}.zarr", forms)
        stitchsafe.export(f"{bucket.url}/{save}.zarr", forms, tmp_path)
    with pytest.raises(InputError, match="nothing that can be exported"):
        stitchsafe.export(f"{bucket.url}/gone.zarr", forms, tmp_path)
    one, other = (tmp_path / f"{save}.csv" for save in ("labels", "labels,table"))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_text().count("\n") > 3
    assert tifffile.imread(tmp_path / "labels.ome.tif").max() == len(
        pyarrow.parquet.read_table(tmp_path / "labels,table.parquet")
    )


def test_what_is_not_finished_is_refused(results: Path, tmp_path: Path, zygote: Zygote) -> None:
    if np.load(results / "image.npy").ndim == 3:
        pytest.skip("once is enough")
    done = zygote.run(
        "predict", "image.npy", "-m", "giving:back", "--weights", "same.pth", "-o",
        tmp_path / "part.zarr", "--labels-from", "foreground", "--tile-shape", "16,16",
        "--block-shape", "16,16", "--part", "1/2", "--axes", "yx",
        cwd=results, window=16, PYTHONPATH=str(results),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(StoreError, match="is not finished"):
        stitchsafe.export(tmp_path / "part.zarr", "csv")
