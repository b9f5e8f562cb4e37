"""Parts of a run: side by side, one after the other, in any order, and the bytes of a whole run."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from stores import Content, content_of, smooth_volume, tiny_model
from zygote import Run, Zygote

import stitchsafe
from stitchsafe.errors import InputError, StoreError
from stitchsafe.pipeline._parts import Part

OPTIONS = {
    "threads": 1, "max_memory": 10**10, "save": ("labels", "fields", "table"), "image": "copy",
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("job")
    tiny_model(here / "tiny", ndim=2, window=(16, 16))
    np.save(here / "volume.npy", smooth_volume(48, 80))
    stitchsafe.predict(here / "volume.npy", here / "tiny", here / "straight.zarr", **OPTIONS)
    return here


@pytest.fixture(scope="module")
def straight(job: Path) -> Content:
    return content_of(job / "straight.zarr")


def part(job: Path, out: Path, share: object, **more: object) -> stitchsafe.pipeline.Prediction:
    return stitchsafe.predict(
        job / "volume.npy", job / "tiny", out, part=share, **{**OPTIONS, **more}
    )


def test_a_part_is_read_from_words_and_from_numbers() -> None:
    assert Part.parse("2/3") == Part.parse((2, 3)) == Part(2, 3)
    for wrong in ("0/3", "4/3", "2", "a/b", "1/2/3", (1,), (0, 2), 3, ("x", "y")):
        with pytest.raises(InputError, match=r"part .* is none; give i/n"):
            Part.parse(wrong)


def test_shares_are_disjoint_and_all() -> None:
    items = list(range(11))
    shares = [Part(i, 4).mine(items) for i in (1, 2, 3, 4)]
    assert sorted(item for share in shares for item in share) == items
    for share, number in zip(shares, (1, 2, 3, 4), strict=True):
        assert all(Part(1, 4).owner(item) == number for item in share)


@pytest.mark.parametrize("order", ["123", "312", "2213"])
def test_whoever_comes_last_finishes(
    tmp_path: Path, job: Path, straight: Content, order: str
) -> None:
    out, heard = tmp_path / "out.zarr", Heard()
    made = [part(job, out, f"{i}/3", events=heard) for i in order]
    assert [each.progress.missing is None for each in made] == [False] * (len(order) - 1) + [True]
    assert [each.progress.instances is None for each in made[:-1]] == [True] * (len(order) - 1)
    assert made[0].progress.missing is not None
    assert made[0].to_json()["missing_blocks"] == 10
    assert f"part {order[0]}/3 is done; 10 blocks are missing (5 of part" in heard
    assert content_of(out) == straight
    again = part(job, out, "1/3", events=heard)
    assert again.progress.blocks_resumed == again.progress.blocks_total == 5
    assert content_of(out) == straight
    assert stitchsafe.verify(out).ok


def test_real_processes_at_once_with_workers_of_their_own(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content
) -> None:
    out = tmp_path / "out.zarr"

    def start(index: int) -> Run:
        words = ["predict", job / "volume.npy", "-m", job / "tiny", "-o", out, "--threads", "1",
                 "--max-memory", "10GB", "--save", "labels,fields,table", "--image", "copy",
                 "--part", f"{index}/3", "--json"]  # fmt: skip
        words += ["--workers", "2"] if index == 2 else []
        return zygote.start(*words)

    with start(1) as first, start(2) as second, start(3) as third:
        told = [run.communicate() for run in (first, second, third)]
    assert [run.returncode for run in (first, second, third)] == [0, 0, 0], told
    answers = [json.loads(output) for output, _ in told]
    assert any(answer["missing_blocks"] == 0 and answer["instances"] for answer in answers)
    assert sum(answer["blocks_total"] for answer in answers) == 15
    assert content_of(out) == straight


def test_parts_and_whole_runs_exclude_each_other(tmp_path: Path, job: Path) -> None:
    out = tmp_path / "out.zarr"
    part(job, out, "1/2")
    ledger = out / ".stitchsafe" / "ledger"
    before = content_of(out)
    for held, how, refused in (
        ("lock", fcntl.LOCK_EX, {"part": "2/2"}),  # as a whole run does
        ("lock", fcntl.LOCK_SH, {}),  # as a part does
        ("lock-part-2-of-2", fcntl.LOCK_EX, {"part": "2/2"}),  # the same part twice
    ):
        handle = os.open(ledger / held, os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, how)
        try:
            with pytest.raises(StoreError, match="is writing"):
                stitchsafe.predict(job / "volume.npy", job / "tiny", out, **OPTIONS, **refused)
        finally:
            os.close(handle)
    assert content_of(out) == before


def test_a_part_with_other_settings_is_refused_with_the_difference(
    tmp_path: Path, job: Path
) -> None:
    out = tmp_path / "out.zarr"
    part(job, out, "1/2")
    with pytest.raises(StoreError, match=r"tile_shape: \(8, 16\), not \(16, 16\)"):
        part(job, out, "2/2", tile_shape=(8, 16))
    with pytest.raises(StoreError, match="image: 'none', not 'copy'"):
        part(job, out, "2/2", image="none")
    with pytest.raises(InputError, match="--overwrite with --part 2/2"):
        part(job, out, "2/2", overwrite=True)


def test_a_wrong_input_leaves_nothing_that_stands_in_the_way(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny", ndim=2, window=(16, 16))
    volume = smooth_volume(48, 80).astype(np.float32)
    volume[3, 4] = np.nan
    out = tmp_path / "out.zarr"
    for _ in range(2):
        with pytest.raises(InputError, match="1 NaN voxels"):
            stitchsafe.predict(volume, model, out, part="1/2", **OPTIONS)
    for share in ("1/2", "2/2"):
        made = stitchsafe.predict(volume, model, out, part=share, nan="zero", **OPTIONS)
    assert made.progress.missing is None


def test_a_whole_run_goes_on_with_what_parts_left(
    tmp_path: Path, job: Path, straight: Content
) -> None:
    out = tmp_path / "out.zarr"
    part(job, out, (2, 3))
    made = stitchsafe.predict(job / "volume.npy", job / "tiny", out, **OPTIONS)
    assert (made.progress.blocks_total, made.progress.blocks_resumed) == (15, 5)
    assert content_of(out) == straight
