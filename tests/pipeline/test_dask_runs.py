"""Predictions on dask clusters: the bytes of a local run, and clear refusals."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
from dask_cluster import RunningCluster, running_cluster
from distributed import Client
from heard import Heard
from stores import Content, content_of, smooth_volume, tiny_model
from zygote import Zygote

import stitchsafe
from stitchsafe.errors import InputError, ModelError
from stitchsafe.pipeline._clusters import read_cluster_file, refuse_unfit_workers
from stitchsafe.pipeline._machine import processor_name
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import Job
from stitchsafe.volumes import Place

OPTIONS = {
    "threads": 2, "max_memory": 10**9, "save": ("labels", "fields", "table"), "image": "copy",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore")  # of dask's own making


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("job")
    tiny_model(here / "tiny", ndim=2, window=(16, 16))
    np.save(here / "volume.npy", smooth_volume(96, 96))
    stitchsafe.predict(here / "volume.npy", here / "tiny", here / "straight.zarr", **OPTIONS)
    return here


@pytest.fixture(scope="module")
def straight(job: Path) -> Content:
    return content_of(job / "straight.zarr")


@pytest.fixture(scope="module")
def cluster(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(zygote, tmp_path_factory.mktemp("dask") / "two", 2, threads=2) as cluster:
        with Client(cluster.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield cluster


def test_a_running_cluster_one_of_whose_workers_dies(
    tmp_path: Path, job: Path, straight: Content, cluster: RunningCluster
) -> None:
    out, heard = tmp_path / "out.zarr", Heard()
    victim = cluster.hire()
    with Client(cluster.address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(3, timeout=120)

    def kill() -> None:
        while len(list(out.glob(".stitchsafe/ledger/predict/*.json"))) < 8:
            time.sleep(0.002)
        victim.kill()

    threading.Thread(target=kill).start()
    stitchsafe.predict(
        job / "volume.npy", job / "tiny", out, dask=cluster.address, events=heard, **OPTIONS
    )
    assert content_of(out) == straight
    assert "was lost; 2 are left" in heard


def test_labels_that_wait_for_all_fields(
    tmp_path: Path, job: Path, cluster: RunningCluster
) -> None:
    more = {**OPTIONS, "save": "labels", "clusters": "volume", "bandwidth": "auto"}
    for out, how in (("here.zarr", {}), ("there.zarr", {"dask": cluster.address})):
        stitchsafe.predict(job / "volume.npy", job / "tiny", tmp_path / out, **more, **how)
    assert content_of(tmp_path / "there.zarr") == content_of(tmp_path / "here.zarr")


def test_the_command_line(
    zygote: Zygote, tmp_path: Path, job: Path, cluster: RunningCluster
) -> None:
    """With relative paths, which workers resolve as the caller does."""
    words = ["predict", "volume.npy", "-m", "tiny", "-o", tmp_path / "out.zarr", "--quiet",
             "--threads", "2", "--max-memory", "1GB"]  # fmt: skip
    done = zygote.run(*words, "--dask", cluster.address, cwd=job)
    assert (done.returncode, done.stderr) == (0, "")
    nobody = zygote.run(*words, "--dask", "tcp://127.0.0.1:1", "--overwrite", cwd=job)
    assert nobody.returncode == 2
    assert nobody.stderr.splitlines() == [
        "stitchsafe: error: no dask scheduler answers at tcp://127.0.0.1:1; check the address, and "
        "that it runs"
    ]


def test_ways_that_exclude_each_other(job: Path) -> None:
    for more, said in (
        ({"workers": 2}, "--workers 2 are processes of this machine"),
        ({"part": "1/2"}, "--part 1/2 is for runs that know of no scheduler"),
        ({"threads": None}, "with --max-memory and --threads"),
    ):
        with pytest.raises(InputError, match=said):
            stitchsafe.predict(
                job / "volume.npy", job / "tiny", dask="tcp://127.0.0.1:1", **{**OPTIONS, **more}
            )
    with pytest.raises(InputError, match="the volume lies in the memory of this process"):
        stitchsafe.predict(
            np.load(job / "volume.npy"), job / "tiny", job / "no.zarr",
            dask="tcp://127.0.0.1:1", **OPTIONS,
        )  # fmt: skip


def test_workers_that_could_not_do_the_work(zygote: Zygote, tmp_path: Path, job: Path) -> None:
    """Each is refused before anything is written, with one line that names it."""
    for name, content in (("none", "raise ImportError('no such thing')"), ("old", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stitchsafe.py").write_text(f"__version__ = '0.0.1'\n{content}\n")
    fit = {
        "folder": str(tmp_path), "volume": str(job / "volume.npy"), "processor": processor_name(),
        "memory": 10**9,
    }  # fmt: skip
    with running_cluster(zygote, tmp_path / "cluster", 0) as cluster:
        out = tmp_path / "out.zarr"
        with pytest.raises(InputError, match=f"the dask cluster at {cluster.address} has no work"):
            stitchsafe.predict(
                job / "volume.npy", job / "tiny", out, dask=cluster.address, **OPTIONS
            )
        assert not out.exists()
        worker = cluster.hire()
        with Client(cluster.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=120)
            refuse_unfit_workers(client, **fit)
            for change, said in (
                ({"volume": "/nowhere/volume.npy"}, "does not see the volume /nowhere/volume.npy"),
                ({"folder": "/nowhere"}, "cannot write the folder /nowhere"),
                ({"processor": "abacus"}, "has the processor .* and the recipe says 'abacus'"),
                ({"memory": 10**11}, "may take 8GB, and a block needs up to 100GB"),
            ):
                with pytest.raises(InputError, match=f"the dask worker tcp://.*{said}"):
                    refuse_unfit_workers(client, **{**fit, **change})
            worker.kill()
            for name, said in (
                ("old", "has stitchsafe 0.0.1, and this is"),
                ("none", "cannot import stitchsafe .*no such thing"),
            ):
                while client.scheduler_info()["workers"]:
                    time.sleep(0.05)
                worker = cluster.hire(path=tmp_path / name)
                client.wait_for_workers(1, timeout=120)
                with pytest.raises(InputError, match=said):
                    refuse_unfit_workers(client, **fit)
                worker.kill()


def test_a_worker_of_another_kind_does_not_open_the_job(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, origin = str(job / "volume.npy"), Origin.of(job / "tiny", None, None)
    opener = Job(Place.of(job / "straight.zarr"), origin, volume, None, False)
    recipe = opener().recipe
    monkeypatch.setattr(ResultStore, "recipe", lambda _: replace(recipe, build="torch 0.1"))
    with pytest.raises(ModelError, match=r"library of this worker is 'torch .*says 'torch 0.1'"):
        opener()


def test_a_file_that_describes_a_cluster(tmp_path: Path, job: Path, straight: Content) -> None:
    file, heard = tmp_path / "cluster.yaml", Listeners()
    file.write_text(
        "cluster: distributed.LocalCluster\n"
        "arguments: {processes: false, threads_per_worker: 1, n_workers: 0}\n"
        "scale: 1\n"
    )
    out = tmp_path / "out.zarr"
    stitchsafe.predict(job / "volume.npy", job / "tiny", out, dask=file, events=heard, **OPTIONS)
    assert content_of(out) == straight
    assert "dask: scheduler inproc" in heard
    assert heard.hosts == {"127.0.0.1"}


class Listeners(Heard):
    """Looks, while there is a cluster, at which addresses it can be reached."""

    hosts: ClassVar[set[str]] = set()

    def say(self, message: str) -> None:
        super().say(message)
        if message.startswith("dask: scheduler"):
            sockets = psutil.Process().net_connections("inet")
            self.hosts |= {each.laddr.ip for each in sockets if each.status == "LISTEN"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: a.B\nscale: 1", "unknown key 'clusters'; did you mean 'cluster'?"),
        ("cluster: a.B\nscale: 1\nzzz: 2", "unknown key 'zzz'; it has cluster, arguments"),
        ("cluster: a.B", "give either scale or adapt"),
        ("cluster: a.B\nscale: 1\nadapt: {}", "give either scale or adapt"),
        ("cluster: B\nscale: 1", "cluster is a class"),
        ("[1", "cannot be read as YAML"),
        ("cluster: nothing_like_it.B\nscale: 1", "install the package that has it"),
        ("cluster: distributed.NoCluster\nscale: 1", "distributed has no NoCluster"),
        ("cluster: distributed.LocalCluster\narguments: {wrong: 1}\nscale: 1", "cannot be made"),
    ],
)
def test_files_that_describe_none(tmp_path: Path, job: Path, text: str, said: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        stitchsafe.predict(
            job / "volume.npy", job / "tiny", tmp_path / "out.zarr", dask=file, **OPTIONS
        )
    assert said in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


SBATCH = """#!/bin/sh
echo "$@" >> {folder}/sbatch.log
cp "$1" {folder}/job.sh  # as the real one does: who submits removes the script at once
nohup sh {folder}/job.sh > {folder}/job.log 2>&1 &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``sbatch`` and ``scancel`` that run a job's script here and now."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {"sbatch": SBATCH.format(folder=folder), "scancel": "#!/bin/sh\nkill $1\n"}
    for name, script in scripts.items():
        path = folder / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    paths = [str(Path(__file__).parent.parent), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    yield folder
    for job in (folder / "jobs").read_text().split():
        subprocess.run(["pkill", "-KILL", "-P", job], check=False)


def test_the_documented_file_for_slurm(
    tmp_path: Path, job: Path, straight: Content, slurm: Path, repository: Path
) -> None:
    """As docs/workers.md shows it, but that the workers of this test are on this machine."""
    text = (repository / "docs" / "workers.md").read_text()
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    assert "dask_jobqueue.SLURMCluster" in shown
    file = tmp_path / "cluster.yaml"
    local = shown.replace("interface: ib0", "interface: lo").replace("jobs: 8", "jobs: 1")
    assert local != shown
    file.write_text(local)
    assert read_cluster_file(file).scale == {"jobs": 1}
    out = tmp_path / "out.zarr"
    stitchsafe.predict(job / "volume.npy", job / "tiny", out, dask=file, **OPTIONS)
    assert content_of(out) == straight
    assert (slurm / "sbatch.log").read_text().count("\n") == 1
