"""Random faults in stored chunks, one at a time: none passes for data."""

from __future__ import annotations

from pathlib import Path

import pytest
from injections import inject, parts_of_input, parts_of_output
from stores import smooth_volume, tiny_model

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.volumes import ArrayStore, open_volume

SHAPE, CHUNKS = (90, 140), (40, 64)
FORMS = {
    "0.5": {"ngff": "0.5"},
    "0.4": {"ngff": "0.4"},
    "shards": {"ngff": "0.5", "chunk_shape": (16, 24)},
    "several files a cell": {"ngff": "0.4", "chunk_shape": (24, 24)},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a checksummed volume: zstd, crc32c."""
    here = tmp_path_factory.mktemp("injections")
    tiny_model(here / "tiny", ndim=2, window=(48, 48), tile=(16, 24))
    array = ArrayStore.create(here / "volume", shape=SHAPE, dtype="uint8", chunks=CHUNKS)
    array.write(Roi.whole(SHAPE), smooth_volume(*SHAPE))
    return here


@pytest.fixture(scope="module", params=FORMS)
def result(request: pytest.FixtureRequest, here: Path) -> ResultStore:
    out = here / f"{request.param}.zarr"
    stitchsafe.predict(
        here / "volume", here / "tiny", out, image="copy", threads=1,
        save=("labels", "fields"), max_memory=10**10, **FORMS[request.param],
    )  # fmt: skip
    return ResultStore.at(out)


def harm_output(result: ResultStore, here: Path, count: int) -> None:
    parts = parts_of_output(result, open_volume(here / "volume"))
    arrays = {part.name.partition(" at ")[0] for part in parts}
    assert len(arrays) == 5, arrays  # image, two fields, labels, their pyramid
    shown = inject(parts, count, seed=count)
    print(f"\n{count} faults in {result.path.name}: {shown}")
    assert shown["refused"] > count / 2
    assert shown["named"] > count / 10  # deleted and swapped chunks are sound in themselves


def harm_input(result: ResultStore, here: Path, count: int) -> None:
    stored = ArrayStore.open(here / "volume")
    chunks = {here / "volume" / name: part for name, part in stored.files(Roi.whole(SHAPE)).items()}
    volume = open_volume(here / "volume")
    shown = inject(parts_of_input(result, volume, here / "tiny", chunks), count, seed=count)
    print(f"\n{count} faults in the input of {result.path.name}: {shown}")
    assert shown["refused"] > count / 2
    assert shown["named"] > count / 10


def test_no_fault_in_the_output_passes_for_data(result: ResultStore, here: Path) -> None:
    harm_output(result, here, 60)


def test_no_fault_in_the_input_passes_for_data(result: ResultStore, here: Path) -> None:
    harm_input(result, here, 30)


@pytest.mark.slow
def test_ten_thousand_faults(result: ResultStore, here: Path) -> None:
    """Over the four forms of an output: 10,000."""
    harm_output(result, here, 2000)
    harm_input(result, here, 500)
