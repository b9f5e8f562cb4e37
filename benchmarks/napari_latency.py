"""How long napari's window stands still on a result of more than 10 GB, and how long it opens.

Makes a result of an image, labels with their pyramid and a field, of which every shard is one file
that has many names: so it is read and decoded like any other, and takes some hundred MB of a disk.
Then it is opened as a user opens it, and looked at, while a timer that should tick every 5 ms tells
how long the thread of the window was kept from it. With no screen, run it by xvfb-run::

    python benchmarks/napari_latency.py --size 1024 --repeats 9 [--async] [--store DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK, _SHARD, _TILE, _CHANNELS = 64, 256, 64, 3
_TICK = 0.005


def make_store(root: Path, size: int) -> Path:
    """A result of `size` voxels along each axis: 17 bytes for each voxel."""
    from stitchsafe.coordinates import Roi
    from stitchsafe.volumes import (
        VoxelSize,
        create_field,
        create_image,
        create_labels,
        pyramid_levels,
    )

    out = root / f"large-{size}.zarr"
    if (out / ".stitchsafe" / "recipe.json").is_file():
        return out
    shape, voxel = (size,) * 3, VoxelSize((10.0, 10.0, 10.0), "nanometer")
    levels = pyramid_levels(shape, voxel_size=voxel)
    shared = {"axes": "zyx", "chunks": (_CHUNK,) * 3, "shards": (_SHARD,) * 3, "voxel_size": voxel}
    generator = np.random.default_rng(0)
    made: list[tuple[Any, Any]] = []
    for store in create_image(out, levels=levels, dtype=np.uint8, **shared):
        made.append((store, lambda s: generator.integers(90, 160, s, np.uint8)))
    for store in create_labels(out, "instances", levels=levels, dtype=np.uint32, **shared):
        made.append((store, lambda s: _blocks(generator.integers(1, 2**31, s, np.uint32))))
    field = create_field(
        out, "embedding", shape=shape, channels=_CHANNELS, dtype=np.float32, **shared
    )
    made.append((field, lambda s: generator.random(s, np.float32)))
    for store, values in made:
        first = tuple(min(a, b) for a, b in zip(store.write_chunks, store.shape, strict=True))
        roi = Roi((0,) * len(first), first)
        store.write(roi, values(first))
        (written,) = store.files(roi)
        for name in store.files(Roi.whole(store.shape)):
            link = Path(str(store.path)) / name
            if name != written:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(Path(str(store.path)) / written)
    (out / ".stitchsafe").mkdir()
    recipe = {
        "network": "benchmark", "labels": True, "tile_shape": [_TILE] * 3,
        "cell_shape": [2 * _TILE] * 3, "roi": {"offset": [0] * 3, "shape": list(shape)},
    }  # fmt: skip
    stored = {"recipe": recipe, "volume": {}}
    (out / ".stitchsafe" / "recipe.json").write_text(json.dumps(stored), encoding="utf-8")
    return out


def _blocks(noise: Any) -> Any:
    """Labels of cubes: each has the value of its first voxel."""
    for axis, size in enumerate(noise.shape):
        noise = noise.take(np.arange(size) // 12 * 12, axis)
    return noise


class Heartbeat:
    """The longest that the thread of the window went without a tick."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._last, self._longest = time.perf_counter(), 0.0
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(int(_TICK * 1000))

    def _tick(self) -> None:
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now

    def stall(self, act: Callable[[], Any], *, quiet: float = 0.4) -> float:
        """Do something, wait as long as the window has more to do, and tell the longest stall."""
        self._wait(0.05)
        self._longest = 0.0
        act()
        self._wait(quiet)
        return self._longest

    def _wait(self, seconds: float) -> None:
        from qtpy.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        QTimer.singleShot(int(seconds * 1000), loop.quit)
        loop.exec()


def synthetic_faces(size: int) -> Any:
    """A score for every face between tiles of the store."""
    from stitchsafe.napari_plugin._faces import Faces

    cells = size // _TILE
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 3)
    axis = np.repeat(np.arange(3), len(grid))
    cell = np.tile(grid, (3, 1))
    inner = cell[np.arange(len(cell)), axis] > 0
    axis, corner = axis[inner], cell[inner] * _TILE
    count = len(axis)
    columns: dict[str, Any] = dict.fromkeys(Faces.__dataclass_fields__, np.zeros(count, np.int64))
    shape = np.full((count, 3), _TILE)
    shape[np.arange(count), axis] = 1
    columns.update(
        axes="zyx", families=("tile",), measures=("splits",), threshold=3.0, axis=axis,
        corner=corner, shape=shape, control=corner[np.arange(count), axis] - _TILE // 2,
        score=np.random.default_rng(1).gamma(1.0, 2.0, count),
    )  # fmt: skip
    return Faces(**columns)


