"""Steps after a network with statistics of the whole field, never of a tile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zarr
from model_files import package
from onnx_graphs import exported
from stores import content_of, tree
from torch import nn

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Ledger
from stitchsafe.errors import InterruptedRunError, ModelError
from stitchsafe.pipeline import _raw
from stitchsafe.volumes import ArrayStore, _statistics

pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(300, 560)).astype(np.float32)
IMAGE[:90] *= 4  # so that a tile's statistics are not the whole's
OPTIONS: dict[str, Any] = {
    "save": "fields", "tile_shape": (64, 48), "threads": 1, "max_memory": 10**10,
}  # fmt: skip
ROI = Roi((9, 20), (280, 500))
FIELD = "fields/both/0"
Z = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
RANGE = {
    "id": "scale_range",
    "kwargs": {"axes": ["y", "x"], "min_percentile": 2, "max_percentile": 98},
}
CLIP = {"id": "clip", "kwargs": {"min": -0.5, "max": 0.9}}
SIGMOID = {"id": "sigmoid"}
STEPS = [SIGMOID, Z, CLIP, RANGE]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 3, padding=1), nn.Upsample(scale_factor=2),
    ).eval()  # fmt: skip


def described(folder: Path, steps: list[dict[str, Any]], module: nn.Module | None = None) -> Path:
    """A package with ONNX weights and these steps after it."""
    folder.mkdir()
    exported(module or network(), folder / "weights.onnx", (1, 1, 32, 32))
    content = package(weights={"onnx": {"source": "weights.onnx", "opset_version": 18}})
    content["inputs"][0]["preprocessing"] = []
    (output,) = content["outputs"]
    output["id"], output["postprocessing"] = "both", steps
    output["axes"][1] = {"type": "channel", "channel_names": ["a", "b"]}
    (folder / "bioimageio.yaml").write_text(yaml.safe_dump(content))
    return folder


def whole(module: nn.Module | None = None) -> np.ndarray:
    """One pass, as the network gives it."""
    with torch.no_grad():
        return (module or network())(torch.from_numpy(IMAGE[None, None])).numpy()[0].astype(float)


def zscored(field: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    mean, std = field.mean(axis=axes, keepdims=True), field.std(axis=axes, keepdims=True)
    return (field - mean) / (std + 1e-6)


def ranged(field: np.ndarray) -> np.ndarray:
    low, high = np.percentile(field, [2, 98], axis=(1, 2), keepdims=True)
    return (field - low) / (high - low + 1e-6)


def finished(field: np.ndarray) -> np.ndarray:
    """`STEPS` as bioimage.io defines them."""
    return ranged(zscored(1 / (1 + np.exp(-field))).clip(-0.5, 0.9))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    described(folder / "model", STEPS)
    np.save(folder / "image.npy", IMAGE)
    predict(folder, folder / "straight.zarr")
    return folder


def predict(here: Path, out: Path, **more: Any) -> stitchsafe.pipeline.Prediction:
    return stitchsafe.predict(here / "image.npy", here / "model", out, **{**OPTIONS, **more})


def field_of(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(out / FIELD, mode="r")[...])


def test_the_field_is_the_whole_pass_with_statistics_of_the_whole(here: Path) -> None:
    found = field_of(here / "straight.zarr")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, finished(whole()), atol=1e-6)
    private = here / "straight.zarr/.stitchsafe"
    left = {place.name for place in private.iterdir()}
    assert "fields.json" in left
    assert not left & {"raw", "field-statistics"}
    kept = json.loads((private / "fields.json").read_text())["maps"]["both"]
    assert [[step["kind"] for step in chain] for chain in kept] == [
        ["affine", "clip", "affine"]
    ] * 2


@pytest.mark.parametrize(
    ("steps", "make"),
    [
        ([{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}],
         lambda f: zscored(f, (1, 2))),
        ([Z], zscored),
        ([RANGE], ranged),
        ([{"id": "scale_range"}],
         lambda f: (f - f.min()) / (f.max() - f.min() + 1e-6)),
        ([Z, SIGMOID], lambda f: 1 / (1 + np.exp(-zscored(f)))),
    ],
)  # fmt: skip
def test_each_step_is_bioimage_ios(
    tmp_path: Path, steps: list[dict[str, Any]], make: Callable[[np.ndarray], np.ndarray]
) -> None:
    """In memory, too, and with statistics of the region where there is one."""
    folder = described(tmp_path / "model", steps)
    made = stitchsafe.predict(IMAGE, folder, **OPTIONS)
    np.testing.assert_allclose(made.fields["both"], make(whole()), rtol=1e-6, atol=1e-6)
    made = stitchsafe.predict(IMAGE, folder, roi=ROI, **OPTIONS)
    region = whole()[(slice(None), *ROI.slices)]
    np.testing.assert_allclose(made.fields["both"], make(region), rtol=1e-6, atol=1e-6)


def test_elements_need_not_be_voxels(tmp_path: Path) -> None:
    half = network()[:-1]
    folder = described(tmp_path / "model", STEPS, half)
    made = stitchsafe.predict(IMAGE, folder, roi=ROI, **OPTIONS)
    expected = finished(whole(half)[:, 4:145, 10:260])
    np.testing.assert_allclose(made.fields["both"], expected, atol=1e-6)


@pytest.mark.usefixtures("quick_workers")
def test_no_block_worker_or_part_changes_a_byte(here: Path, tmp_path: Path) -> None:
    expected = content_of(here / "straight.zarr")
    predict(here, tmp_path / "workers.zarr", workers=2, block_shape=(256, 480))
    assert content_of(tmp_path / "workers.zarr") == expected
    first = predict(here, tmp_path / "parts.zarr", part="2/2")
    assert first.progress.missing is not None
    assert predict(here, tmp_path / "parts.zarr", part="1/2").progress.missing is None
    assert content_of(tmp_path / "parts.zarr") == expected


def test_nor_do_portions_of_statistics(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_statistics, "_PORTION_VOXELS", 2**15)
    monkeypatch.setattr(_statistics, "_PIECE_VOXELS", 2**13)
    monkeypatch.setattr(_raw, "_KEPT", 1)
    monkeypatch.setattr(_statistics, "_MOST_PORTIONS", 10**6)
    predict(here, tmp_path / "out.zarr")
    found, expected = content_of(tmp_path / "out.zarr"), content_of(here / "straight.zarr")
    portions = found["ledger"].pop("statistics 1")
    assert len(portions) > len(expected["ledger"].pop("statistics 1"))
    assert found == expected


class Death(BaseException):
    """Stands for the end of the process: nothing that follows is carried out."""


def test_killed_before_a_commit_and_run_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, commit, out = content_of(here / "straight.zarr"), Ledger.commit, tmp_path / "out.zarr"
    seen: list[str] = []

    def counted(ledger: Ledger, stage: str, records: Any) -> None:
        seen.append(stage)
        commit(ledger, stage, records)

    blocks = {"block_shape": (512, 240)}
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", counted)
        predict(here, tmp_path / "counted.zarr", **blocks)
    assert "field statistics 1" in seen
    assert seen[-4:] == ["fields", "fields", "fields", "finish"]
    stages = ("predict", "field statistics 1", "field settle 1", "field statistics 4")
    moments = [seen.index(stage) for stage in (*stages, "field maps", "finish")]
    for number in (*moments, seen.index("predict") + 1, seen.index("fields") + 1):
        calls = iter(range(len(seen)))

        def dying(*arguments: Any, number: int = number, calls: Any = calls) -> None:
            if next(calls) == number:
                raise Death
            commit(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "commit", dying)
            with pytest.raises(Death):
                predict(here, out, overwrite=out.exists(), **blocks)
        predict(here, out, **blocks)
        assert content_of(out) == expected, f"killed before commit {number} ({seen[number]})"


def test_the_final_field_is_what_is_rounded(here: Path, tmp_path: Path) -> None:
    made = predict(here, tmp_path / "out.zarr", field_type="float16")
    computed, found = field_of(here / "straight.zarr"), field_of(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found, computed.astype(np.float16))
    assert made.to_json()["rounding"] == {"both": np.abs(found - computed).max()}
    assert stitchsafe.verify(tmp_path / "out.zarr").ok


def test_verify_knows_the_final_field_and_repair_makes_it_anew(here: Path, tmp_path: Path) -> None:
    sound, out = here / "straight.zarr", tmp_path / "out.zarr"
    verified = stitchsafe.verify(sound)
    assert verified.ok
    assert verified.voxels > 0
    shutil.copytree(sound, out)
    for name in tree(sound):
        if name.startswith((FIELD, ".stitchsafe/fields", ".stitchsafe/ledger/fields/0_0")):
            (out / name).write_bytes(b"{}")
            assert not stitchsafe.verify(out, cells=1).ok, name
            if name.endswith(("c/0/0/0", "c/0/1/0", ".json")):  # the others are like these
                predict(here, out, repair=True)
                assert content_of(out) == content_of(sound), name
            shutil.rmtree(out)
            shutil.copytree(sound, out)


def test_another_final_field_does_not_pass_though_it_was_entered(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksums are right, and its values are not what the recorded maps give."""
    write = ArrayStore.write

    def shifted(array: ArrayStore, roi: Roi, data: np.ndarray) -> None:
        if "fields/both" in str(array.path):
            data += np.float32(1e-3)
        write(array, roi, data)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayStore, "write", shifted)
        predict(here, tmp_path / "out.zarr")
    found = stitchsafe.verify(tmp_path / "out.zarr")
    assert found.corrupt == ()
    assert found.bit_mismatches == found.voxels > 0


