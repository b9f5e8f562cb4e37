"""What a run remembers of its data: others are refused, the same are found wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from heard import Heard
from labelled_volumes import WINDOW, cells, same, seeded, training, write

from stitchsafe.engine import Events
from stitchsafe.errors import StoreError, VolumeError
from stitchsafe.metrics import Scores
from stitchsafe.training import Examples, TrainingConfig, TrainingWindow, open_examples, train
from stitchsafe.training import _data_record as records
from stitchsafe.training._data_record import DataRecord
from stitchsafe.training._resuming import refuse_another
from stitchsafe.training._validation import open_kept_back

FLAT = TrainingWindow((8, 8), (16, 16), (4, 4), (0, 0))
HALVES = [[0, 12], [0, 40], [0, 36]], [[12, 24], [0, 40], [0, 36]]
SAMPLED = {"sampling": {"instances": 0.5}}


@pytest.fixture(autouse=True)
def _small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that they leave most of these volumes out."""
    monkeypatch.setattr(records, "_SIDE", {2: 4, 3: 4})


def asked(said: dict[str, Any], steps: int = 1, **changes: Any) -> TrainingConfig:
    return training(said, optimiser={"steps": steps}, **changes)


def opened(folder: Path, config: TrainingConfig, events: Events | None = None) -> Examples:
    """Examples of a run beside the data, which remembers them."""
    run = folder.parent / "run"
    run.mkdir(exist_ok=True)
    record = DataRecord.of(run, run, events or Heard())
    window = WINDOW if len(config.window) == 3 else FLAT
    drawn = open_examples(config, window, folder=folder, record=record)
    open_kept_back(config, folder=folder, record=record)
    record.complete()
    record.keep()
    return drawn


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.mark.parametrize("kind", ["npy", "zarr", "h5"])
def test_data_may_move_and_change_their_format(here: Path, kind: str) -> None:
    raw, labels = cells()
    before = opened(here, asked({"sources": [write(here, "npy", raw, labels)]} | SAMPLED))
    there = here.parent / "there"
    there.mkdir()
    moved = write(there, kind, raw, labels)
    shutil.rmtree(here)
    after = opened(there, asked({"sources": [moved]} | SAMPLED))
    assert all(same(before.draw(seeded(step)), after.draw(seeded(step))) for step in range(5))


def test_a_training_goes_on_with_its_data_alone(here: Path) -> None:
    """Wherever they are, in sources and for validation; and it says what differs."""
    raw, labels = cells()
    run, there = here.parent / "run", here.parent / "there"

    def go_on(folder: Path, steps: int, **options: Any) -> int:
        there_is = {key: f"{folder}/{name}" for key, name in named.items()}
        said, rest = ({"sources": [there_is | {"region": part}]} for part in HALVES)
        wish = {"data": {"kind": "volume", **rest}}
        config = asked(said, steps, validation=wish)
        return train(config, run, device="cpu", judge=judge, **options).resumed_from

    named = write(here, "npy", raw, labels)
    assert go_on(here, 1) == 0
    shutil.move(here, there)
    assert go_on(there, 2) == 1
    before = (run / "checkpoint.pt").read_bytes()
    write(there, "npy", raw[::-1], labels)
    with pytest.raises(StoreError, match=r"the voxels of the image are others.*--overwrite"):
        go_on(there, 3)
    assert (run / "checkpoint.pt").read_bytes() == before
    assert go_on(there, 1, overwrite=True) == 0
    assert str(here.parent) not in (run / ".stitchsafe" / "data.json").read_text()


def judge(*_: Any) -> Scores:
    return Scores(0.2, 1, 1, 1.0, 3.0, {0.5: 0.4}, 1, 1)