def measure(store: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of stalls, by what was done."""
    import napari
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    from stitchsafe.napari_plugin._reader import SOURCE

    viewer = napari.Viewer()
    heart = Heartbeat()
    heart.stall(lambda: None, quiet=2)
    found: dict[str, list[float]] = {}
    begun = time.perf_counter()
    found["open"] = [heart.stall(lambda: viewer.open(str(store), plugin="stitchsafe"), quiet=1)]
    found["open, until at rest"] = [time.perf_counter() - begun - 1.05]
    image, field, labels = viewer.layers
    scene = getattr(viewer, "scene", viewer)

    def again(name: str, *acts: Callable[[], Any], quiet: float = 0.4) -> None:
        found[name] = [
            heart.stall(acts[n % len(acts)], quiet=quiet) for n in range(repeats * len(acts))
        ]
        print(name, found[name], file=sys.stderr, flush=True)

    places = iter(np.random.default_rng(2).integers(0, image.data[0].shape[0], 10_000))

    def step() -> None:
        viewer.dims.set_point(0, float(next(places)) * float(image.scale[0]))

    def show(on: bool) -> Callable[[], None]:
        return lambda: setattr(field, "visible", on)

    def zoom(factor: float) -> Callable[[], None]:
        return lambda: setattr(scene.camera, "zoom", scene.camera.zoom * factor)

    def turn(ndisplay: int) -> Callable[[], None]:
        return lambda: setattr(viewer.dims, "ndisplay", ndisplay)

    again("step to another slice", step)
    again("zoom in and out", zoom(8), zoom(1 / 8))
    again("3-D and back", turn(3), turn(2), quiet=1)
    again("show and hide the field", show(True), show(False))
    field.visible = True
    again("step to another slice, with the field", step)
    again("3-D and back, with the field", turn(3), turn(2), quiet=1)
    field.visible = False
    _, inspector = viewer.window.add_plugin_dock_widget("stitchsafe", "Seam inspector")
    heart.stall(lambda: None, quiet=1)
    labels.metadata[SOURCE].pop("result")  # nothing predicted it, so it is measured as others' are
    inspector.source.choose(labels)
    inspector.grid.setText(",".join([str(2 * _TILE)] * 3))
    found["measure seams, its first 20 s"] = [heart.stall(inspector.measure, quiet=20)]
    found["cancel measuring"] = [heart.stall(inspector.cancel, quiet=6)]
    faces = synthetic_faces(labels.data[0].shape[0])
    inspector._measured = labels
    answer = {"grid": {"tile": [_TILE] * 3}, "ok": False}
    found[f"show {len(faces):,} faces"] = [
        heart.stall(lambda: inspector.show_report(answer, faces), quiet=1)
    ]
    inspector.table.selectRow(0)

    def down() -> None:
        QTest.keyClick(inspector.table, Qt.Key.Key_Down)

    again("arrow key to the next face", down)
    again("heat map off and on", inspector.show_faces.click)
    again("step to another slice, with grid and heat map", step)
    again("3-D and back, with grid and heat map", turn(3), turn(2), quiet=1)
    again("sort the table", lambda: inspector.table.sortByColumn(3, Qt.SortOrder.AscendingOrder),
          lambda: inspector.table.sortByColumn(0, Qt.SortOrder.DescendingOrder))  # fmt: skip
    viewer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="voxels along each axis")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--store", type=Path, help="where the store is kept; else a scratch folder")
    parser.add_argument(
        "--async", dest="threaded", action="store_true", help="napari reads slices in a thread"
    )
    options = parser.parse_args()
    if options.threaded:
        os.environ["NAPARI_ASYNC"] = "1"
    os.environ["NAPARI_CONFIG"] = ""
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.store or Path(scratch), options.size)
        import napari

        found = measure(store, options.repeats)
    size = 17 * options.size**3 / 1e9
    print(
        f"{size:.1f} GB; napari {napari.__version__}, {platform.platform()}, "
        f"{os.cpu_count()} cores; slices read {'in a thread' if options.threaded else 'at once'}"
    )
    print(f"{'longest stall, in ms, of the thread of the window':52}{'median':>8}{'most':>8}")
    for name, seconds in found.items():
        print(f"{name:52}{statistics.median(seconds) * 1000:8.0f}{max(seconds) * 1000:8.0f}")


if __name__ == "__main__":
    sys.exit(main())
