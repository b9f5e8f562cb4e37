"""The memory that real runs take, against what was predicted and what was given."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from stores import tiny_model

from stitchsafe.coordinates import Roi, grid_cells
from stitchsafe.volumes import ArrayStore


class Watch(threading.Thread):
    """Largest resident memory of a process and of each that it starts.

    Whether two workers are at their worst in the same moment is chance; that they may be is what
    a prediction has to allow for. So each one's own peak counts.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.peaks: Counter[int] = Counter()

    @property
    def peak(self) -> int:
        return self.peaks.total()

    def run(self) -> None:
        family, looked = [self.process], 0.0
        while True:
            try:
                # To look for children goes through all processes of the machine, and a worker
                # has to import torch before it can take much.
                if time.monotonic() - looked > 0.5:
                    family = [self.process, *self.process.children(recursive=True)]
                    looked = time.monotonic()
                for each in family:
                    resident = each.memory_info().rss
                    self.peaks[each.pid] = max(self.peaks[each.pid], resident)
            except psutil.NoSuchProcess:
                family, looked = [self.process], 0.0
                if not self.process.is_running():
                    return
            time.sleep(0.01)


def predict(here: Path, *words: str) -> tuple[dict[str, Any], int]:
    """The answer of the real command in a process of its own, and the memory that it took."""
    return watched(here, "predict", *words, "-o", "out.zarr", "--overwrite", "--threads", "1")


def watched(here: Path, *words: str) -> tuple[dict[str, Any], int]:
    command = [sys.executable, "-m", "stitchsafe", *words, "--json", "--quiet"]
    with subprocess.Popen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = Watch(process.pid)
        watch.start()
        out, error = process.communicate()
    assert process.returncode in (0, 1), error  # 1: done, and seams were found
    return json.loads(out), watch.peak


def bumps(path: Path, *shape: int, chunk: int) -> None:
    volume = ArrayStore.create(path, shape=shape, dtype="float32", chunks=(chunk,) * len(shape))
    for cell in grid_cells(Roi.whole(shape), (chunk,) * len(shape)):
        waves = np.ix_(
            *[np.sin(0.2 * np.arange(o, o + s)) for o, s in zip(*_of(cell), strict=True)]
        )
        product = np.ones(cell.shape)
        for wave in waves:
            product = product * wave
        volume.write(cell, product.astype(np.float32))


