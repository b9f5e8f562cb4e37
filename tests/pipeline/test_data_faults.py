"""Faults of data and disks, by the real program: said, never passed over, and made good."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from stores import content_of, smooth_volume, tiny_model
from zygote import Run, Zygote

from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.volumes import ArrayStore

SHAPE = (48, 112)


@dataclass(frozen=True)
class Ended:
    code: int
    error: str
    answer: dict


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "tiny", ndim=2, window=(16, 16))
    return folder


@pytest.fixture
def here(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checksummed volume of 21 cells."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(models / "tiny")
    array = ArrayStore.create(tmp_path / "volume", shape=SHAPE, dtype="uint8", chunks=(32, 32))
    array.write(Roi.whole(SHAPE), smooth_volume(*SHAPE))
    return tmp_path


PREDICT = (
    "predict", "volume", "-m", "tiny", "-o", "out.zarr", "--save", "labels,fields",
    "--image", "none", "--threads", "1", "--max-memory", "10GB",
)  # fmt: skip


def start(zygote: Zygote, *more: str | Path) -> Run:
    """A prediction in a process of its own."""
    return zygote.start(*PREDICT, *more, "--json")


def ended(process: Run) -> Ended:
    return _ended(process.wait(), *process.communicate())


def _ended(code: int, out: str, error: str) -> Ended:
    assert "Traceback" not in error
    return Ended(code, error, json.loads(out) if out else {})


def command(*words: str | Path) -> Ended:
    """The program in this process."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), pytest.raises(SystemExit) as exit_:
        main([*map(str, words), "--json"])
    return _ended(int(exit_.value.code or 0), out.getvalue(), error.getvalue())


def run(*more: str | Path) -> Ended:
    return command(*PREDICT, *more)


def verify(out: str | Path) -> Ended:
    return command("verify", out)


def entries(out: Path, stage: str) -> list[Path]:
    return list((out / ".stitchsafe" / "ledger" / stage).glob("*.json"))


def killed(zygote: Zygote, out: Path, *words: str, after: int = 6) -> None:
    """A run that ends at once when some cells are predicted."""
    with start(zygote, *words) as process:
        while len(entries(out, "predict")) < after:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("harm", [flip, truncate])
