"""Whatever file of a result is harmed: verify says so, and predict --repair makes it good."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from stores import content_of, edit_json, smooth_volume, tiny_model, tree

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import InputError, IntegrityError, InterruptedRunError, StoreError

OPTIONS = {
    "threads": 1, "max_memory": 10**10, "save": ("labels", "fields", "table"), "image": "copy",
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a volume and a sound result of it: six cells, a pyramid, a table."""
    here = tmp_path_factory.mktemp("sound")
    tiny_model(here / "tiny", ndim=2, window=(48, 48), tile=(24, 48))
    np.save(here / "volume.npy", smooth_volume(90, 140))
    predict(here)
    return here


def predict(here: Path, out: Path | None = None, **more) -> stitchsafe.pipeline.Prediction:
    place = here / "out.zarr" if out is None else out
    return stitchsafe.predict(here / "volume.npy", here / "tiny", place, **{**OPTIONS, **more})


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    """A copy of the result, to be harmed."""
    return Path(shutil.copytree(sound / "out.zarr", tmp_path / "out.zarr"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(97))


HARMS = (flip, truncate, garbage, Path.unlink)

HANG_ON = ("/finish/.json", "embedding/0/zarr.json", "foreground/0/zarr.json")
"""What all cells hang on: it says that scratch is gone, or how an array is to be read."""


def files_of(sound: Path) -> list[str]:
    """All but the lock, which holds nothing."""
    return [name for name in tree(sound / "out.zarr") if not name.endswith("/lock")]


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_files_are_known_to_verify(sound: Path, out: Path, step: int) -> None:
    """Each file of the result in turn, harmed in one of four ways: never verified, no traceback."""
    names = files_of(sound)
    assert len(names) > 60
    names = names[::step]
    for name, harm in zip(names, itertools.cycle(HARMS), strict=False):
        before = (out / name).read_bytes()
        harm(out / name)
        assert not holds(out), f"{harm.__name__} of {name} is not found"
        (out / name).write_bytes(before)
    assert holds(out)


def holds(out: Path) -> bool:
    try:
        return stitchsafe.verify(out, cells=1).ok
    except StoreError as error:
        return "is not a result of stitchsafe" not in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_every_file_is_found_and_repaired(sound: Path, tmp_path: Path, harm) -> None:
    straight = content_of(sound / "out.zarr")
    for number, name in enumerate(files_of(sound)):
        out = tmp_path / f"{number}.zarr"
        shutil.copytree(sound / "out.zarr", out)
        harm(out / name)
        assert not holds(out), name
        made = predict(sound, out, repair=True)
        assert content_of(out) == straight, name
        assert stitchsafe.verify(out, cells=1).ok, name
        again = made.progress.blocks_total - made.progress.blocks_resumed
        assert again <= (made.progress.blocks_total if name.endswith(HANG_ON) else 1), name
        shutil.rmtree(out)


def test_what_is_damaged_is_done_again_and_nothing_else(sound: Path, out: Path) -> None:
    straight = content_of(out)
    flip(out / "fields/foreground/0/c/0/0/1")
    truncate(out / ".stitchsafe/evidence/1_0.npz")
    for name in ("labels/instances/0/c/1/2", "labels/instances/1/c/0/0", "0/c/0/0/0",
                 "labels/instances/1/zarr.json", "zarr.json", ".stitchsafe/schedule.json",
                 ".stitchsafe/ledger/create labels/.json"):  # fmt: skip
        (out / name).unlink()
    garbage(out / "labels/zarr.json")
    flip(out / ".stitchsafe/consensus.json")
    flip(out / ".stitchsafe/merged/0_0.npz")
    flip(out / ".stitchsafe/ledger/predict/1_1.json")
    flip(out / "instances.csv")
    found = stitchsafe.verify(out)
    assert len(found.corrupt) == 13, found.describe()
    assert found.missing == ("predict of cell 48:90,48:96", "create labels")
    assert found.repairable
    assert "--repair" in found.describe()
    untouched = out / "labels/instances/0/c/0/1"
    written = untouched.stat().st_mtime_ns
    made = predict(sound, out, repair=True)
    assert made.progress.blocks_total - made.progress.blocks_resumed == 3
    assert content_of(out) == straight
    assert untouched.stat().st_mtime_ns == written
    assert stitchsafe.verify(out).ok


@pytest.mark.usefixtures("quick_workers")
def test_other_blocks_and_workers_repair_the_same(sound: Path, out: Path) -> None:
    straight = content_of(out)
    for name in ("labels/instances/0/c/0/2", "fields/embedding/0/c/1/1/0"):
        (out / name).unlink()
    predict(sound, out, repair=True, block_shape=(96, 96), workers=2, threads=1)
    assert content_of(out) == straight


def test_repair_is_refused_where_it_cannot_help(sound: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to repair"):
        predict(sound, tmp_path / "none.zarr", repair=True)
    assert not (tmp_path / "none.zarr").exists()
    with pytest.raises(InputError, match="one of them"):
        predict(sound, out, repair=True, overwrite=True)
    # A single voxel, where no cell is looked at before a run goes on.
    volume = np.load(sound / "volume.npy")
    volume[0, 0] ^= 1
    np.save(tmp_path / "volume.npy", volume)
    shutil.copytree(sound / "tiny", tmp_path / "tiny")
    (out / "labels/instances/0/c/0/0").unlink()
    before = content_of(out)
    with pytest.raises(StoreError, match=r"has changed since|other values than were read"):
        predict(tmp_path, out, repair=True)
    assert content_of(out) == before


def half_done(sound: Path, out: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """A run that ended just before a stage."""
    from stitchsafe.engine import _runner
    from stitchsafe.pipeline import _stages

    def stopped(name: str, **more) -> object:
        if name == stage:
            raise InterruptedRunError("stopped")
        return _runner.run_blocks(name, **more)

    with monkeypatch.context() as patch:
        patch.setattr(_stages, "run_blocks", stopped)
        with pytest.raises(InterruptedRunError, match="stopped"):
            predict(sound, out)


@pytest.mark.parametrize(
    ("stage", "harm"),
    [
        ("labels", lambda out: (out / ".stitchsafe/provisional/c/0/1").unlink()),
        ("labels", lambda out: flip(out / ".stitchsafe/provisional/c/1/1")),
        ("pyramid 1", lambda out: (out / "labels/instances/0/c/0/1").unlink()),
        ("pyramid 1", lambda out: truncate(out / "labels/instances/0/c/1/0")),
        ("labels", lambda out: flip(out / ".stitchsafe/merged/0_0.npz")),
        ("labels", lambda out: (out / ".stitchsafe/ledger/predict/0_1.json").write_text("{}")),
    ],
)
def test_no_stage_builds_on_what_was_damaged_meanwhile(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str,
    harm: Callable[[Path], None],
) -> None:  # fmt: skip
    """Damage between two runs, to what the next stage reads: said, and mended by --repair."""
    out = tmp_path / "out.zarr"
    half_done(sound, out, monkeypatch, stage)
    harm(out)
    with pytest.raises((InterruptedRunError, IntegrityError), match="--repair"):
        predict(sound, out)
    predict(sound, out, repair=True)
    assert content_of(out) == content_of(sound / "out.zarr")


def test_partial_statistics_that_are_damaged_are_taken_again(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stitchsafe.engine import Ledger
    from stitchsafe.volumes import _statistics

    class Stopped(BaseException):
        pass

    monkeypatch.setattr(_statistics, "_PORTION_VOXELS", 2000)
    out, commit = tmp_path / "out.zarr", Ledger.commit

    def stop(ledger: Ledger, stage: str, records: dict) -> None:
        if stage == "settle 1":
            raise Stopped
        commit(ledger, stage, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", stop)
        with pytest.raises(Stopped):
            predict(sound, out)
    tallies = sorted((out / ".stitchsafe/statistics/1").iterdir())
    assert len(tallies) > 4
    flip(tallies[1])
    tallies[3].unlink()
    predict(sound, out)
    consensus = (out / ".stitchsafe/consensus.json").read_bytes()
    assert consensus == (sound / "out.zarr/.stitchsafe/consensus.json").read_bytes()
    assert not (out / ".stitchsafe/statistics").exists()
    assert stitchsafe.verify(out, cells=1).ok


def test_verify_answers_in_json_whatever_is_damaged(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recipe.json", "consensus.json", "ledger/predict/0_0.json"):
        path = out / ".stitchsafe" / name
        before = path.read_bytes()
        truncate(path)
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(out), "--json", "--quiet"])
        assert ended.value.code == 1
        answer = json.loads(capsys.readouterr().out)
        assert answer["ok"] is False
        assert any(name in place for place in answer["corrupt"])
        assert answer["repairable"] is True
        path.write_bytes(before)


RECIPES = ("recipe.json", "recipe-copy.json")


@pytest.mark.parametrize(("name", "harm"), [*zip(RECIPES, HARMS[::3], strict=True)])
def test_either_record_of_the_recipe_suffices(sound: Path, out: Path, name: str, harm) -> None:
    straight, path = content_of(out), out / ".stitchsafe" / name
    harm(path)
    found = stitchsafe.verify(out, cells=1)
    assert [place.partition(": ")[0] for place in found.corrupt] == [str(path)]
    assert found.repairable
    heard = Heard()
    made = predict(sound, out, events=heard)  # goes on by the other, and mends it
    assert f"written anew from the other record: {path}: is" in heard
    assert made.progress.blocks_resumed == made.progress.blocks_total
    assert content_of(out) == straight
    harm(path)
    predict(sound, out, repair=True)
    assert content_of(out) == straight
    assert stitchsafe.verify(out, cells=1).ok


def test_a_copy_of_another_recipe_is_named(sound: Path, out: Path) -> None:
    straight, copy = content_of(out), out / ".stitchsafe/recipe-copy.json"
    edit_json(copy, lambda stored: stored.update(source="elsewhere.npy"))
    found = stitchsafe.verify(out, cells=1)
    assert found.corrupt == (f"{copy}: is not what was written",)
    predict(sound, out, repair=True)
    assert content_of(out) == straight


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_result_without_any_record_of_its_recipe(
    sound: Path, out: Path, harm, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can be proved of it; it stays until someone says that it shall be replaced."""
    straight = content_of(out)
    for name in RECIPES:
        harm(out / ".stitchsafe" / name)
    harmed = content_of(out)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(out), "--json", "--quiet"])
    assert ended.value.code == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["repairable"] is False
    assert "recipe.json is" in answer["corrupt"][0]
    for more in ({}, {"repair": True}, {"min_size": 5}, {"part": "1/2"}):
        with pytest.raises((StoreError, IntegrityError), match=r"recipe\.json .*--overwrite"):
            predict(sound, out, **more)
        assert content_of(out) == harmed
    predict(sound, out, overwrite=True)
    assert content_of(out) == straight


def test_an_unfinished_run_whose_recipe_is_gone(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells are finished work already; what comes before them is not."""
    out = tmp_path / "out.zarr"
    half_done(sound, out, monkeypatch, "labels")
    for name in RECIPES:
        (out / ".stitchsafe" / name).unlink()
    with pytest.raises(StoreError, match="recipe that it was made by is gone"):
        predict(sound, out)
    shutil.rmtree(out)
    half_done(sound, out, monkeypatch, "predict")
    (out / ".stitchsafe/recipe.json").unlink()  # as a part withdraws it, killed half-way
    predict(sound, out)
    assert content_of(out) == content_of(sound / "out.zarr")


def test_a_kill_while_a_result_is_cleared(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it strikes, there is no ledger without a recipe, and the place is still ours."""
    from stitchsafe.pipeline._store import ResultStore
    from stitchsafe.volumes import Place

    class Killed(BaseException):
        pass

    remove, steps = Place.remove, 0
    while True:
        here = Path(shutil.copytree(out, tmp_path / f"{steps}.zarr"))
        left = steps

        def strike(place: Place) -> None:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            remove(place)

        with monkeypatch.context() as patch:
            patch.setattr(Place, "remove", strike)
            try:
                ResultStore.at(here).clear()
                break
            except Killed:
                pass
        store = ResultStore.at(here)
        store.refuse_lost_recipe()
        store.refuse_foreign()
        store.refuse_to_replace_others()
        steps += 1
    assert steps > 4
    assert not here.exists()


def test_an_entry_in_another_ones_place(out: Path) -> None:
    """Entries are sound in themselves; swapped, they are not what they should be."""
    ledger = out / ".stitchsafe/ledger/labels"
    one, other = ledger / "0_0.json", ledger / "1_1.json"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert not holds(out)
    edit_json(one, lambda entry: entry.update(stage="predict"))
    assert not holds(out)
