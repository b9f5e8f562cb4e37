"""Nothing is lost: a run that is killed at any moment goes on, and the bytes are the same."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import Content, content_of, smooth_volume, tiny_model
from zygote import Run, Zygote

import stitchsafe
from stitchsafe.engine import Ledger
from stitchsafe.errors import InterruptedRunError, StoreError

OPTIONS = {
    "threads": 1, "max_memory": 10**10, "save": ("labels", "fields", "table"), "image": "copy",
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of 60 cells, a model, and a result that nothing disturbed."""
    here = tmp_path_factory.mktemp("job")
    tiny_model(here / "tiny")
    np.save(here / "volume.npy", smooth_volume(40, 72, 63))
    stitchsafe.predict(here / "volume.npy", here / "tiny", here / "straight.zarr", **OPTIONS)
    return here


@pytest.fixture(scope="module")
def straight(job: Path) -> Content:
    return content_of(job / "straight.zarr")


def start(zygote: Zygote, job: Path, out: Path) -> Run:
    words = ["predict", job / "volume.npy", "-m", job / "tiny", "-o", out, "--threads", "1"]
    words += ["--max-memory", "10GB", "--save", "labels,fields,table", "--image", "copy"]
    return zygote.start(*words)


def entries(out: Path, stage: str) -> int:
    return len(list((out / ".stitchsafe" / "ledger" / stage).glob("*.json")))


def wait_for(process: Run, reached: Callable[[], bool]) -> None:
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def resume(job: Path, out: Path, **more: object) -> stitchsafe.pipeline.Prediction:
    return stitchsafe.predict(job / "volume.npy", job / "tiny", out, **{**OPTIONS, **more})


@pytest.mark.parametrize(
    ("moment", "reached", "block"),
    [
        ("image", lambda out: entries(out, "image") >= 5, None),
        ("first cells", lambda out: entries(out, "predict") >= 2, None),
        ("half way", lambda out: entries(out, "predict") >= 30, (16, 32, 64)),
        ("merging", lambda out: entries(out, "predict") == 60, (32, 16, 16)),
        ("labels", lambda out: entries(out, "labels") >= 10, (48, 80, 64)),
    ],
)
def test_killed_and_run_again(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content, moment: str,
    reached: Callable[[Path], bool], block: tuple[int, ...] | None,
) -> None:  # fmt: skip
    """The real process, SIGKILL; resumed with the same blocks, or with others."""
    out = tmp_path / "out.zarr"
    with start(zygote, job, out) as process:
        wait_for(process, lambda: reached(out))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, moment
    before = entries(out, "predict")
    made = resume(job, out, block_shape=block)
    if block is None:
        assert made.progress.blocks_resumed == before
    assert content_of(out) == straight