def test_input_that_is_damaged_during_a_run(
    zygote: Zygote, here: Path, harm: Callable[[Path], None]
) -> None:
    chunk = here / "volume/c/1/3"
    sound = chunk.read_bytes()
    with start(zygote) as process:
        while not entries(here / "out.zarr", "predict"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        harm(chunk)
        process.send_signal(signal.SIGCONT)
        found = ended(process)
    assert found.code == 3
    assert "could not do 4 of its blocks" in found.error  # those that read the chunk
    assert "block 32:48,96:112: the Zarr array" in found.error
    assert "all other blocks are done" in found.error
    again = run()
    assert again.code == 3  # still damaged: nothing is made of it
    chunk.write_bytes(sound)
    again = run()
    assert (again.code, again.answer["blocks_done"]) == (0, 4)
    assert run("-o", "straight.zarr").code == 0
    assert content_of(here / "out.zarr") == content_of(here / "straight.zarr")


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_output_that_is_damaged_before_a_resume(
    zygote: Zygote, here: Path, harm: Callable[[Path], None]
) -> None:
    out = here / "out.zarr"
    killed(zygote, out)
    (done,) = [path.stem for path in entries(out, "predict") if path.stem == "0_3"]
    harm(out / "fields/embedding/0/c/1" / done.replace("_", "/"))
    assert run().code == 0
    found = verify("out.zarr")
    assert found.code == 1
    (place,) = found.answer["corrupt"]
    assert "fields/embedding/0 at 0:16,48:64 (c/1/0/3" in place
    assert found.answer["repairable"]
    mended = run("--repair")
    assert (mended.code, mended.answer["blocks_done"]) == (0, 1)
    assert run("-o", "straight.zarr").code == 0
    assert content_of(out) == content_of(here / "straight.zarr")
    assert verify("out.zarr").code == 0


def test_input_that_is_another_one_on_resume(zygote: Zygote, here: Path) -> None:
    out = here / "out.zarr"
    killed(zygote, out)
    array, before = ArrayStore.open(here / "volume"), content_of(out)
    sound = array.read(Roi.whole(SHAPE))
    array.write(Roi.whole(SHAPE), sound + np.uint8(1))
    found = run()
    assert found.code == 2
    assert "has changed since" in found.error
    assert content_of(out) == before
    # Where nothing was predicted yet, the statistics were taken of other voxels.
    array.write(Roi.whole(SHAPE), sound)
    late = Roi((32, 96), (16, 16))
    array.write(late, array.read(late) + np.uint8(1))
    assert run().code == 2
    array.write(Roi.whole(SHAPE), sound)
    assert run().code == 0
    array.write(late, array.read(late) + np.uint8(1))
    found = verify("out.zarr")
    assert found.code == 1
    assert not found.answer["repairable"]
    places = found.answer["corrupt"]
    assert len(places) == 2  # read for the statistics, and for a cell
    assert all("holds other values than were read" in place for place in places)


def test_weights_that_are_others_on_resume(zygote: Zygote, here: Path, models: Path) -> None:
    (here / "tiny").unlink()
    tiny_model(here / "tiny", ndim=2, window=(16, 16))
    out = here / "out.zarr"
    killed(zygote, out)
    weights = load_file(here / "tiny" / "weights.safetensors")
    next(iter(weights.values())).reshape(-1)[0] += 1e-6
    save_file(weights, here / "tiny" / "weights.safetensors")
    before = content_of(out)
    found = run()
    assert found.code == 2
    assert "weights:" in found.error
    assert content_of(out) == before


def test_other_volumes_models_recipes_and_schedules_on_resume(zygote: Zygote, here: Path) -> None:
    out = here / "out.zarr"
    killed(zygote, out)
    before = content_of(out)
    ArrayStore.create(here / "other", shape=SHAPE, dtype="uint8", chunks=(16, 16))
    for words, named in (
        (("--bandwidth", "0.4"), "bandwidth"),
        (("--min-size", "9"), "min_size"),
        (("--roi", "0:32,:"), "roi"),
        (("--chunk-shape", "8,8"), "chunk_shape"),
        (("--seed", "3"), "seed"),
        (("--nan", "keep"), "nan"),
    ):
        found = run(*words)
        assert (found.code, named in found.error) == (2, True), found.error
    assert content_of(out) == before
    assert run("--block-shape", "48,64", "--workers", "2").code == 0
    assert run("-o", "straight.zarr").code == 0
    assert content_of(out) == content_of(here / "straight.zarr")


@pytest.fixture
def disk(here: Path) -> Iterator[Path]:
    """A file system of its own, which can be made small or read-only."""
    place = here / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(place)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_full_disk(here: Path, disk: Path) -> None:
    out = disk / "out.zarr"
    found = run("-o", out)
    assert found.code == 3
    assert "no space" in found.error or "disk is full" in found.error
    remount(disk, "size=64m")
    assert run("-o", out).code == 0
    assert run("-o", "straight.zarr").code == 0
    assert content_of(out) == content_of(here / "straight.zarr")


def test_a_disk_that_cannot_be_written(zygote: Zygote, here: Path, disk: Path) -> None:
    remount(disk, "size=64m,ro")
    found = run("-o", disk / "out.zarr")
    assert found.code == 2
    assert "cannot be written" in found.error
    remount(disk, "rw")
    killed(zygote, disk / "out.zarr", "-o", str(disk / "out.zarr"))
    before = content_of(disk / "out.zarr")
    remount(disk, "ro")
    found = run("-o", disk / "out.zarr")
    assert found.code in (2, 3)
    assert found.error.splitlines()[-1].startswith("stitchsafe: error: ")
    assert content_of(disk / "out.zarr") == before
    remount(disk, "rw")
    assert run("-o", disk / "out.zarr").code == 0


def test_output_through_a_link(here: Path) -> None:
    (here / "far/away").mkdir(parents=True)
    (here / "near").symlink_to(here / "far/away")
    assert run("-o", "near/out.zarr").code == 0
    (here / "link.zarr").symlink_to(here / "far/away/out.zarr")
    again = run("-o", "link.zarr")
    assert (again.code, again.answer["blocks_done"]) == (0, 0)
    assert verify("link.zarr").code == 0
    assert run("-o", "link.zarr", "--overwrite", "--seed", "1").code == 0
    assert (here / "link.zarr").is_symlink()
    assert (here / "volume").exists()
    (here / "loop").symlink_to(here / "volume")
    found = run("-o", "loop")
    assert found.code == 2
    assert "the same or lie within each other" in found.error


def test_absent_chunks_are_told_from_zeros(here: Path) -> None:
    assert "absent" not in run("--roi", "0:32,0:32").error  # also where there are zeros
    (here / "volume/c/1/2").unlink()
    (here / "volume/c/1/0").unlink()
    found = run("-o", "holed.zarr")
    assert found.code == 0
    assert "2 chunks of" in found.error
    assert "(c/1/0 is one)" in found.error
    found = run("-o", "refused.zarr", "--refuse-missing-chunks")
    assert found.code == 2
    assert "2 chunks of" in found.error
    assert not (here / "refused.zarr").exists()
    strict = ("--refuse-missing-chunks", "--roi", "0:16,:")
    assert run("-o", "corner.zarr", *strict).code == 2  # statistics are of the whole volume
    tiny_model(here / "plain", ndim=2, window=(16, 16), normalize="none")
    assert run("-o", "corner.zarr", "-m", "plain", *strict).code == 0


def test_nan_that_is_let_through_stays_in_its_receptive_field(here: Path) -> None:
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.save(here / "volume.npy", volume)
    holed = volume.copy()
    holed[20, 37], holed[21, 90] = np.nan, np.inf
    np.save(here / "holed.npy", holed)
    options = ("--save", "labels,fields", "--normalize", "none")
    words = ("-m", "tiny", "--image", "none", "--threads", "1", "--max-memory", "10GB", *options)
    for name, more in (("volume", ()), ("holed", ("--nan", "keep"))):
        assert command("predict", f"{name}.npy", "-o", f"{name}.zarr", *words, *more).code == 0
    reach = command("check", "tiny").answer["voxel_context"]
    same = np.ones(SHAPE, bool)
    for at in ((20, 37), (21, 90)):  # a voxel reads from `before` below to `after` above itself
        same[
            tuple(slice(max(0, p - a), p + b + 1) for p, (b, a) in zip(at, reach, strict=True))
        ] = 0
    for name in ("embedding", "foreground"):
        sound, found = (
            ArrayStore.open(here / f"{store}.zarr/fields/{name}/0") for store in ("volume", "holed")
        )
        sound, found = (each.read(Roi.whole(each.shape)) for each in (sound, found))
        np.testing.assert_array_equal(found[:, same], sound[:, same])
        hit = np.isnan(found).any(axis=0)
        assert hit[20, 37]
        assert hit[21, 90]
    labels = ArrayStore.open(here / "holed.zarr/labels/instances/0").read(Roi.whole(SHAPE))
    assert not labels[hit].any()
    assert labels.any()
    assert verify("holed.zarr").code == 0
