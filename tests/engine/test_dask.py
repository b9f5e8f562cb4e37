"""Stages on a dask cluster of real processes, some of which die."""

from __future__ import annotations

import threading
import time

import pytest
from dask_cluster import running_cluster
from distributed import Client
from toy_workshop import CELLS, Toy

from stitchsafe.engine import Dask, Silent, run_blocks
from stitchsafe.errors import InputError, InterruptedRunError

ALL = {CELLS.index(cell) for cell in CELLS.cells()}

pytestmark = pytest.mark.filterwarnings("ignore")  # of dask's own making


@pytest.fixture(scope="module")
def two_workers(zygote, tmp_path_factory):
    with running_cluster(zygote, tmp_path_factory.mktemp("dask") / "two", 2, threads=2) as cluster:
        yield cluster


@pytest.fixture
def client(two_workers):
    with Client(two_workers.address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


class Said(list):
    def __call__(self, line):
        self.append(line)


def run(client, toy, block_shape=(2, 3), patience=20.0, said=None):
    with Dask(client, toy, say=Said() if said is None else said, patience=patience) as executor:
        return run_blocks(
            "map",
            cells=CELLS,
            block_shape=block_shape,
            executor=executor,
            ledger=toy.ledger,
            events=Silent(),
        )


def finished(toy):
    return set(toy.ledger.finished("map"))


def test_workers_share_the_blocks_and_compute_one_at_a_time(tmp_path, client):
    toy = Toy(tmp_path)
    run(client, toy)
    assert finished(toy) == ALL
    assert sorted(toy.noted("compute")) == sorted(str(cell) for cell in CELLS.cells())
    by = {record["by"] for record in toy.ledger.finished("map").values()}
    assert len(by) == 2
    # Workers of two threads: yet a block is computed by the process's one computing thread.
    assert set(toy.noted("thread")) == {"stitchsafe-computer_0"}


def test_a_block_that_always_fails_is_set_aside_and_the_rest_finished(tmp_path, client):
    toy = Toy(tmp_path)
    toy.order((0, 1), "damaged")
    toy.order((2, 2), "damaged once")
    pattern = r"1 of its blocks \(block 0:2,3:6: cell \(0, 1\) cannot be read.* all other blocks"
    with pytest.raises(InterruptedRunError, match=pattern):
        run(client, toy)
    assert finished(toy) == ALL - {(0, 1)}
    assert toy.noted("compute").count("0:2,3:6") == 3


def test_a_wrong_input_that_only_shows_now_is_still_an_input_error(tmp_path, client):
    toy = Toy(tmp_path)
    toy.order((0, 0), "wrong")
    with pytest.raises(InputError, match="bandwidth 9"):
        run(client, toy)


def test_what_stops_the_run_stops_all_workers_and_enters_what_is_done(tmp_path, client):
    toy = Toy(tmp_path)
    toy.order((0, 1), "patient")
    toy.order((1, 1), "full afterwards")
    with pytest.raises(InterruptedRunError, match="disk is full"):
        run(client, toy, (2, 9))
    # The other worker ended after the cell that it was at, and entered it.
    assert finished(toy) == {(0, 0), (0, 1), (1, 0)}
    assert toy.noted("compute").count("0:2,6:9") == 0
    # Both are free again.
    toy.order((1, 1), "fine")
    run(client, toy)
    assert finished(toy) == ALL


def test_workers_that_cannot_open_it_are_an_input_error(tmp_path, client):
    toy = Toy(tmp_path)
    (tmp_path / "foreign").touch()
    with pytest.raises(InputError, match=r"the dask worker tcp://.* cannot take part: .* not here"):
        run(client, toy)
    assert finished(toy) == set()


@pytest.mark.timeout(240)
def test_a_worker_that_dies_costs_its_block_and_others_may_come(zygote, tmp_path):
    toy, said = Toy(tmp_path), Said()
    toy.order((1, 1), "die once")
    with running_cluster(zygote, tmp_path / "cluster", 1) as cluster:
        with Client(cluster.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=120)
            threading.Thread(target=replace_the_dead, args=(cluster,)).start()
            run(client, toy, patience=120, said=said)
            assert cluster.workers[0].wait() == -9
        assert finished(toy) == ALL
        assert len(toy.noted("compute")) == len(ALL) + 1
        assert any("was lost; " in line for line in said)

        # The same cluster: a block that kills whoever takes it, until nobody is left.
        toy.order((2, 2), "die")
        (tmp_path / "ledger" / "map" / "2_2.json").unlink()
        with Client(cluster.address, timeout=60, set_as_default=False) as client:
            with pytest.raises(InterruptedRunError, match="no dask worker is left"):
                run(client, toy, patience=2)
            # And the scheduler too.
            cluster.hire()
            toy.order((2, 2), "slow")
            threading.Thread(target=kill_when_slow, args=(toy, cluster)).start()
            with pytest.raises(InterruptedRunError, match="the dask scheduler was lost"):
                run(client, toy, patience=120)


def replace_the_dead(cluster):
    cluster.workers[0].wait()
    cluster.hire()


def kill_when_slow(toy, cluster):
    while not toy.noted("slow"):
        time.sleep(0.1)
    cluster.scheduler.kill()
