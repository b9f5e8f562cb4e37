"""A result on an object store is the one on a disk, byte for byte, whatever the network does."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from reader_files import write_ome_zarr
from servers import Bucket
from stores import Content, content_of, smooth_volume, tiny_model
from zygote import Zygote

import stitchsafe
from stitchsafe.volumes import Place

OPTIONS: dict[str, Any] = {
    "threads": 1, "max_memory": 10**10, "save": ("labels", "fields", "table"), "image": "copy",
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of 4 cells, a model, and a result on the disk."""
    here = tmp_path_factory.mktemp("job")
    tiny_model(here / "tiny")
    write_ome_zarr(here / "volume.zarr", smooth_volume(16, 32, 32), nanometers=10)
    stitchsafe.predict(here / "volume.zarr", here / "tiny", here / "straight.zarr", **OPTIONS)
    return here


@pytest.fixture(scope="module")
def straight(job: Path) -> Content:
    return content_of(job / "straight.zarr")


def fetch(url: str, folder: Path) -> Path:
    """All objects below a URL, as files."""
    place = Place.of(url)
    for key, data in place.read_many(place.listing()):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    for name in ("epochs", "beats"):
        shutil.rmtree(folder / ".stitchsafe" / "ledger" / name, ignore_errors=True)
    return folder


def put(folder: Path, url: str) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            (Place.of(url) / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def predict_words(job: Path, out: str, *more: object) -> tuple[object, ...]:
    return (
        "predict", job / "volume.zarr", "-m", job / "tiny", "-o", out, "--threads", 1,
        "--max-memory", "10GB", "--save", "labels,fields,table", "--image", "copy", *more,
    )  # fmt: skip


def any_fault(number: int, method: str, path: str) -> str | None:
    """One request in twenty is harmed."""
    del method, path
    return random.Random(number).choice([*("late", "busy", "cut", "lost", "down"), *[None] * 95])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_on_a_bad_network(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content, bucket: Bucket, workers: int
) -> None:
    """The real command on a store behind harm of all kinds: killed, resumed, verified."""
    out = f"{bucket.url}/results/out.zarr"
    bucket.faults.choose = any_fault
    words = predict_words(job, out, "--workers", workers)
    with zygote.start(*words) as process:
        while not sum("ledger/predict" in path for _, path in list(bucket.faults.seen)) >= 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = zygote.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["out"] == out
    assert set(bucket.faults.done) >= {"late", "busy", "lost", "down"}
    bucket.faults.choose = lambda *_: None
    if workers == 1:
        assert 0 < answer["blocks_resumed"] < answer["blocks_total"]
        verified = stitchsafe.verify(out)
        assert verified.ok, verified.describe()
        scores = stitchsafe.evaluate(out, job / "straight.zarr").to_json()
        assert scores["adapted_rand_error"] == 0
    assert content_of(fetch(out, tmp_path / "fetched")) == straight


def test_a_second_run_takes_over_and_the_older_one_stops(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content, bucket: Bucket
) -> None:
    """Two real runs on one result: the older one ends with code 3, and the result is whole."""
    out = f"{bucket.url}/out.zarr"
    words = predict_words(job, out)
    with zygote.start(*words) as older:
        while not any(m == "PUT" and "ledger/predict" in p for m, p in list(bucket.faults.seen)):
            assert older.poll() is None, older.communicate()
            time.sleep(0.005)
        older.send_signal(signal.SIGSTOP)
        stitchsafe.predict(job / "volume.zarr", job / "tiny", out, **OPTIONS)
        older.send_signal(signal.SIGCONT)
        _, stderr = older.communicate()
    assert older.returncode == 3, stderr
    assert "another run has taken over" in stderr.splitlines()[-1]
    found = content_of(fetch(out, tmp_path / "fetched"))
    scratch = {name for name in found if name.startswith(".stitchsafe/provisional/")}
    assert len(scratch) <= 1  # what the older one was at when it stopped
    assert {name: found[name] for name in found if name not in scratch} == straight
    # And replaced: nothing of the first one stays.
    options = {**OPTIONS, "save": "labels", "image": "none", "overwrite": True}
    stitchsafe.predict(job / "volume.zarr", job / "tiny", out, **options)
    assert not any(key.startswith(("fields", "instances")) for key in Place.of(out).listing())
    assert stitchsafe.verify(out, cells=1).ok


def test_parts_that_start_at_once_share_a_result(
    zygote: Zygote, tmp_path: Path, job: Path, straight: Content, bucket: Bucket
) -> None:
    out = f"{bucket.url}/parts/out.zarr"
    with ExitStack() as stack:
        parts = [
            stack.enter_context(zygote.start(*predict_words(job, out, "--part", f"{n}/3")))
            for n in (1, 2, 3)
        ]
        said = [part.communicate()[1] for part in parts]
    assert [part.returncode for part in parts] == [0, 0, 0], said
    assert content_of(fetch(out, tmp_path / "fetched")) == straight
    assert stitchsafe.verify(out, cells=1).ok


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own making
def test_a_cluster_that_adapts_with_its_result_on_the_store(
    job: Path, tmp_path: Path, bucket: Bucket, straight: Content
) -> None:
    """Workers come as there is work, and read and write the store by themselves."""
    pytest.importorskip("distributed")
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "cluster: distributed.LocalCluster\n"
        "arguments: {n_workers: 0, threads_per_worker: 1, dashboard_address: null}\n"
        "adapt: {minimum: 0, maximum: 2}\n"
    )
    out = f"{bucket.url}/dask.zarr"
    made = stitchsafe.predict(job / "volume.zarr", job / "tiny", out, dask=file, **OPTIONS)
    assert made.progress.instances
    assert content_of(fetch(out, tmp_path / "fetched")) == straight
    assert stitchsafe.verify(out).ok