def _of(cell: Roi) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return cell.offset, cell.shape


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    bumps(folder / "solid.zarr", 64, 64, 128, chunk=64)
    bumps(folder / "flat.zarr", 512, 1024, chunk=256)
    wide = {"base_channels": 24, "growth": 1, "normalize": "percentile"}
    tiny_model(folder / "solid", ndim=3, window=(64, 64, 64), **wide)
    tiny_model(folder / "flat", ndim=2, window=(512, 512), **{**wide, "base_channels": 48})
    # Networks so small that what the clustering of a window takes decides.
    bumps(folder / "large.zarr", 160, 160, 160, chunk=80)
    for name, growth in (("cells", {}), ("grown", {"growth_threshold": 0.2})):
        labels = {"bandwidth": 8.0, **growth}
        shapes = {"window": (160,) * 3, "tile": (40,) * 3, "normalize": "none", "labels": labels}
        tiny_model(folder / name, ndim=3, **shapes)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("solid.zarr", "-m", "solid", "--save", "fields"), marks=pytest.mark.slow),
        pytest.param(
            ("solid.zarr", "-m", "solid", "--save", "fields", "--precision", "bf16"),
            marks=pytest.mark.slow,
        ),
        ("solid.zarr", "-m", "solid", "--save", "fields", "--workers", "2"),
        pytest.param(
            ("solid.zarr", "-m", "solid", "--labels-from", "foreground"), marks=pytest.mark.slow
        ),
        ("large.zarr", "-m", "cells"),
        ("large.zarr", "-m", "grown"),
        ("large.zarr", "-m", "cells", "--clusters", "volume"),
        pytest.param(
            ("large.zarr", "-m", "cells", "--labels-from", "foreground"), marks=pytest.mark.slow
        ),
        pytest.param(("flat.zarr", "-m", "flat", "--save", "fields"), marks=pytest.mark.slow),
        pytest.param(
            ("flat.zarr", "-m", "flat", "--labels-from", "foreground"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda words: " ".join(words[2:]),
)
def test_a_run_takes_what_was_predicted(here: Path, words: tuple[str, ...]) -> None:
    answer, peak = predict(here, *words, "--max-memory", "8GB")
    predicted = answer["plan"]["memory"]
    print(f"{peak / predicted['peak']:.3f} of", predicted)
    assert 0.8 <= peak / predicted["peak"] <= 1.0
    assert abs(answer["peak_memory_bytes"] - peak) <= 0.1 * peak  # and it knows what it took


def test_chunks_that_are_larger_than_what_is_read_of_them_count(here: Path) -> None:
    """130 MB have to be decoded for a region of 0.3 MB."""
    shape = (64, 1000, 1000)
    volume = ArrayStore.create(here / "chunky.zarr", shape=shape, dtype="uint16", chunks=shape)
    noise = np.random.default_rng(0).integers(0, 512, shape, dtype=np.uint16)
    volume.write(Roi.whole(shape), noise)
    words = ("--roi", "0:32,0:64,0:64", "--save", "fields", "--max-memory", "2GB",
             "--normalize", "percentile")  # fmt: skip
    answer, peak = predict(here, "chunky.zarr", "-m", "cells", "--tile-shape", "32,64,64", *words)
    predicted = answer["plan"]["memory"]
    print(f"{peak / predicted['peak']:.3f} of", predicted)
    assert 0.8 <= peak / predicted["peak"] <= 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    """A volume and one 64 times as large, most of whose chunks were never written."""
    tiny_model(tmp_path / "tiny", ndim=3, window=(64, 64, 64), normalize="none")
    peaks = []
    for side in (128, 512):
        volume = ArrayStore.create(
            tmp_path / f"{side}.zarr", shape=(side,) * 3, dtype="uint8", chunks=(64,) * 3
        )
        corner = np.random.default_rng(0).integers(0, 255, (64,) * 3)
        volume.write(Roi((64,) * 3, (64,) * 3), corner.astype(np.uint8))
        words = (f"{side}.zarr", "-m", "tiny", "--labels-from", "foreground")
        peaks.append(predict(tmp_path, *words, "--max-memory", "8GB")[1])
    print(peaks)
    assert peaks[1] <= 1.05 * peaks[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_measuring_seams_takes_what_was_given(tmp_path: Path) -> None:
    """Of a volume that fits into a block, one 27 times as large, and one of small cells."""
    peaks = {}
    for side, cell in ((96, 64), (288, 64), (192, 8)):
        for name, shape in (("labels", (side,) * 3), ("field", (2, *(side,) * 3))):
            volume = ArrayStore.create(
                tmp_path / f"{name}-{side}-{cell}.zarr",
                shape=shape,
                dtype="uint32" if name == "labels" else "float32",
                chunks=(*shape[:-3], 48, 48, 48),
                dimension_names="czyx"[-len(shape) :],
            )
            corner = np.random.default_rng(0).integers(0, 255, (*shape[:-3], 48, 48, 48))
            volume.write(Roi((0,) * len(shape), corner.shape), corner.astype(volume.dtype))
        words = (f"labels-{side}-{cell}.zarr", "--field", f"field-{side}-{cell}.zarr")
        grid = ",".join([str(cell)] * 3)
        given = ("--grid", grid, "--max-memory", "128MB", "--html", "report.html")
        answer, peaks[side, cell] = watched(tmp_path, "seams", *words, *given)
        assert answer["faces"]
        assert (tmp_path / "report.html").stat().st_size < 2_000_000
    print(peaks)
    most = peaks.pop((96, 64)) + 128_000_000
    assert all(peak <= most for peak in peaks.values())
