"""The real program on URLs and archives: what it reads, and what it refuses in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from reader_files import random_volume, write_ome_zarr
from servers import Bucket, web_server
from zygote import Zygote

from stitchsafe.volumes import Place

Run = Callable[..., Any]

OPTIONS = ("--threads", "1", "--max-memory", "10GB", "--json", "--quiet")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    write_ome_zarr(tmp_path / "volume.zarr", random_volume(20, 24, 24), nanometers=10)
    return tmp_path / "volume.zarr"


def refused(run: Run, *words: object, saying: tuple[str, ...]) -> None:
    ended = run(*map(str, words), "--quiet")
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.count("\n") == 1, ended.err
    for word in saying:
        assert word in ended.err, ended.err


def planned(run: Run, source: object, model: Path) -> dict[str, Any]:
    ended = run("plan", str(source), "-m", model, *OPTIONS)
    assert ended.code == 0, ended.err
    plan: dict[str, Any] = json.loads(ended.out)["recipe"]
    return plan


def put(file: Path, place: Place) -> None:
    for path in [file] if file.is_file() else sorted(p for p in file.rglob("*") if p.is_file()):
        below = path.relative_to(file).as_posix()
        (place if below == "." else place / below).write_bytes(path.read_bytes())


def test_one_grammar_for_all_places(
    run: Run, tmp_path: Path, volume: Path, model: Path, bucket: Bucket
) -> None:
    """The same volume, however it is named."""
    expected = planned(run, volume, model)
    archive = Path(shutil.make_archive(str(tmp_path / "flat.zarr"), "zip", volume))
    nested = Path(
        shutil.make_archive(str(tmp_path / "nested"), "zip", tmp_path, base_dir="volume.zarr")
    )
    put(volume, Place.of(f"{bucket.url}/data/volume.zarr"))
    put(archive, Place.of(f"{bucket.url}/data/flat.zarr.zip"))
    with web_server(tmp_path) as url:
        for source in (
            f"file://{volume}",
            f"{url}/volume.zarr",
            f"{url}/volume.zarr/0",
            f"{url}/flat.zarr.zip",
            f"{url}/nested.zip:volume.zarr",
            f"{bucket.url}/data/volume.zarr",
            f"{bucket.url}/data/flat.zarr.zip",
            archive,
            nested,
            f"{nested}:volume.zarr/0",
        ):
            assert planned(run, source, model) == expected, source


def test_a_result_of_a_web_server_beside_nothing(
    run: Run, tmp_path: Path, volume: Path, model: Path
) -> None:
    out = tmp_path / "out.zarr"
    with web_server(tmp_path) as url:
        refused(run, "predict", f"{url}/volume.zarr", "-m", model, saying=("beside", "--out"))
        ended = run("predict", f"{url}/volume.zarr", "-m", model, "-o", out, *OPTIONS)
        assert ended.code == 0, ended.err
        assert run("verify", out, "--json").code == 0
    ended = run("predict", volume, "-m", model, "-o", tmp_path / "local.zarr", *OPTIONS)
    labels = "labels/instances/0/c/0/0/0"
    assert (out / labels).read_bytes() == (tmp_path / "local.zarr" / labels).read_bytes()


def test_volumes_that_are_not_there(
    run: Run, tmp_path: Path, model: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "image.tif", random_volume(20, 24, 24))
    (tmp_path / "closed.zarr").mkdir()
    with web_server(tmp_path) as url:
        for source, why in {
            f"{bucket.url}/absent.zarr": ("absent.zarr", "no Zarr metadata"),
            "s3://no-such-bucket/x.zarr": ("no-such-bucket", "bucket that does not exist"),
            "s3:///x.zarr": ("names no bucket",),
            "gs://bucket/x.zarr": ("gs://", "s3://"),
            f"{url}/image.tif": ("image.tif", "only these are read", "download"),
            f"{url}/absent.zarr": ("no Zarr metadata",),
            f"{url}/absent.zip": ("absent.zip",),
            f"{url}/x.zarr?token=3": ("'?'",),
        }.items():
            refused(run, "plan", source, "-m", model, saying=why)
    (Place.of(bucket.url) / "v.zarr" / "zarr.json").write_bytes(b"{}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    refused(
        run, "plan", f"{bucket.url}/v.zarr", "-m", model,
        saying=("may not be accessed", "AWS_ACCESS_KEY_ID"),
    )  # fmt: skip


def test_an_input_that_cannot_be_reached_now_is_code_3(
    run: Run, zygote: Zygote, volume: Path, model: Path, bucket: Bucket
) -> None:
    """Nothing is wrong with what was given, unless there is no host of that name."""
    source = f"{bucket.url}/volume.zarr"
    put(volume, Place.of(source))

    def gone_from(begin: int, fault: str) -> Callable[[int, str, str], str | None]:
        return lambda number, method, path: fault if number >= begin else None

    def plan(**more: str) -> tuple[int, str]:
        words = ("plan", source, "-m", model, *OPTIONS)
        ended = zygote.run(*words, STITCHSAFE_RETRIES="1", **more)
        assert (ended.stdout, ended.stderr.count("\n")) == ("", 1), ended
        return ended.returncode, ended.stderr

    asked = len(bucket.faults.seen)
    planned(run, source, model)
    last = len(bucket.faults.seen) - asked - 1
    for later, fault in ((0, "down"), (last // 2, "busy"), (last, "down")):
        bucket.faults.choose = gone_from(len(bucket.faults.seen) + later, fault)
        code, error = plan()
        assert code == 3, error
        assert source in error
        assert "same command" in error
    code, error = plan(AWS_ENDPOINT_URL="http://no-such-host.invalid")
    assert code == 2, error
    assert "Could not resolve" in error
    assert source in error


def test_outputs_that_cannot_be(
    run: Run, tmp_path: Path, volume: Path, model: Path, bucket: Bucket
) -> None:
    (Place.of(bucket.url) / "theirs/notes.txt").write_bytes(b"mine")
    (Place.of(bucket.url) / "object.zarr").write_bytes(b"mine")
    put(volume, Place.of(f"{bucket.url}/volume.zarr"))
    before = Place.of(bucket.url).listing()
    inside = f"{bucket.url}/volume.zarr"
    with web_server(tmp_path) as url:
        for source, out, why in [
            (volume, f"{url}/out.zarr", ("web server", "only be read")),
            (volume, bucket.url, ("whole bucket",)),
            (volume, f"{bucket.url}/theirs", ("not written by stitchsafe",)),
            (volume, f"{bucket.url}/object.zarr", ("is an object",)),
            (volume, "s3://no-such-bucket/out.zarr", ("bucket that does not exist",)),
            (volume, "gs://bucket/out.zarr", ("gs://",)),
            (inside, f"{inside}/labels/x.zarr", ("lie within each other",)),
            (inside, inside, ("lie within each other",)),
        ]:
            words = ("predict", source, "-m", model, "-o", out, "--overwrite")
            refused(run, *words, saying=why)
    assert Place.of(bucket.url).listing() == before


def test_an_image_elsewhere_is_not_linked_but_copied(
    run: Run, tmp_path: Path, volume: Path, model: Path, bucket: Bucket
) -> None:
    source, out = f"{bucket.url}/volume.zarr", tmp_path / "out.zarr"
    put(volume, Place.of(source))
    ended = run("predict", source, "-m", model, "-o", out, "--max-memory", "10GB", "--threads", "1")
    assert ended.code == 0, ended.err
    assert "not linked, as only a local OME-Zarr" in " ".join(ended.err.split())
    out = f"{bucket.url}/out.zarr"
    ended = run("predict", source, "-m", model, "-o", out, "--image", "copy", *OPTIONS)
    assert ended.code == 0, ended.err
    assert f"{out}" == json.loads(ended.out)["out"]


def test_chunks_that_are_absent_are_counted_everywhere(
    run: Run, tmp_path: Path, model: Path, bucket: Bucket
) -> None:
    write_ome_zarr(tmp_path / "volume.zarr", random_volume(40, 48, 40), nanometers=10)
    shutil.rmtree(tmp_path / "volume.zarr/0/c/1/1")
    put(tmp_path / "volume.zarr", Place.of(f"{bucket.url}/volume.zarr"))
    archive = shutil.make_archive(str(tmp_path / "volume.zarr"), "zip", tmp_path / "volume.zarr")
    with web_server(tmp_path) as url:
        for source in (
            tmp_path / "volume.zarr", f"{bucket.url}/volume.zarr", f"{url}/volume.zarr", archive,
        ):  # fmt: skip
            bucket.faults.seen.clear()
            words = ("predict", source, "-m", model, "-o", tmp_path / "out.zarr")
            refused(run, *words, "--refuse-missing-chunks", saying=("2 chunks", "absent"))
            assert not [path for _, path in bucket.faults.seen if "/c/" in path]  # none fetched


def test_a_network_that_is_gone_is_code_3_before_and_after_work_began(
    zygote: Zygote, tmp_path: Path, model: Path, bucket: Bucket
) -> None:
    volume = tmp_path / "volume.npy"
    np.save(volume, random_volume(32, 32, 32))
    words = ["predict", volume, "-m", model, "-o", f"{bucket.url}/out.zarr",
             "--voxel-size", "10,10,10nm", "--quiet"]  # fmt: skip
    begun = False

    def gone(number: int, method: str, path: str) -> str | None:
        nonlocal begun
        begun = begun or (method == "PUT" and "ledger/predict" in path)
        return "down" if begun else None

    for choose in (lambda *_: "down", lambda *_: "busy", gone):
        bucket.faults.choose = choose
        ended = zygote.run(*words, STITCHSAFE_RETRIES="1")
        assert ended.returncode == 3, ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert "reached, after several attempts" in ended.stderr
        assert f"{bucket.url}/out.zarr" in ended.stderr
        assert "same command" in ended.stderr
    bucket.faults.choose = lambda *_: None
    ended = zygote.run(*words)
    assert ended.returncode == 0, ended.stderr
