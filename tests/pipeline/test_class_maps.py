"""Class maps across tiles, cells, workers and crashes: the argmax of one pass over the whole."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import tree
from zygote import Zygote

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.networks import TorchNetwork
from stitchsafe.volumes import open_volume

NETWORK = """
import torch
from torch import nn

def classes(ndim=2, count=3):
    '''Pads, pools, and computes with small whole numbers alone: so without any rounding.'''
    conv, pool = ((nn.Conv2d, nn.MaxPool2d), (nn.Conv3d, nn.MaxPool3d))[ndim - 2]
    torch.manual_seed(0)
    made = nn.Sequential(
        conv(1, 4, 3, padding=1), nn.ReLU(), pool(2), conv(4, 4, 3, padding=1),
        nn.Upsample(scale_factor=2), conv(4, count, 3, padding=1),
    )
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.randint(-2, 3, weights.shape))
    return made
"""
namespace: dict = {}
exec(NETWORK, namespace)
OPTIONS = {"threads": 1, "max_memory": 10**10}


@pytest.fixture(autouse=True, scope="module")
def small_windows() -> Iterator[None]:
    """Small cells where no card names any, so that a small volume has many."""
    with mock.patch.dict("stitchsafe.pipeline._planning._WINDOW", {2: 16, 3: 8}):
        yield


def image_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, shape).astype(np.float32)


def whole(image: np.ndarray, count: int = 3) -> np.ndarray:
    """The argmax of one pass."""
    network = namespace["classes"](image.ndim, count).eval()
    with torch.no_grad():
        scores = network(torch.from_numpy(image)[None, None])[0].numpy()
    assert np.abs(scores).max() < 2**24  # every sum is exact
    return scores.argmax(axis=0)


@functools.cache
def analysed(ndim: int, count: int) -> TorchNetwork:
    """The network, which is analysed once."""
    return TorchNetwork(namespace["classes"](ndim, count))


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_tiles_give_the_argmax_of_the_whole(data) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    most = {2: 24, 3: 9}[ndim]
    shape = tuple(2 * data.draw(st.integers(2, most)) for _ in range(ndim))
    tile = tuple(data.draw(st.sampled_from([4, 8])) for _ in range(ndim))
    count = data.draw(st.sampled_from([2, 3, 5]))
    image = image_of(shape, data.draw(st.integers(0, 99)))
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    roi = Roi.from_bounds(begin, [data.draw(st.integers(b + 1, s)) for b, s in
                                  zip(begin, shape, strict=True)])  # fmt: skip
    made = stitchsafe.predict(
        image, analysed(ndim, count), labels_from="argmax", parts=False,
        tile_shape=tile, roi=roi, **OPTIONS,
    )  # fmt: skip
    np.testing.assert_array_equal(made.labels, whole(image, count)[roi.slices])
    assert made.labels.dtype == np.uint8
    assert made.progress.instances is None
    assert made.to_json()["classes"] == count


class Runs:
    """Real runs over one image in one folder."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder, self.zygote = folder, zygote
        self.path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        (folder / "integers.py").write_text(NETWORK)
        np.save(folder / "image.npy", image_of((300, 64)))

    def start(self, out: str, *more: str):
        return self.zygote.start(
            "predict", "image.npy", "-m", "integers:classes", "-o", out, "--axes", "yx",
            "--labels-from", "argmax", "--no-parts", "--tile-shape", "16,16", "--image", "none",
            "--block-shape", "32,32", "--threads", "1", "--max-memory", "10GB", *more,
            cwd=self.folder, window=32, PYTHONPATH=self.path,
        )  # fmt: skip

    def predict(self, out: str, *more: str) -> dict:
        with self.start(out, *more, "--json") as run:
            output, errors = run.communicate()
        assert run.returncode == 0, errors
        return json.loads(output)

    def verify(self, out: str) -> dict:
        done = self.zygote.run(
            "verify", out, "-m", "integers:classes", "--json",
            cwd=self.folder, PYTHONPATH=self.path,
        )  # fmt: skip
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Runs:
    """With a sound result, ``out.zarr``."""
    runs = Runs(tmp_path_factory.mktemp("classes"), zygote)
    values = runs.predict("out.zarr")
    assert (values["instances"], values["classes"]) == (None, 3)
    return runs