def test_a_raw_field_that_is_damaged_meanwhile_is_not_taken(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, commit = tmp_path / "out.zarr", Ledger.commit

    def dying(ledger: Ledger, stage: str, records: Any) -> None:
        if stage == "field statistics 1":
            raise Death
        commit(ledger, stage, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dying)
        with pytest.raises(Death):
            predict(here, out)
    lost = sorted((out / ".stitchsafe/raw/both").glob("c/0/*/*"))[3]  # of six cells
    lost.unlink()  # which Zarr reads as zeros
    with pytest.raises(InterruptedRunError, match="--repair"):
        predict(here, out)
    predict(here, out, repair=True)
    assert content_of(out) == content_of(here / "straight.zarr")


def test_what_a_mask_leaves_out_takes_no_part_and_is_zero(here: Path, tmp_path: Path) -> None:
    mask = np.zeros(IMAGE.shape, bool)
    mask[:200, :250] = True
    predict(here, tmp_path / "out.zarr", mask=mask)
    found = field_of(tmp_path / "out.zarr")
    assert not found[:, 256:].any()
    assert not found[:, :, 480:].any()
    expected = finished(whole()[:, :256, :480])
    np.testing.assert_allclose(found[:, :256, :480], expected, atol=1e-6)
    assert stitchsafe.verify(tmp_path / "out.zarr").ok


def test_labels_of_such_a_field_are_refused_with_the_remedy(here: Path, tmp_path: Path) -> None:
    given = {"save": "labels", "labels_from": "argmax", "tile_shape": None}
    with pytest.raises(ModelError, match=r"'both'.*zscore.*--skip-postprocessing"):
        predict(here, tmp_path / "out.zarr", **given)
    assert not (tmp_path / "out.zarr").exists()
    made = predict(here, tmp_path / "out.zarr", skip_postprocessing=True, **given)
    assert made.progress.instances
    raw = predict(here, tmp_path / "raw.zarr", skip_postprocessing=True)
    assert stitchsafe.verify(raw.out).ok
    before = 1 / (1 + np.exp(-whole()))
    np.testing.assert_allclose(field_of(tmp_path / "raw.zarr"), before, atol=1e-6)
