"""verify finds what is wrong with a result, and says where."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from stores import edit_json, smooth_volume, tiny_model, tree

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import ModelError, StoreError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a volume and a sound result of it, with a pyramid."""
    here = tmp_path_factory.mktemp("sound")
    tiny_model(here / "tiny", ndim=2, window=(48, 48), tile=(16, 24))
    np.save(here / "volume.npy", smooth_volume(90, 140))
    stitchsafe.predict(
        here / "volume.npy", here / "tiny", here / "out.zarr", image="copy", threads=1,
        save=("labels", "fields", "table"), max_memory=10**10,
    )  # fmt: skip
    return here


@pytest.fixture
def here(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed; the volume and the model stay where they were."""
    shutil.copytree(sound / "out.zarr", tmp_path / "out.zarr")
    return tmp_path


def test_a_sound_result(sound: Path, here: Path) -> None:
    before = tree(here)
    found = stitchsafe.verify(here / "out.zarr")
    assert found.ok, found.describe()
    assert (found.missing, found.corrupt) == ((), ())
    assert (found.bit_mismatches, found.label_mismatches) == (0, 0)
    assert found.voxels == 6 * 64
    assert found.max_abs_diff <= found.tolerance
    assert tree(here) == before  # looking changes nothing


def flip(path: Path, at: int = -9) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


CHUNKS = {
    "labels/instances/0/c/1/2": "labels/instances/0 at 48:90,96:140",
    "labels/instances/1/c/0/1": "labels/instances/1 at 0:48,48:70",
    "fields/foreground/0/c/0/0/1": "fields/foreground/0 at 0:48,48:96",
    "0/c/0/1/0": "out.zarr/0 at 48:90,0:48",
}


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_chunk_that_is_damaged_or_gone(here: Path, chunk: str, harm) -> None:
    path = here / "out.zarr" / chunk
    harm(path)
    found = stitchsafe.verify(here / "out.zarr", cells=1)
    assert not found.ok
    (place,) = found.corrupt
    assert CHUNKS[chunk] in place
    assert found.missing == ()
    assert "NOT verified" in found.describe()


@pytest.mark.parametrize(
    "name",
    [".stitchsafe/samples/0_1.npz", ".stitchsafe/evidence/1_0.npz", ".stitchsafe/merged/0_0.npz",
     "instances.csv"],
)  # fmt: skip
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_file_that_is_damaged_or_gone(here: Path, name: str, harm) -> None:
    harm(here / "out.zarr" / name)
    found = stitchsafe.verify(here / "out.zarr")
    assert any(name in place for place in found.corrupt), found.describe()


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ("predict/0_1.json", "predict of cell 0:48,48:96"),
        ("labels/1_2.json", "labels of cell 48:90,96:140"),
        ("merge/0_0.json", "merge of cell 0:90,0:140"),
        ("instances/.json", "instances"),
    ],
)
def test_an_entry_that_is_gone_is_missing(here: Path, entry: str, place: str) -> None:
    (here / "out.zarr" / ".stitchsafe" / "ledger" / entry).unlink()
    found = stitchsafe.verify(here / "out.zarr", cells=1)
    assert found.missing == (place,)
    assert not found.ok
    assert found.corrupt == ()


def test_labels_are_not_blamed_for_what_merging_has_lost(here: Path) -> None:
    shutil.rmtree(here / "out.zarr" / ".stitchsafe" / "ledger" / "districts")
    found = stitchsafe.verify(here / "out.zarr")
    assert "districts" in found.missing
    assert found.label_mismatches == 0
    assert not found.ok


def test_the_command_ends_with_code_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(here / "out.zarr" / "labels/instances/0/c/0/0")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(here / "out.zarr"), "--json", "--quiet"])
    assert ended.value.code == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "0:48,0:48" in answer["corrupt"][0]


def rewrite_samples(store: Path, index: str, change) -> None:
    """Other recorded voxels, entered as if they had been predicted so."""
    path = store / ".stitchsafe" / "samples" / f"{index}.npz"
    with np.load(path) as record:
        arrays = dict(record)
    change(arrays)
    np.savez(path, **arrays)
    (entry,) = (store / ".stitchsafe/ledger/predict").glob(f"{index}.json")
    enter(entry, "samples", f"{zlib.crc32(path.read_bytes()):08x}")


def enter(entry: Path, name: str, checksum: str) -> None:
    """Enter another checksum for the one cell of an entry."""
    edit_json(entry, lambda all_: all_["cells"][0]["record"]["checksums"].update({name: checksum}))


def test_voxels_that_were_predicted_off_the_lattice(here: Path) -> None:
    """What tiles off the lattice give: the field of a volume that is shifted by one voxel."""
    store = here / "out.zarr"

    def off_the_lattice(arrays: dict[str, np.ndarray]) -> None:
        arrays["field_embedding"] = np.roll(arrays["field_embedding"], 1, axis=1)

    rewrite_samples(store, "1_1", off_the_lattice)
    found = stitchsafe.verify(store)
    assert found.corrupt == ()
    assert found.bit_mismatches > 50
    assert found.max_abs_diff > found.tolerance
    assert not found.ok


def test_the_last_bit_of_one_voxel(here: Path) -> None:
    def nudge(arrays: dict[str, np.ndarray]) -> None:
        values = arrays["field_embedding"]
        values[0, 7] = np.nextafter(values[0, 7], np.float32(np.inf))

    rewrite_samples(here / "out.zarr", "0_2", nudge)
    found = stitchsafe.verify(here / "out.zarr")
    assert 1 <= found.bit_mismatches <= 2  # positions are drawn, and may be drawn twice
    assert found.max_abs_diff <= found.tolerance


def test_labels_that_do_not_come_out_again(here: Path) -> None:
    """Wrong labels that were entered in the ledger as they are."""
    from stitchsafe.engine import checksum
    from stitchsafe.volumes import ArrayStore

    array = ArrayStore.open(here / "out.zarr" / "labels/instances/0")
    cell = stitchsafe.Roi((0, 0), (48, 48))
    labels = array.read(cell)
    labels[10, 20:25] = labels.max() + 1
    array.write(cell, labels)
    entry = here / "out.zarr/.stitchsafe/ledger/labels/0_0.json"
    enter(entry, "labels", checksum(labels))
    found = stitchsafe.verify(here / "out.zarr")
    assert found.label_mismatches == 5
    assert not found.ok


def test_other_weights_and_volumes_are_refused(sound: Path, here: Path) -> None:
    shutil.copytree(sound / "tiny", here / "tiny")
    assert stitchsafe.verify(here / "out.zarr", model=here / "tiny", cells=1).ok
    weights = load_file(here / "tiny" / "weights.safetensors")
    next(iter(weights.values())).reshape(-1)[0] += 1e-3
    save_file(weights, here / "tiny" / "weights.safetensors")
    with pytest.raises(ModelError, match="weights of tiny are not those of the recipe"):
        stitchsafe.verify(here / "out.zarr", model=here / "tiny")
    with pytest.raises(StoreError, match="is not the one that the result was made of"):
        stitchsafe.verify(here / "out.zarr", volume=smooth_volume(90, 141))


def test_a_volume_that_has_changed(sound: Path, here: Path) -> None:
    volume = np.load(sound / "volume.npy")
    volume[60, 100] ^= 1
    np.save(here / "volume.npy", volume)
    found = stitchsafe.verify(here / "out.zarr", volume=here / "volume.npy", cells=1)
    # Named where the statistics were taken, and where the cell was predicted.
    places = [place.partition(": ")[0] for place in found.corrupt]
    assert places == [f"{here}/volume.npy at {at}" for at in ("0:90,0:140", "48:90,96:140")]
    assert not found.repairable
    assert "--overwrite" in found.describe()


def test_a_recipe_that_was_edited(here: Path) -> None:
    path = here / "out.zarr" / ".stitchsafe" / "recipe.json"
    path.write_text(path.read_text().replace('"border": "reflect"', '"border": "edge"'))
    found = stitchsafe.verify(here / "out.zarr")
    assert not found.ok
    assert found.repairable  # from its copy
    assert found.corrupt == (f"{path}: is damaged",)


def test_a_run_that_was_not_finished(here: Path) -> None:
    for stage in ("labels", "pyramid 1", "finish"):
        shutil.rmtree(here / "out.zarr" / ".stitchsafe" / "ledger" / stage, ignore_errors=True)
    found = stitchsafe.verify(here / "out.zarr", cells=1)
    assert len(found.missing) >= 6
    assert "the same predict command" in found.describe()