@pytest.fixture
def here(runs: Runs) -> Path:
    return runs.folder


def labels_of(out: Path, level: int = 0) -> np.ndarray:
    volume = open_volume(out / "labels" / "instances", level=level)
    return volume.read(Roi.whole(volume.shape))[0]


def test_what_is_stored_is_the_argmax_of_the_whole(here: Path) -> None:
    out = here / "out.zarr"
    expected = whole(np.load(here / "image.npy"))
    np.testing.assert_array_equal(labels_of(out), expected)
    levels = open_volume(out / "labels" / "instances").levels
    assert len(levels) > 1
    for level in levels[1:]:
        steps = [-(-a // b) for a, b in zip(expected.shape, level.shape, strict=True)]
        coarse = expected[tuple(slice(None, None, step) for step in steps)]
        np.testing.assert_array_equal(labels_of(out, level.index), coarse)
    left = {path.name for path in (out / ".stitchsafe").iterdir()}
    assert not left & {"evidence", "merged", "merging", "provisional"}
    stages = {path.name for path in (out / ".stitchsafe" / "ledger").iterdir() if path.is_dir()}
    assert not stages & {"districts", "merge", "instances", "labels"}


def test_it_is_verified_and_mended(runs: Runs) -> None:
    out = Path(shutil.copytree(runs.folder / "out.zarr", runs.folder / "harmed.zarr"))
    assert runs.verify(out.name)["ok"]
    chunk = next(path for path in (out / "labels/instances/0/c").rglob("*") if path.is_file())
    chunk.unlink()
    (out / "labels" / "instances" / "zarr.json").write_bytes(b"{}")
    found = runs.verify(out.name)
    assert not found["ok"]
    assert len(found["corrupt"]) == 2
    runs.predict(out.name, "--repair")
    np.testing.assert_array_equal(labels_of(out), labels_of(runs.folder / "out.zarr"))
    assert runs.verify(out.name)["ok"]


def test_verify_compares_labels_with_the_fields(runs: Runs) -> None:
    """Other classes, entered as if they had been written."""
    from stitchsafe.engine import checksum
    from stitchsafe.instances import ClassSink
    from stitchsafe.pipeline._store import ResultStore
    from stitchsafe.volumes import ArrayStore

    shutil.copytree(runs.folder / "out.zarr", runs.folder / "other.zarr")
    store = ResultStore.at(runs.folder / "other.zarr")
    array, records = ArrayStore.open(store.labels / "0"), store.ledger.finished("predict")
    for index, record in records.items():
        cell = store.recipe().cells.cell_at(index)
        other = (array.read(cell) + 1) % 3
        array.write(cell, other.astype(np.uint8))
        record["checksums"][ClassSink.NAME] = checksum(other.astype(np.uint8))
    store.ledger.drop("predict", list(records))
    with store.ledger as ledger:
        ledger.commit("predict", records)
    assert runs.verify("other.zarr")["label_mismatches"] > 0


def test_parts_give_the_same_bytes(runs: Runs) -> None:
    for part in ("1/2", "2/2"):
        runs.predict("parts.zarr", "--part", part)
    assert tree(runs.folder / "parts.zarr/labels") == tree(runs.folder / "out.zarr/labels")


@pytest.mark.slow
def test_workers_give_the_same_bytes(runs: Runs) -> None:
    runs.predict("workers.zarr", "--workers", "2")
    assert tree(runs.folder / "workers.zarr/labels") == tree(runs.folder / "out.zarr/labels")


def test_a_run_that_was_killed_goes_on(runs: Runs) -> None:
    with runs.start("killed.zarr") as run:
        entries = runs.folder / "killed.zarr" / ".stitchsafe" / "ledger" / "predict"
        while run.poll() is None and not (entries.is_dir() and any(entries.glob("*.json"))):
            time.sleep(0.001)
        run.kill()
    assert runs.predict("killed.zarr")["blocks_resumed"] > 0
    assert tree(runs.folder / "killed.zarr/labels") == tree(runs.folder / "out.zarr/labels")


def test_cells_beside_a_mask_are_background(runs: Runs) -> None:
    mask = np.zeros((300, 64), np.uint8)
    mask[:, :8] = 1
    np.save(runs.folder / "mask.npy", mask)
    assert runs.predict("masked.zarr", "--mask", "mask.npy")["cells_skipped"] == 10
    found, full = (labels_of(runs.folder / name) for name in ("masked.zarr", "out.zarr"))
    np.testing.assert_array_equal(found[:, :32], full[:, :32])
    assert not found[:, 32:].any()


def test_classes_are_exported(here: Path, tmp_path: Path) -> None:
    stitchsafe.export(here / "out.zarr", ["csv", "tiff"], tmp_path)
    labels = labels_of(here / "out.zarr")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), labels)
    with (tmp_path / "out.csv").open() as file:
        rows = {int(row["id"]): int(row["voxels"]) for row in csv.DictReader(file)}
    names, counts = np.unique(labels, return_counts=True)
    assert rows == {int(n): int(c) for n, c in zip(names, counts, strict=True) if n}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--no-parts"], "labels from embeddings are connected parts, and parts is false"),
        (["--no-parts", "--labels-from", "foreground"], "labels from foreground are connected"),
        (["--no-parts", "--labels-from", "argmax", "--min-size", "4"], "a class map has none"),
        (["--no-parts", "--labels-from", "argmax", "--save", "labels,table"], "--save table"),
        (["--no-parts", "--save", "fields"], "--save fields makes none"),
        (["--no-parts", "--labels-from", "argmax", "--arg", "count=1"], "has 1; choose another"),
        (["--labels-from", "argmax", "--arg", "count=1"], "has 1; choose another"),
    ],
)
def test_what_has_no_classes_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys, more: list[str], said: str
) -> None:
    monkeypatch.syspath_prepend(here)
    model = "integers:classes" if "argmax" in more else "disks-2d"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "predict",
                str(here / "image.npy"),
                "-o",
                str(here / "refused.zarr"),
                "-m",
                model,
                *more,
            ]
        )
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert not (here / "refused.zarr").exists()


