"""Fixtures that every room's tests share."""

from __future__ import annotations

import http.client
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers import CREDENTIALS, Bucket, Faults, faulty_proxy, object_store
from zygote import Zygote

REPOSITORY = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
"""A file system in memory, where there is one. Runs wait for the disk each time they enter a cell,
and no test turns off a machine to see what that is good for."""


def pytest_configure(config: pytest.Config) -> None:
    """With the slow tests, more examples where a test does not say how many.

    Where there are several test processes, each begins with a run of neighbours, so that what the
    tests of a file share is made once. Files lie in memory, unless slow tests write large ones, or
    PYTEST_DEBUG_TEMPROOT or --basetemp says where. No example is timed: machines are noisy.
    """
    if config.getoption("dist", "no") == "load":
        config.option.dist = "worksteal"
    settings.register_profile("ordinary", max_examples=20, deadline=None)
    settings.register_profile("thorough", max_examples=100, deadline=None)
    thorough = config.getoption("markexpr") in ("slow", "slow or not slow")
    settings.load_profile("thorough" if thorough else "ordinary")
    if not thorough and _has_room(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def _has_room(folder: Path) -> bool:
    return (
        folder.is_dir()
        and os.access(folder, os.W_OK)
        and shutil.disk_usage(folder).free >= 4 * 2**30
    )


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data made by others, which the repository does not hold."""
    folder = Path(os.environ.get("STITCHSAFE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the shared data folder {folder} is absent (set STITCHSAFE_DATA)")
    return folder


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts the real program, without importing torch each time."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def quick_workers(zygote: Zygote) -> Iterator[None]:
    """Worker processes of predictions in this process start without importing torch each time."""
    with zygote.workers():
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3."""
    pytest.importorskip("moto.server", reason="the object store of the tests is not installed")
    with object_store() as url:
        yield url


@pytest.fixture
def bucket(
    s3_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """An empty bucket, reached through a proxy that can be told to do harm."""
    name = f"bucket-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**8}"
    faults = Faults()
    with faulty_proxy(s3_server, faults) as url:
        connection = http.client.HTTPConnection(s3_server.removeprefix("http://"))
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": url}
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        yield Bucket(f"s3://{name}", s3_server, faults)
