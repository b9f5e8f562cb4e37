"""What cannot be done is refused in one line with exit code 2, and no file is touched."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from reader_files import write_ome_zarr
from stores import smooth_volume, tiny_model, tree

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import InputError, PlanError

Refused = Callable[..., str]
RUN = ("--threads", "1", "--max-memory", "10GB")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "tiny", voxel_size=(10, 10, 10))
    tiny_model(folder / "other", voxel_size=(10, 10, 10), seed=1)
    tiny_model(folder / "flat", ndim=2, window=(16, 16), voxel_size=(10, 10))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ome_zarr(tmp_path / "volume.zarr", smooth_volume(20, 24, 24), nanometers=10)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def refused(here: Path, models: Path, run: Callable[..., tuple[int, str, str]]) -> Refused:
    def refused(volume: str, *words: str | Path, model: str | Path = "tiny") -> str:
        """The line that the command ends with; everything is as before."""
        before = tree(here)
        given = models / model if (models / str(model)).is_dir() else model
        code, out, error = run("predict", volume, "-m", given, "--quiet", *RUN, *words)
        assert (code, out, error.count("\n")) == (2, "", 1), (code, out, error)
        assert error.startswith("stitchsafe: error: ")
        assert tree(here) == before
        return error

    return refused


def ran(run: Callable[..., tuple[int, str, str]], *words: str | Path) -> bool:
    code, _, error = run(*words, "--quiet", *RUN)
    assert code == 0, error
    return True


def test_volumes_that_are_none(refused: Refused, here: Path) -> None:
    assert "absent.zarr" in refused("absent.zarr")
    (here / "notes.txt").write_text("dear diary")
    assert "notes.txt" in refused("notes.txt")
    (here / "empty").mkdir()
    assert "empty" in refused("empty")
    with h5py.File(here / "stack.h5", "w") as file:
        file["raw"], file["mask"] = smooth_volume(8, 8, 8), smooth_volume(8, 8, 8)
    assert re.search("raw.*mask|mask.*raw", refused("stack.h5"))


def test_volumes_that_the_network_does_not_take(refused: Refused, here: Path) -> None:
    np.save(here / "two.npy", np.stack([smooth_volume(20, 24, 24)] * 2))
    line = refused("two.npy", "--axes", "czyx", "--voxel-size", "10,10,10nm")
    assert "2 channels" in line
    assert "--channel 0 to 1" in line
    np.save(here / "plane.npy", smooth_volume(24, 24))
    assert "axes yx" in refused("plane.npy", "--voxel-size", "10,10nm")
    assert "--roi 10:11,:,:" in refused("volume.zarr", model="flat")


def test_other_voxel_sizes(refused: Refused, here: Path, models: Path, run) -> None:
    write_ome_zarr(here / "fine.zarr", smooth_volume(40, 48, 48), nanometers=5, levels=2)
    assert "--level 1" in refused("fine.zarr")
    assert ran(run, "predict", "fine.zarr", "-m", models / "tiny", "--level", "1")
    write_ome_zarr(here / "coarse.zarr", smooth_volume(20, 24, 24), nanometers=40)
    assert "--voxel-size" in refused("coarse.zarr")
    words = ("coarse.zarr", "-m", models / "tiny", "--voxel-size", "10,10,10nm")
    assert ran(run, "predict", *words)
    # A slice of another voxel size, through a network for slices.
    line = refused("coarse.zarr", "--roi", "7:8,:,:", model="flat")
    assert "40" in line
    assert "--voxel-size" in line


def test_models_that_are_none(refused: Refused, here: Path) -> None:
    (here / "model.pt").write_bytes(pickle.dumps({"weight": 1}))
    assert "pickle" in refused("volume.zarr", model=here / "model.pt")
    line = refused("volume.zarr", model="neurites-me")
    assert "'neurites-me'" in line
    assert "neurites-em" in line
    (here / "nothing").mkdir()
    assert "config.yaml" in refused("volume.zarr", model=here / "nothing")


LABELS = ("--labels-from=embeddings", "--bandwidth=2", "--min-size=0", "--foreground-threshold=0.5")


@pytest.mark.parametrize("option", LABELS)
def test_options_for_labels_that_are_not_made(refused: Refused, option: str) -> None:
    name, _, value = option.partition("=")
    line = refused("volume.zarr", "--save", "fields", option)
    assert f"error: {name} {value}" in line
    assert "--save fields makes none; leave it out" in line


def test_options_for_labels_of_another_kind(refused: Refused, models: Path, run) -> None:
    for source in ("foreground", "argmax"):
        line = refused("volume.zarr", "--labels-from", source, "--bandwidth", "2")
        assert "--bandwidth 2.0 is for labels of embeddings" in line
        assert f"these are made of {source}; leave it out" in line
    flat = ("--foreground-threshold", "0.4", "--labels-from", "argmax")
    assert "--foreground-threshold 0.4 is for labels that a foreground" in refused(
        "volume.zarr", *flat
    )
    # The card of this one says that the foreground is the background's, so there is use for both.
    used = ("--bandwidth", "0.5", "--foreground-threshold", "0.4", "--min-size", "3")
    assert ran(run, "predict", "volume.zarr", "-m", models / "tiny", "--dry-run", *used)


def test_consent_that_is_not_needed_is_said(here: Path, models: Path, run) -> None:
    code, _, error = run(
        "predict", "volume.zarr", "-m", models / "tiny", "--dry-run", *RUN,
        "--skip-postprocessing", "--accept-inexact",
    )  # fmt: skip
    assert code == 0
    assert "--skip-postprocessing changes nothing, as tiny has no step" in error
    assert "--accept-inexact changes nothing" in error


def test_outputs_that_exist(refused: Refused, here: Path, models: Path, run) -> None:
    ran(run, "predict", "volume.zarr", "-m", models / "tiny", "-o", "out.zarr")
    at = ("-o", "out.zarr")
    assert "bandwidth" in refused("volume.zarr", *at, "--bandwidth", "0.5")
    assert "weights" in refused("volume.zarr", *at, model="other")
    assert "ngff" in refused("volume.zarr", *at, "--ngff", "0.4")
    assert "image" in refused("volume.zarr", *at, "--image", "copy")
    assert "save" in refused("volume.zarr", *at, "--save", "labels,table")
    # What else lies in the result survives --overwrite.
    (here / "out.zarr" / "labels" / "corrected").mkdir()
    line = refused("volume.zarr", *at, "--overwrite", "--bandwidth", "0.5")
    assert "labels/corrected" in line
    (here / "out.zarr" / "labels" / "corrected").rmdir()
    words = ("predict", "volume.zarr", "-m", models / "tiny", *at, "--bandwidth", "0.5")
    assert ran(run, *words, "--overwrite")
    assert ran(run, *words)


def test_outputs_that_are_not_ours(refused: Refused, here: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.txt").write_text("one")
    for more in ((), ("--overwrite",)):
        assert "not written by stitchsafe" in refused("volume.zarr", "-o", "thesis", *more)
    (here / "thesis" / ".stitchsafe").mkdir()  # whoever made that
    assert "chapter.txt" in refused("volume.zarr", "-o", "thesis", "--overwrite")
    assert "chapter.txt" in refused("volume.zarr", "-o", "thesis")
    assert "is a file" in refused("volume.zarr", "-o", "thesis/chapter.txt", "--overwrite")
    assert "does not exist" in refused("volume.zarr", "-o", "no/such/place.zarr")


@pytest.mark.parametrize("out", ["volume.zarr", "volume.zarr/0", "volume.zarr/out.zarr", "."])
@pytest.mark.parametrize("volume", ["volume.zarr", "volume.zarr/0"])
def test_outputs_in_or_around_the_input(refused: Refused, volume: str, out: str) -> None:
    assert "lie within each other" in refused(volume, "-o", out, "--overwrite")


def test_without_out_the_result_lies_beside_the_volume(here: Path, models: Path) -> None:
    """Beside the container, not in it: the input is not harmed."""
    with h5py.File(here / "stack.h5", "w") as file:
        file["em/raw"] = smooth_volume(20, 24, 24)
    before = tree(here / "volume.zarr")
    for volume, out in (
        ("volume.zarr", "volume-stitchsafe.zarr"),
        ("volume.zarr/0", "volume-stitchsafe.zarr"),
        ("stack.h5:em/raw", "stack-em-raw-stitchsafe.zarr"),
    ):
        made = stitchsafe.predict(
            volume, models / "tiny", save="fields", voxel_size="10,10,10nm", overwrite=True,
            threads=1, max_memory=10**10,
        )  # fmt: skip
        assert made.out == here / out
    assert tree(here / "volume.zarr") == before


def test_nan(refused: Refused, here: Path, models: Path, run) -> None:
    holed = smooth_volume(20, 24, 24).astype(np.float32)
    holed[3, 5, 7] = np.nan
    np.save(here / "holed.npy", holed)
    words = ("-o", "out.zarr", "--voxel-size", "10,10,10nm")
    for normalize in ("zscore", "percentile", "none"):
        line = refused("holed.npy", *words, "--normalize", normalize)
        assert "3,5,7" in line
        assert "--nan zero" in line
    more = ("--nan", "zero", "--save", "labels,fields")
    assert ran(run, "predict", "holed.npy", "-m", models / "tiny", *words, *more)
    assert stitchsafe.verify("out.zarr").ok


def test_shapes_that_do_not_fit(refused: Refused) -> None:
    assert "--tile-shape 14,16,16" in refused("volume.zarr", "--tile-shape", "15,16,16")
    assert "divides the window" in refused("volume.zarr", "--tile-shape", "16,16,12")
    assert "whole cells" in refused("volume.zarr", "--block-shape", "16,16,18")
    assert "empty or leaves" in refused("volume.zarr", "--roi", "0:10,:,20:30")
    assert "2 axes" in refused("volume.zarr", "--roi", "0:10,0:10")
    assert "level 3" in refused("volume.zarr", "--level", "3")


def test_a_tile_of_the_window_suits_a_volume_that_is_smaller(here: Path, models: Path) -> None:
    """The window is 16; along z and y the volume has 13 and 9 voxels, 13 being no multiple."""
    volume = smooth_volume(13, 9, 40)
    options = {"voxel_size": "10,10,10nm", "max_memory": 10**10, "threads": 1}
    for tile in ((8, 8, 8), (4, 2, 16), (16, 16, 16), (64, 64, 8)):
        planned = stitchsafe.plan(volume, models / "tiny", tile_shape=tile, **options)
        assert [min(t, r) for t, r in zip(tile, (14, 10, 40), strict=True)] == list(
            planned.recipe.tile_shape
        )
        assert planned.blocks == 3
    with pytest.raises(PlanError, match="divides the window"):
        stitchsafe.plan(volume, models / "tiny", tile_shape=(8, 8, 40), **options)


def test_the_least_memory_that_is_named_does(refused: Refused, models: Path, run) -> None:
    line = refused("volume.zarr", "-o", "out.zarr", "--max-memory", "5MB")
    least = re.search(r"raise --max-memory to that|least that would do is (\S+)", line)
    assert least is not None
    words = ("predict", "volume.zarr", "-m", models / "tiny", "-o", "out.zarr", "--threads", "1")
    code, _, error = run(*words, "--max-memory", least[1])
    assert code == 0, error
    bytes_, unit = re.fullmatch(r"([\d.]+)(\w+)", least[1]).groups()
    below = f"{float(bytes_) - 0.1:.2f}{unit}"
    assert "too small" in refused("volume.zarr", "-o", "other.zarr", "--max-memory", below)


def test_a_volume_of_other_metadata_is_not_gone_on_with(
    refused: Refused, here: Path, models: Path, run
) -> None:
    volume = smooth_volume(20, 24, 24)
    np.save(here / "volume.npy", volume)
    words = ("--voxel-size", "10,10,10nm", "-o", "out.zarr")
    ran(run, "predict", "volume.npy", "-m", models / "tiny", *words)
    np.save(here / "volume.npy", volume.astype(np.uint16))
    assert "dtype" in refused("volume.npy", *words)
    np.save(here / "volume.npy", volume[::-1])
    assert "has changed since" in refused("volume.npy", *words)


def test_a_dry_run_refuses_what_the_run_would(refused: Refused, here: Path, models: Path, run):
    assert "lie within" in refused("volume.zarr", "-o", "volume.zarr/0", "--dry-run")
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.txt").write_text("one")
    assert "not written by" in refused("volume.zarr", "-o", "thesis", "--dry-run", "--overwrite")
    before = tree(here)
    words = ("predict", "volume.zarr", "-m", models / "tiny", *RUN)
    code, out, error = run(*words, "--dry-run")
    assert (code, tree(here)) == (0, before), error
    assert "volume-stitchsafe.zarr" in error
    assert out.startswith("network  tiny")
    ran(run, *words)
    assert "bandwidth" in refused("volume.zarr", "--bandwidth", "0.1", "--dry-run")


@pytest.mark.parametrize(
    "option", [{"voxel_size": (10, 10, 10)}, {"level": 1}, {"axes": "zyx"}, {"channel": 0}]
)
def test_what_an_opened_volume_cannot_be_told_any_more_is_refused(models, option):
    volume = stitchsafe.open_volume(smooth_volume(20, 24, 24), axes="zyx")
    with pytest.raises(InputError, match=f"{next(iter(option))}=.*say it to open_volume"):
        stitchsafe.predict(volume, models / "tiny", **option)
