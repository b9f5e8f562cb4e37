"""Bad input to the real program: one clear line, exit code 2, nothing written or harmed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from reader_files import random_volume, write_ome_zarr

Run = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(run: Run, here: Path, *words: str | Path, saying: tuple[str, ...]) -> None:
    """The command ends with code 2 and one line that says all of these, and changes no file."""
    before = contents(here)
    ended = run(*words, "--quiet")
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("stitchsafe: error: ")
    for word in saying:
        assert word in ended.err, ended.err
    assert contents(here) == before


def test_no_such_file(run: Run, here: Path, model: Path) -> None:
    refused(run, here, "predict", "absent.zarr", "-m", model, saying=("absent.zarr",))


def test_not_a_volume(run: Run, here: Path, model: Path) -> None:
    (here / "notes.txt").write_text("not a volume")
    refused(run, here, "predict", "notes.txt", "-m", model, saying=("notes.txt",))
    (here / "folder").mkdir()
    refused(run, here, "predict", "folder", "-m", model, saying=("folder",))
    (here / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"rubbish" * 9)
    refused(run, here, "predict", "broken.h5:raw", "-m", model, saying=("broken.h5",))


def test_no_such_array_in_a_file_names_those_there_are(run: Run, here: Path, model: Path) -> None:
    with h5py.File(here / "stack.h5", "w") as file:
        file["raw"] = random_volume(20, 24, 24)
    words = ("predict", "stack.h5:rwa", "-m", model)
    refused(run, here, *words, saying=("rwa", "raw"))


def test_wrong_number_of_channels(run: Run, here: Path, model: Path) -> None:
    np.save(here / "two.npy", random_volume(2, 20, 24, 24))
    words = ("predict", "two.npy", "-m", model, "--axes", "czyx", "--voxel-size", "10,10,10nm")
    refused(run, here, *words, saying=("2 channels", "--channel"))


def test_wrong_axes(run: Run, here: Path, model: Path) -> None:
    np.save(here / "flat.npy", random_volume(24, 24))
    words = ("predict", "flat.npy", "-m", model, "--voxel-size", "10,10nm")
    refused(run, here, *words, saying=("yx", "zyx", "tiny"))


def test_other_voxel_size_says_what_would_mend_it(run: Run, here: Path, model: Path) -> None:
    write_ome_zarr(here / "coarse.zarr", random_volume(20, 24, 24), nanometers=40)
    words = ("predict", "coarse.zarr", "-m", model)
    refused(run, here, *words, saying=("40", "10", "--voxel-size"))
    write_ome_zarr(here / "fine.zarr", random_volume(40, 48, 48), nanometers=5, levels=2)
    refused(run, here, "predict", "fine.zarr", "-m", model, saying=("--level 1",))


def test_unknown_voxel_size(run: Run, here: Path, model: Path) -> None:
    np.save(here / "plain.npy", random_volume(20, 24, 24))
    refused(run, here, "predict", "plain.npy", "-m", model, saying=("--voxel-size",))


def test_a_pickle_is_never_opened(run: Run, here: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (os.mkdir, (str(here / "pwned"),))

    (here / "model.pt").write_bytes(pickle.dumps(Trap()))
    words = ("predict", "volume.zarr", "-m", "model.pt")
    refused(run, here, *words, saying=("model.pt", "safetensors"))
    torch.save({"weight": torch.zeros(1)}, here / "zipped.bin")
    refused(run, here, "check", "zipped.bin", saying=("zipped.bin", "safetensors"))
    assert not (here / "pwned").exists()


def test_unknown_model(run: Run, here: Path) -> None:
    words = ("predict", "volume.zarr", "-m", "disks-3d")
    refused(run, here, *words, saying=("'disks-3d'", "did you mean 'disks-2d'", "neurites-em"))
    refused(run, here, "check", "disks-3d", saying=("disks-2d",))


def test_output_with_another_recipe(run: Run, here: Path, model: Path) -> None:
    words: tuple[str | Path, ...] = ("predict", "volume.zarr", "-m", model, "-o", "out.zarr")
    assert run(*words).code == 0
    other = (*words, "--bandwidth", "0.25")
    refused(run, here, *other, saying=("out.zarr", "bandwidth", "--overwrite"))
    assert run(*other, "--overwrite").code == 0
    assert run(*other).code == 0


def test_output_that_is_something_else(run: Run, here: Path, model: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.txt").write_text("dear")
    words = ("predict", "volume.zarr", "-m", model, "-o", "thesis", "--overwrite")
    refused(run, here, *words, saying=("thesis",))


@pytest.mark.parametrize("out", ["volume.zarr", "volume.zarr/0", "volume.zarr/labels", "."])
def test_output_is_input(run: Run, here: Path, model: Path, out: str) -> None:
    words = ("predict", "volume.zarr", "-m", model, "-o", out, "--overwrite")
    refused(run, here, *words, saying=("--out",))


def test_nan_is_refused_with_its_place(run: Run, here: Path, model: Path) -> None:
    holed = random_volume(20, 24, 24).astype(np.float32)
    holed[3, 5, 7] = np.nan
    np.save(here / "holed.npy", holed)
    words = ("predict", "holed.npy", "-m", model, "--voxel-size", "10,10,10nm", "-o", "out.zarr")
    refused(run, here, *words, saying=("NaN", "3,5,7", "--nan zero"))
    assert run(*words, "--nan", "zero").code == 0


def test_a_region_that_leaves_the_volume(run: Run, here: Path, model: Path) -> None:
    words = ("predict", "volume.zarr", "-m", model, "--roi", "0:64,:,:")
    refused(run, here, *words, saying=("0:64", "20"))


def test_too_little_memory_says_what_would_do(run: Run, here: Path, model: Path) -> None:
    words = ("predict", "volume.zarr", "-m", model, "--max-memory", "1MB")
    refused(run, here, *words, saying=("MB", "--max-memory"))


def test_what_is_no_result_cannot_be_verified(run: Run, here: Path) -> None:
    refused(run, here, "verify", "volume.zarr", saying=("volume.zarr",))


def test_labels_of_other_shapes_cannot_be_compared(run: Run, here: Path) -> None:
    np.save(here / "a.npy", np.ones((4, 8, 8), np.uint32))
    np.save(here / "b.npy", np.ones((4, 8, 9), np.uint32))
    refused(run, here, "evaluate", "a.npy", "b.npy", saying=("(4, 8, 8)", "(4, 8, 9)"))


def test_grids_that_labels_do_not_have(run: Run, here: Path) -> None:
    np.save(here / "a.npy", np.ones((4, 8, 8), np.uint32))
    words = ("evaluate", "a.npy", "a.npy", "--grid")
    refused(run, here, *words, "auto", saying=("no result of predict", "96,96,96"))
    refused(run, here, *words, "4,4", saying=("(4, 4)", "(4, 8, 8)"))
    refused(run, here, *words, "4,0,4", saying=("--grid '4,0,4'",))


def test_results_without_final_labels_cannot_be_evaluated(
    run: Run, here: Path, model: Path
) -> None:
    predict = ("predict", "volume.zarr", "-m", model, "-o")
    assert run(*predict, "fields.zarr", "--save", "fields").code == 0
    evaluate = ("evaluate", "fields.zarr", "fields.zarr")
    refused(run, here, *evaluate, saying=("holds no labels", "--save labels"))
    assert run(*predict, "part.zarr", "--part", "1/2").code == 0
    refused(run, here, "evaluate", "part.zarr", "part.zarr", saying=("is not finished",))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(place)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_code_3_and_the_same_command_goes_on(
    run: Run, here: Path, model: Path, small_disk: Path
) -> None:
    write_ome_zarr(here / "large.zarr", random_volume(20, 40, 40), nanometers=10)
    out = small_disk / "out.zarr"
    words = ("predict", "large.zarr", "-m", model, "--save", "labels,fields", "--quiet", "-o")
    full = run(*words, out)
    assert full.code == 3, full
    assert full.err.count("\n") == 1
    assert "space" in full.err
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert run(*words, out).code == 0
    assert run(*words, here / "out.zarr").code == 0
    private = ".stitchsafe/"
    resumed, straight = (
        {name: data for name, data in contents(place).items() if not name.startswith(private)}
        for place in (out, here / "out.zarr")
    )
    assert resumed == straight