def another_shape(raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return raw[:-1], labels[:-1]


def another_type(raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return raw.astype(np.uint16), labels


def another_image(raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return raw[::-1], labels


def one_other_voxel(raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    raw[6, 8, 8] += 1
    return raw, labels


def one_other_label(raw: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels[6, 8, 8] = 99
    return raw, labels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_shape, r"shape is \[23, 40, 36\], and was \[24, 40, 36\]"),
        (another_type, "image's type is uint16, and was uint8"),
        (another_image, "the voxels of the image are others"),
        (one_other_voxel, "the intensities of the image are others"),
        (one_other_label, "the instances of the labels lie elsewhere"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_other_data_are_refused_by_name(here: Path, change: Any, words: str, several: bool) -> None:
    said: dict[str, Any] = write(here, "npy", *cells())
    if several:
        (here / "b").mkdir()
        other = write(here / "b", "npy", *cells(seed=1))
        said = {"sources": [{key: f"b/{value}" for key, value in other.items()}, said]}
    opened(here, asked(said | SAMPLED))
    write(here, "npy", *change(*cells()))
    with pytest.raises(StoreError, match=words) as refused:
        opened(here, asked(said | SAMPLED))
    message = str(refused.value)
    assert str(here / "labels.npy") in message
    assert "--overwrite" in message
    assert "\n" not in message


def test_other_data_to_be_judged_by_are_refused(here: Path) -> None:
    said = write(here, "npy", *cells())
    (here / "b").mkdir()
    other = {key: f"b/{name}" for key, name in write(here / "b", "npy", *cells(seed=1)).items()}
    config = asked(said, validation={"data": {"kind": "volume", **other}})
    opened(here, config)
    opened(here, config)
    write(here / "b", "npy", *cells(seed=2))
    with pytest.raises(StoreError, match=r"b/labels.npy is not the one"):
        opened(here, config)


def test_images_that_have_come_or_gone_are_noticed(here: Path) -> None:
    for name in "abc":
        image = np.zeros((24, 24), dtype=np.uint8)
        image[4:9, 4:9] = 200 + ord(name) - 97
        np.savez(here / f"{name}.npz", image=image, labels=(image > 0).astype(np.int32))
    config = asked({"kind": "images", "path": ".", "keep_back": None}, axes="yx")
    opened(here, config)
    opened(here, config)
    shutil.move(here / "c.npz", here / "c")
    with pytest.raises(StoreError, match=r"there are 2 labelled volumes, and .* 3 so far"):
        opened(here, config)
    shutil.move(here / "c", here / "c.npz")
    shutil.copy(here / "c.npz", here / "d.npz")
    with pytest.raises(StoreError, match="at least 4 labelled volumes"):
        opened(here, config)


def test_what_is_known_of_data_is_not_read_once_more(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, labels = cells()
    said = write(here, "npy", raw, labels.astype(np.int32)) | SAMPLED
    read: list[str] = []
    for name in ("measured", "has_instance", "take_census"):
        real = getattr(records, name)
        monkeypatch.setattr(
            records, name, lambda *given, name=name, real=real: read.append(name) or real(*given)
        )
    first = opened(here, asked(said))
    assert sorted(set(read)) == ["has_instance", "measured", "take_census"]
    read.clear()
    second = opened(here, asked(said))
    assert read == []
    assert all(same(first.draw(seeded(step)), second.draw(seeded(step))) for step in range(5))
    (here.parent / "run" / "census.npz").write_bytes(b"torn")
    opened(here, asked(said))
    assert read == ["take_census"]
    (here / "image.npy").touch()
    opened(here, asked(said))
    assert set(read) == {"has_instance", "measured", "take_census"}


def test_a_damaged_record_is_named(here: Path) -> None:
    said = write(here, "npy", *cells())
    opened(here, asked(said))
    (here.parent / "run" / "data.json").write_text("[{")
    with pytest.raises(StoreError, match=r"data\.json.* is damaged; remove it"):
        opened(here, asked(said))


def test_reading_a_large_volume_is_told_of(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = asked(write(here, "npy", *cells()) | SAMPLED)
    quiet = Heard()
    open_examples(config, WINDOW, folder=here, events=quiet)
    assert "reading" not in quiet
    monkeypatch.setattr(records, "_LARGE_BYTES", 1000)
    counted: dict[str, list[int]] = {}

    class Counting(Heard):
        def stage(self, name: str, total: int, unit: str) -> None:
            counted[name] = [total]

        def advance(self, count: int = 1) -> None:
            counted[list(counted)[-1]].append(count)

    heard = Counting()
    open_examples(config, WINDOW, folder=here, events=heard)
    assert "image.npy for its intensities, once for a run" in heard
    for name in ("intensities", "instances"):
        total, *parts = counted[f"reading for its {name}"]
        assert total == sum(parts) == 24 * 40 * 36


def test_labels_that_become_negative_are_refused_with_what_to_do(here: Path) -> None:
    raw, labels = cells()
    signed = labels.astype(np.int32)
    opened(here, asked(write(here, "npy", raw, signed)))
    signed[10, 10, 10] = -1
    said = write(here, "npy", raw, signed)
    with pytest.raises(VolumeError, match=r"at voxel 10,10,10 .*say ignore: -1"):
        opened(here, asked(said))
    run = here.parent / "run"
    (run / "train.yaml").write_text(yaml.safe_dump(asked(said).model_dump(mode="json")))
    with pytest.raises(StoreError, match=r"\(data\.ignore is -1, and was not given\).*--overwrite"):
        refuse_another(run, asked(said | {"ignore": -1}))