def test_a_card_may_ask_for_it_and_the_user_for_parts(tmp_path: Path) -> None:
    from stitchsafe.networks import ModelConfig, save_folder
    from stitchsafe.nn import UNet

    arguments = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"classes": 3}}
    config = {
        "format": "stitchsafe-model/1", "name": "kinds", "input": {"axes": "yx"},
        "network": {"name": "unet", "arguments": arguments},
        "outputs": [{"name": "classes", "channels": 3}],
        "labels": {"from": "argmax", "parts": False, "window": [16, 16]},
    }  # fmt: skip
    torch.manual_seed(0)
    save_folder(tmp_path / "kinds", UNet(**arguments), ModelConfig.model_validate(config))
    image = image_of((40, 50))
    classes = stitchsafe.predict(image, tmp_path / "kinds", **OPTIONS)
    assert classes.progress.instances is None
    assert classes.labels.max() <= 2
    parts = stitchsafe.predict(image, tmp_path / "kinds", parts=True, **OPTIONS)
    assert parts.progress.instances == parts.labels.max()
    assert ((parts.labels > 0) == (classes.labels > 0)).all()
    with pytest.raises(InputError, match="--min-size 3 drops instances"):
        stitchsafe.predict(image, tmp_path / "kinds", min_size=3, **OPTIONS)


def test_a_card_that_makes_labels_otherwise_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """What is missing is said, not a setting of other labels that nobody gave."""
    with pytest.raises(InputError, match="need the field 'classes', and nuclei-2d has embedding"):
        stitchsafe.predict(
            np.zeros((64, 64), np.uint8), "nuclei-2d", tmp_path / "out.zarr", labels_from="argmax"
        )
