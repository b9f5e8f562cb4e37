from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from stitchsafe.engine import Ledger, Silent, load_json, run_once, save_json
from stitchsafe.errors import IntegrityError, StoreError


def test_entries_are_found_again(tmp_path):
    ledger = Ledger(tmp_path / ".stitchsafe" / "ledger")
    ledger.commit("map", {(0, 1): {"checksums": {"a": "00"}}, (2, 0): {}})
    ledger.commit("map", {(1, 1): {}})
    assert ledger.finished("map") == {(0, 1): {"checksums": {"a": "00"}}, (2, 0): {}, (1, 1): {}}
    assert ledger.finished("other") == {}


def test_a_damaged_entry_is_named(tmp_path):
    ledger = Ledger(tmp_path / ".stitchsafe" / "ledger")
    ledger.commit("map", {(0, 1): {}})
    (entry,) = (tmp_path / ".stitchsafe" / "ledger" / "map").iterdir()
    entry.write_text(entry.read_text()[:-9])
    with pytest.raises(IntegrityError, match=r"0_1\.json is damaged"):
        ledger.finished("map")


def test_one_run_at_a_time_and_the_lock_dies_with_its_process(tmp_path):
    folder = tmp_path / "out" / ".stitchsafe" / "ledger"
    script = textwrap.dedent(
        f"""
        import pathlib, time
        from stitchsafe.engine import Ledger
        with Ledger(pathlib.Path({str(folder)!r})):
            print("locked", flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(StoreError, match="another run is writing"), Ledger(folder):
            pass
        other.kill()
    with Ledger(folder):
        pass


def test_leftovers_of_a_killed_write_are_swept(tmp_path):
    folder = tmp_path / ".stitchsafe" / "ledger"
    (folder / "map").mkdir(parents=True)
    leftover = folder / "map" / "0_0.json.123.partial"
    leftover.write_text("half")
    with Ledger(folder) as ledger:
        assert not leftover.exists()
        assert ledger.finished("map") == {}


def test_leftovers_of_killed_chunk_writes_are_swept_but_not_in_what_is_linked(tmp_path):
    """The library behind the arrays calls a chunk so while it writes it."""
    out, ours = tmp_path / "out.zarr", tmp_path / "out.zarr" / "labels" / "0" / "c" / "0"
    theirs = tmp_path / "volume.zarr" / "0"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
        (folder / "1.__lock").write_text("half")
        (folder / "1").write_text("whole")
    (out / "0").symlink_to(theirs)
    with Ledger(out / ".stitchsafe" / "ledger", "part-1-of-2"):
        assert (ours / "1.__lock").exists()  # it may be another part's
    with Ledger(out / ".stitchsafe" / "ledger"):
        assert [path.name for path in ours.iterdir()] == ["1"]
        assert (theirs / "1.__lock").exists()


def test_equal_json_is_equal_bytes_and_no_other_bytes_are_taken_for_it(tmp_path):
    save_json(tmp_path / "a.json", {"b": 1, "a": [1, 2]})
    save_json(tmp_path / "b.json", {"a": [1, 2], "b": 1})
    content = (tmp_path / "a.json").read_bytes()
    assert content == (tmp_path / "b.json").read_bytes()
    assert load_json(tmp_path / "a.json") == {"b": 1, "a": [1, 2]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    others = [content[:at] for at in range(len(content) - 1)]  # the last byte ends the line
    others += [b"[]", b"{}", b"\xff", b"[" * 10**5, content.replace(b"1", b"3", 1)]
    for other in others:
        (tmp_path / "a.json").write_bytes(other)
        with pytest.raises(IntegrityError, match=r"a\.json is damaged"):
            load_json(tmp_path / "a.json")


def test_dropped_cells_are_no_longer_finished_and_others_are(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.commit("map", {(0, n): {"n": n} for n in range(4)})
    ledger.commit("map", {(1, 0): {}})
    ledger.drop("map", [(0, 0), (0, 2)])
    assert ledger.finished("map") == {(0, 1): {"n": 1}, (0, 3): {"n": 3}, (1, 0): {}}
    ledger.commit("map", {(0, 0): {"n": 0}})  # under the name that the entry of all four had
    assert ledger.finished("map").keys() == {(0, 0), (0, 1), (0, 3), (1, 0)}
    (tmp_path / "ledger" / "map" / "1_0.json").write_text("{}")
    assert [place.name for place in ledger.survey("map")[1]] == ["1_0.json"]
    ledger.drop("map", [(0, 3)])  # and what is damaged
    assert ledger.finished("map").keys() == {(0, 0), (0, 1)}
    assert ledger.stages() == ["map"]


def test_a_single_step_is_done_once(tmp_path):
    ledger, calls = Ledger(tmp_path / "l"), []

    def work():
        calls.append(1)
        return {"instances": 3}

    for _ in range(2):
        record = run_once("merge", work, ledger=ledger, events=Silent())
        assert record == {"instances": 3}
    assert len(calls) == 1
