"""Fields that are kept in fewer bits: rounded once, by a stated error, after labels are made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from heard import Heard
from stores import content_of, edit_json, smooth_volume, tiny_model, tree
from torch import nn

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Ledger, checksum
from stitchsafe.errors import InputError, InterruptedRunError
from stitchsafe.volumes import ArrayStore

BOTH = ("labels", "fields", "table")
OPTIONS: dict[str, Any] = {
    "threads": 1, "max_memory": 10**10, "image": "none", "save": BOTH, "field_type": "float16",
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    labels = {"foreground_threshold": 0.01, "bandwidth": 0.4}
    tiny_model(folder / "tiny", ndim=2, window=(16, 16), seed=2, labels=labels)
    np.save(folder / "volume.npy", smooth_volume(44, 40))
    predict(folder, folder / "rounded.zarr")
    predict(folder, folder / "computed.zarr", field_type=None)
    return folder


def predict(here: Path, out: Path, **more: Any) -> stitchsafe.pipeline.Prediction:
    return stitchsafe.predict(here / "volume.npy", here / "tiny", out, **{**OPTIONS, **more})


def field(out: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_array(out / "fields" / name / "0", mode="r")[...])


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_each_number_is_the_nearest_and_the_largest_difference_is_told(
    here: Path, tmp_path: Path, ngff: str
) -> None:
    out = tmp_path / "out.zarr"
    made = predict(here, out, ngff=ngff)
    told = made.to_json()["rounding"]
    for name in ("embedding", "foreground"):
        computed, kept = field(here / "computed.zarr", name), field(out, name)
        assert kept.dtype == np.float16
        np.testing.assert_array_equal(kept, computed.astype(np.float16))
        assert told[name] == np.abs(kept.astype(float) - computed.astype(float)).max() > 0
        attributes = zarr.open_group(out / "fields" / name, mode="r").attrs
        assert attributes["stitchsafe"] == {
            "computed": "float32", "stored": "float16", "max_abs_rounding": told[name],
        }  # fmt: skip
    numbers = 3 * 44 * 40
    rounded, full = made.plan.output_bytes, predict(here, here / "computed.zarr", field_type=None)
    assert full.plan.output_bytes - rounded == 2 * numbers
    assert full.to_json()["rounding"] == {}
    assert stitchsafe.verify(out).ok


def test_labels_are_made_of_what_was_computed(here: Path) -> None:
    one, other = tree(here / "rounded.zarr"), tree(here / "computed.zarr")
    labels = [name for name in one if name.startswith(("labels/", "instances.csv"))]
    assert len(labels) > 5
    for name in (*labels, ".stitchsafe/evidence/1_1.npz"):
        assert one[name] == other[name], name


def test_no_schedule_and_no_kill_changes_a_byte(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, commit = content_of(here / "rounded.zarr"), Ledger.commit
    predict(here, tmp_path / "blocks.zarr", block_shape=(32, 48))
    assert content_of(tmp_path / "blocks.zarr") == expected

    class Death(BaseException):
        pass

    def dying(ledger: Ledger, stage: str, records: Any) -> None:
        if stage == "merge":
            raise Death
        commit(ledger, stage, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dying)
        with pytest.raises(Death):
            predict(here, tmp_path / "out.zarr")
    predict(here, tmp_path / "out.zarr", block_shape=(48, 16))
    assert content_of(tmp_path / "out.zarr") == expected


def test_verify_compares_with_the_rounding(here: Path, tmp_path: Path) -> None:
    """A field that was entered with another last bit is not the rounded one."""
    out, cell = tmp_path / "out.zarr", Roi((0, 16, 16), (2, 16, 16))
    shutil.copytree(here / "rounded.zarr", out)
    found = stitchsafe.verify(out)
    assert found.ok
    assert found.voxels == 8 * 64
    array = ArrayStore.open(out / "fields/embedding/0")
    data = np.nextafter(array.read(cell), np.float16(np.inf))
    array.write(cell, data)
    edit_json(
        out / ".stitchsafe/ledger/predict/1_1.json",
        lambda entry: entry["cells"][0]["record"]["checksums"].update(embedding=checksum(data)),
    )
    found = stitchsafe.verify(out)
    assert found.corrupt == ()
    assert found.bit_mismatches == 64


@pytest.mark.parametrize(
    "name",
    ["fields/embedding/zarr.json", "fields/zarr.json", "fields/foreground/0/c/0/1/1",
     ".stitchsafe/ledger/create/.json", ".stitchsafe/ledger/predict/0_2.json"],
)  # fmt: skip
def test_repair_restores_the_note_too(here: Path, tmp_path: Path, name: str) -> None:
    out, expected = tmp_path / "out.zarr", content_of(here / "rounded.zarr")
    shutil.copytree(here / "rounded.zarr", out)
    (out / name).unlink()
    assert not stitchsafe.verify(out, cells=1).ok
    predict(here, out, repair=True)
    assert content_of(out) == expected
    assert stitchsafe.verify(out, cells=1).ok


def loud() -> nn.Module:
    """A thousand times its input."""
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(network.weight, 1000.0)
    return network


def test_numbers_beyond_the_range_are_an_error_with_the_block(tmp_path: Path) -> None:
    """Never an infinity in silence; and the remedy works."""
    image = np.ones((64, 64), np.float32)
    image[40, 20] = -70
    options = {**OPTIONS, "save": "fields", "tile_shape": (32, 32)}
    says = r"'output' reaches 7e\+04 in the block at 0:64,0:64.* up to 65504"
    with pytest.raises(InterruptedRunError, match=says) as caught:
        stitchsafe.predict(image, loud(), tmp_path / "out.zarr", **options)
    assert "--field-type float32 and --overwrite" in str(caught.value)
    options |= {"field_type": "float32", "overwrite": True}
    made = stitchsafe.predict(image, loud(), tmp_path / "out.zarr", **options)
    assert made.to_json()["rounding"] == {}
    assert field(tmp_path / "out.zarr", "output").min() == -70_000
    image[40, 20] = 65.519  # rounds to the largest there is
    made = stitchsafe.predict(image, loud(), **{**options, "field_type": "fp16"})
    assert made.fields["output"].max() == 65504


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((64, 48), dtype=np.float32)
    image[3, 4], image[5, 6] = np.nan, np.inf
    options = {**OPTIONS, "save": "fields", "nan": "keep", "tile_shape": (32, 48)}
    made = stitchsafe.predict(image, loud(), tmp_path / "out.zarr", **options)
    expected = image * np.float32(1000)
    kept = field(tmp_path / "out.zarr", "output")[0]
    np.testing.assert_array_equal(kept, expected.astype(np.float16))
    finite = np.isfinite(expected)
    largest = np.abs(kept[finite].astype(float) - expected[finite]).max()
    assert made.to_json()["rounding"] == {"output": largest}
    assert stitchsafe.verify(tmp_path / "out.zarr", volume=image, model=loud()).ok


def test_a_wide_type_can_be_kept_as_a_usual_one(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((40, 48))
    options = {**OPTIONS, "save": "fields", "precision": "fp64", "field_type": "fp32"}
    made = stitchsafe.predict(image, loud(), tmp_path / "out.zarr", **options)
    kept = field(tmp_path / "out.zarr", "output")[0]
    assert kept.dtype == np.float32
    assert 0 < made.to_json()["rounding"]["output"] == np.abs(kept - image * 1000).max() < 1e-4
    assert stitchsafe.verify(tmp_path / "out.zarr", volume=image, model=loud()).ok


def test_a_type_that_changes_nothing_is_said_or_refused(here: Path, tmp_path: Path) -> None:
    heard = Heard()
    made = predict(here, tmp_path / "out.zarr", field_type="float64", events=heard)
    assert "field type: float64 asked for, float32 taken" in heard
    assert made.plan.recipe.field_type is None
    for more, says in (
        ({"save": "labels"}, "--field-type float16"),
        ({"field_type": "int8"}, "'int8'.*fp16"),
    ):
        with pytest.raises(InputError, match=says):
            predict(here, tmp_path / "no.zarr", **more)
    assert not (tmp_path / "no.zarr").exists()


def test_the_program_says_by_how_much(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", here / "volume.npy", "-m", here / "tiny", "-o", tmp_path / "out.zarr",
             "--save", "fields", "--field-type", "fp16", "--axes", "yx", "--threads", "1",
             "--quiet"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code
    said = capsys.readouterr().out
    told = json.loads((here / "rounded.zarr/fields/embedding/zarr.json").read_text())
    largest = told["attributes"]["stitchsafe"]["max_abs_rounding"]
    expected = f"the field embedding is kept in float16, which changes it by up to {largest:.2g}"
    assert expected in said