def test_an_interrupt_is_code_3_and_one_line(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content
) -> None:
    out = tmp_path / "out.zarr"
    with start(zygote, job, out) as process:
        wait_for(process, lambda: entries(out, "predict") >= 3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 3, stderr
    assert stderr.splitlines()[-1].startswith("stitchsafe: error: interrupted")
    assert "Traceback" not in stderr
    resume(job, out)
    assert content_of(out) == straight


COMMITS = 24
"""Of a run over three cells: statistics 1, settle 1, consensus; create, image, predict;
districts, contacts, groups, walk, objects, totals, order, merge, instances; create labels, labels,
finish."""


class Death(BaseException):
    """Stands for the end of the process: nothing that follows is carried out."""


def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Die before the first commit to the ledger, before the second, …, and while scratch goes."""
    for number in range(COMMITS):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "commit", dying(Ledger.commit, number))
            yield patch
    with monkeypatch.context() as patch:

        def half(path: Path, **more: Any) -> None:
            if Path(path).name != "provisional":
                return rmtree(path, **more)
            (Path(path) / "zarr.json").unlink()
            raise Death

        rmtree = shutil.rmtree
        patch.setattr(shutil, "rmtree", half)
        yield patch


def dying(commit: Callable[..., None], number: int) -> Callable[..., None]:
    calls = iter(range(COMMITS))

    def commit_or_die(*arguments: object) -> None:
        if next(calls) == number:
            raise Death
        commit(*arguments)

    return commit_or_die


def test_death_at_every_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tmp_path / "tiny", ndim=2, window=(16, 16))
    volume = smooth_volume(20, 140)[:12, :40]  # three cells
    options = {**OPTIONS, "out": tmp_path / "out.zarr"}
    stitchsafe.predict(volume, model, **{**options, "out": tmp_path / "straight.zarr"})
    expected = content_of(tmp_path / "straight.zarr")
    died = 0
    for patch in deaths(monkeypatch):
        with pytest.raises(Death):
            stitchsafe.predict(volume, model, **options)
        patch.undo()
        died += 1
        stitchsafe.predict(volume, model, **options)
        assert content_of(tmp_path / "out.zarr") == expected
        shutil.rmtree(tmp_path / "out.zarr")
    assert died == COMMITS + 1


def test_an_entry_that_was_lost_is_made_good(tmp_path: Path, job: Path, straight: Content) -> None:
    """The ledger says what is done: what it does not say is done again, finished run or not."""
    out = tmp_path / "out.zarr"
    shutil.copytree(job / "straight.zarr", out)
    for stage in ("predict", "labels"):
        (out / ".stitchsafe" / "ledger" / stage / "1_2_3.json").unlink()
    Path.unlink(out / "labels/instances/0/c/1/2/3")
    assert content_of(out) != straight
    resume(job, out)
    assert content_of(out) == straight


def test_a_volume_that_has_changed_is_not_gone_on_with(tmp_path: Path, job: Path) -> None:
    volume = np.load(job / "volume.npy")
    out = tmp_path / "out.zarr"
    stitchsafe.predict(volume, job / "tiny", out, **OPTIONS)
    before = content_of(out)
    volume[20:, 30:] += 1
    with pytest.raises(StoreError, match="has changed since"):
        stitchsafe.predict(volume, job / "tiny", out, **OPTIONS)
    assert content_of(out) == before


def test_an_input_that_cannot_be_read_stops_the_run_part_way(tmp_path: Path) -> None:
    """Whatever is found out after work has begun is no refusal: the run can go on."""
    import zarr

    model = tiny_model(tmp_path / "tiny", normalize="none")
    volume = smooth_volume(20, 20, 60)
    array = zarr.create_array(tmp_path / "volume.zarr", shape=volume.shape, chunks=(20, 20, 20),
                              dtype="uint8")  # fmt: skip
    array[...] = volume
    chunk = tmp_path / "volume.zarr" / "c/0/0/2"
    sound = chunk.read_bytes()
    chunk.write_bytes(sound[: len(sound) // 2])
    run = lambda out: stitchsafe.predict(  # noqa: E731
        tmp_path / "volume.zarr",
        model,
        tmp_path / out,
        labels_from="foreground",
        **{**OPTIONS, "image": "none"},
    )
    with pytest.raises(InterruptedRunError, match=r"cannot be read at .*; mend that and run"):
        run("out.zarr")
    assert entries(tmp_path / "out.zarr", "predict") > 0
    chunk.write_bytes(sound)
    run("out.zarr")
    run("straight.zarr")
    assert content_of(tmp_path / "out.zarr") == content_of(tmp_path / "straight.zarr")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_wherever_it_strikes(small_disk: Path, job: Path, straight: Content) -> None:
    """Room is made little by little, so that each stage runs into the end of the disk."""
    out = small_disk / "out.zarr"
    for room in (350, 700, 1200, 2500, 40_000, 256_000):
        with pytest.raises(InterruptedRunError, match=r"no space|disk is full"):
            resume(job, out)
        subprocess.run(["mount", "-o", f"remount,size={room}k", str(small_disk)], check=True)
    resume(job, out)
    assert content_of(out) == straight
