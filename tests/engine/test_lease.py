from __future__ import annotations

import errno
import fcntl
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from stitchsafe.engine import Lease, Ledger
from stitchsafe.errors import InterruptedRunError, StoreError
from stitchsafe.volumes import Place


@pytest.fixture(params=["refuses", "is for show"])
def no_locks(request, monkeypatch):
    """A file system whose flock fails, or succeeds for everyone."""

    def flock(handle, how):
        if request.param == "refuses":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def folder(tmp_path):
    return Place.of(tmp_path / "out.zarr" / ".stitchsafe" / "ledger")


def test_where_locks_work_the_first_one_keeps_the_place(folder):
    with Lease.take(folder) as held:
        assert held.local
        for name in ("run", "part-1-of-4"):
            with pytest.raises(StoreError, match="another run"):
                Lease.take(folder, name)
        held.check()
    Lease.take(folder, "part-1-of-4").release()


def test_parts_share_a_store_and_keep_a_whole_run_out(folder):
    with Lease.take(folder, "part-1-of-4"), Lease.take(folder, "part-2-of-4"):
        for name in ("run", "part-2-of-4"):
            with pytest.raises(StoreError, match=r"out\.zarr; wait for it"):
                Lease.take(folder, name)
        with Lease.take(folder, "consensus"), pytest.raises(StoreError, match="consensus"):
            Lease.take(folder, "consensus")
    Lease.take(folder).release()


def test_waiting_for_a_step_that_another_part_does(folder):
    script = textwrap.dedent(
        f"""
        import time
        from stitchsafe.engine import Lease
        with Lease.take({str(folder)!r}, "consensus"):
            print("held", flush=True)
            time.sleep(1)
            print("given up", flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with Lease.take(folder, "consensus", wait=True):
            assert other.stdout.readline() == "given up\n"


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_newcomer_takes_over_and_the_older_run_stops(folder):
    older = Ledger(folder)
    with older:
        older.commit("map", {(0,): {}})
        (folder / "map/1.json.7.partial").write_bytes(b"half")
        with Ledger(folder) as newer:
            assert (folder / "map").listing() == ["0.json"]
            newer.commit("map", {(1,): {}})
            with pytest.raises(
                InterruptedRunError, match=r"another run has taken over .*out\.zarr"
            ):
                older.commit("map", {(2,): {}})
            newer.commit("map", {(3,): {}})
    assert sorted(Ledger(folder).finished("map")) == [(0,), (1,), (3,)]
    assert (folder / "epochs").listing() == ["run/1", "run/2"]


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_run_takes_over_from_parts_and_they_from_it(folder):
    first, second = Lease.take(folder, "part-1-of-2"), Lease.take(folder, "part-2-of-2")
    first.check()
    second.check()
    step = Lease.take(folder, "consensus")
    first.check()
    whole = Lease.take(folder)
    for part in (first, second):
        with pytest.raises(InterruptedRunError, match="run/1"):
            part.check()
    step.check()
    whole.check()
    again = Lease.take(folder, "part-1-of-2")
    with pytest.raises(InterruptedRunError, match="part-1-of-2/2"):
        whole.check()
    again.check()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_result_that_was_replaced_stops_the_older_run(folder):
    """After --overwrite the numbers begin anew: an epoch of the same number is another's."""
    older = Lease.take(folder)
    folder.parent.parent.remove()
    newer = Lease.take(folder)
    assert older.epoch == newer.epoch
    with pytest.raises(InterruptedRunError, match="taken over"):
        older.check()
    newer.check()


@pytest.mark.usefixtures("no_locks")
def test_a_worker_checks_the_lease_of_its_coordinator(folder):
    with Ledger(folder) as ledger:
        worker = Ledger(folder, lease=pickle.loads(pickle.dumps(ledger.lease)))
        worker.commit("map", {(0,): {}})
        Lease.take(folder)
        with pytest.raises(InterruptedRunError):
            worker.commit("map", {(1,): {}})


def test_on_an_object_store_leases_are_epochs(bucket):
    folder = Place.of(f"{bucket.url}/out.zarr/.stitchsafe/ledger")
    older = Lease.take(folder)
    assert not older.local
    older.check()
    # The answer to the creation is lost, so that it is made again and finds its own key.
    lost = iter(["lost"])
    bucket.faults.choose = lambda _, method, path: next(lost, None) if method == "PUT" else None
    newer = Lease.take(folder)
    assert bucket.faults.done == {"lost": 1}
    assert newer.epoch == "run/2"
    newer.check()
    with pytest.raises(InterruptedRunError):
        older.check()


def test_a_copy_of_a_lock_is_none(folder):
    """A worker's copy closes nothing when it goes, and finds nothing to check."""
    with Lease.take(folder) as held:
        pickle.loads(pickle.dumps(held)).release()
        with pytest.raises(StoreError):
            Lease.take(folder)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_step_is_waited_for_too(folder, monkeypatch):
    monkeypatch.setattr("stitchsafe.engine._lease._BEAT_SECONDS", 0.05)
    monkeypatch.setattr("stitchsafe.engine._lease._SILENT_SECONDS", 1.0)
    one, other, done = Ledger(folder, "part-1-of-2"), Ledger(folder, "part-2-of-2"), []
    said: list[str] = []

    def second() -> None:
        with other, other.holding("consensus", said.append):
            done.append("second")
            other.commit("consensus", {(): {}})

    thread = threading.Thread(target=second)
    with one, one.holding("consensus", said.append):
        thread.start()
        time.sleep(1.5)  # longer than silence may last
        done.append("first")
        one.commit("create", {(): {}})
    thread.join()
    assert done == ["first", "second"]
    assert said == ["waiting for another part, which is at the step 'consensus'"]
    # One that died at it is waited for until it has been silent for a while.
    Lease.take(folder, "consensus")
    with other, other.holding("consensus", said.append):
        done.append("third")
    assert done[-1] == "third"
    assert other.stages() == ["consensus", "create"]
