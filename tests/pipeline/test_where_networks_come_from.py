"""A result knows where its network came from, and runs no code because it says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heard import Heard
from model_files import package, small_package
from safetensors.torch import save_file
from stores import edit_json

import stitchsafe
from stitchsafe.errors import IntegrityError, ModelError, StoreError, VoxelSizeError
from stitchsafe.nn import UNet
from stitchsafe.pipeline._origin import Origin

FACTORY = "stitchsafe.nn:UNet"
ARGUMENTS = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"x": 2}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((60, 70), np.float32))
    save_file(UNet(**ARGUMENTS).state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def options(**more: Any) -> dict[str, Any]:
    return {"weights": "w.safetensors", "arguments": ARGUMENTS, "save": "fields", **more}


def test_a_factorys_result_resumes_and_verifies(here: Path) -> None:
    first = stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    again = stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    assert again.progress.blocks_resumed == first.progress.blocks_total
    stored = json.loads((here / "out.zarr" / ".stitchsafe" / "recipe.json").read_text())
    assert stored["model"] == FACTORY
    assert stored["weights"] == str(here / "w.safetensors")
    assert stored["arguments"]["heads"] == "{'x': 2}"
    with pytest.raises(ModelError, match=f"and not you, names the code {FACTORY}") as caught:
        stitchsafe.verify("out.zarr")
    assert "--weights" in str(caught.value)
    assert "--arg levels=1" in str(caught.value)
    given = {"weights": "w.safetensors", "arguments": ARGUMENTS}
    assert stitchsafe.verify("out.zarr", model=FACTORY, **given).ok
    assert stitchsafe.verify("out.zarr", trust_model=True).ok


def test_other_weights_are_another_recipe(here: Path) -> None:
    stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    save_file(UNet(**ARGUMENTS).state_dict(), here / "w.safetensors")
    with pytest.raises(StoreError, match=r"another recipe .*weights"):
        stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    with pytest.raises(ModelError, match="not those of the recipe"):
        stitchsafe.verify("out.zarr", trust_model=True)


def test_a_result_that_names_code_runs_none(here: Path) -> None:
    stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    path = here / "out.zarr" / ".stitchsafe" / "recipe.json"
    harm = {"model": "os:mkdir", "arguments": {"path": repr(str(here / "ran"))}, "weights": None}
    edit_json(path, lambda stored: stored.update(harm))
    with pytest.raises(ModelError, match="names the code os:mkdir"):
        stitchsafe.verify("out.zarr")
    assert not (here / "ran").exists()
    with pytest.raises(ModelError, match="made a NoneType"):
        stitchsafe.verify("out.zarr", trust_model=True)
    assert (here / "ran").exists()  # so the trap works
    harm = {"arguments": {"path": "__import__('os').mkdir('ran2')"}}
    edit_json(path, lambda stored: stored.update(harm))
    with pytest.raises(stitchsafe.StitchsafeError):
        stitchsafe.verify("out.zarr", trust_model=True)
    assert not (here / "ran2").exists()


def test_a_package_needs_trust_each_time(here: Path) -> None:
    folder = small_package(here / "package")
    archive = shutil.make_archive(str(here / "package"), "zip", folder)
    for model in (folder, Path(archive)):
        out = here / f"{model.name}.zarr"
        made = stitchsafe.predict("image.npy", model.name, out, save="fields", trust_model=True)
        assert made.plan.recipe.exact
        with pytest.raises(ModelError, match="--trust-model"):
            stitchsafe.verify(out)
        assert stitchsafe.verify(out, trust_model=True).ok


def test_what_lay_in_memory_is_asked_for(here: Path) -> None:
    assert Origin.of(UNet(**ARGUMENTS), None, None) == Origin(None)
    assert Origin.of("a:b", None, {"x": object()}) == Origin(None)
    kept = Origin.of("a:b", None, {"x": (1, 2), "y": {"z": 1e-3}})
    assert Origin.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    with pytest.raises(ModelError, match="module in memory"):
        Origin(None).load(trust=True)
    for harm in ({"model": 3}, {"model": "a", "arguments": [1]}, {"model": "a", "weights": {}}):
        with pytest.raises(IntegrityError, match="damaged"):
            Origin.from_json(harm)


def test_results_of_before_are_read(here: Path) -> None:
    assert Origin.from_json({"model": "disks-2d"}) == Origin("disks-2d")


def test_weights_without_a_model_are_refused(here: Path) -> None:
    stitchsafe.predict("image.npy", FACTORY, "out.zarr", **options())
    with pytest.raises(ModelError, match="go with a model"):
        stitchsafe.verify("out.zarr", weights="w.safetensors")


def test_what_is_left_out_is_refused_unless_accepted_and_what_is_made_up_is_said(
    here: Path,
) -> None:
    content = package()
    content["outputs"][0]["postprocessing"].append({"id": "special"})
    folder = small_package(here / "package", **content)
    heard = Heard()
    given: dict[str, Any] = {"save": "fields", "trust_model": True}
    with pytest.raises(ModelError, match=r"without the description's special.*--skip-postproc"):
        stitchsafe.predict("image.npy", folder, "out.zarr", **given)
    assert not Path("out.zarr").exists()
    given |= {"skip_postprocessing": True, "events": heard}
    made = stitchsafe.predict("image.npy", folder, "out.zarr", **given)
    assert any("without the description's special" in line for line in heard.lines)
    assert stitchsafe.verify(made.out, trust_model=True).ok
    verdict = stitchsafe.check(folder, trust_model=True)
    (left,) = verdict.to_json()["skipped_postprocessing"]
    assert left["steps"] == ["special"]
    assert "without the description's special" in " ".join(verdict.describe().split())
    heard = Heard()
    stitchsafe.plan("image.npy", FACTORY, arguments=ARGUMENTS, save="fields", events=heard)
    assert any("no --weights given" in line for line in heard.lines)


def test_a_halo_that_is_declared_too_small_is_named(here: Path) -> None:
    content = package()
    for axis in content["outputs"][0]["axes"][2:]:
        axis["halo"] = 1
    folder = small_package(here / "package", **content)
    warnings = stitchsafe.check(folder, trust_model=True).warnings
    assert any("along y the description declares a halo of 1" in line for line in warnings)
    content["outputs"][0]["axes"][2]["halo"] = content["outputs"][0]["axes"][3]["halo"] = 16
    folder = small_package(here / "enough", **content)
    assert stitchsafe.check(folder, trust_model=True).warnings == ()


def test_the_voxel_size_of_a_description_binds(here: Path) -> None:
    content = package()
    for axis in content["inputs"][0]["axes"][2:]:
        axis |= {"scale": 0.5, "unit": "micrometer"}
    folder = small_package(here / "package", **content)
    options: dict[str, Any] = {"save": "fields", "trust_model": True}
    with pytest.raises(VoxelSizeError, match=r"0\.5"):
        stitchsafe.plan("image.npy", folder, voxel_size="0.25,0.25um", **options)
    assert stitchsafe.plan("image.npy", folder, voxel_size="500,500nm", **options).tiles
