"""Single faults in stored chunks, and whether they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Shares
from stitchsafe.errors import IntegrityError, VolumeError
from stitchsafe.networks import load_network
from stitchsafe.pipeline._audit import StageArrays
from stitchsafe.pipeline._reading import Reading
from stitchsafe.pipeline._stages import written_by
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import grid_of
from stitchsafe.volumes import Volume

__all__ = ["Part", "inject", "parts_of_input", "parts_of_output"]


@dataclass(frozen=True)
class Part:
    """What lies in some files: its values, and what is found to be wrong with them."""

    name: str
    files: frozenset[Path]
    read: Callable[[], NDArray[Any]]
    findings: Callable[[], list[str]]


def parts_of_output(store: ResultStore, volume: Volume) -> list[Part]:
    """Every cell of every array of a result."""
    found = []
    for stage in written_by(store, store.recipe(), volume):
        finished = store.ledger.finished(stage.stage)
        for name, path in stage.arrays.items():
            for cell in stage.cells.cells():
                found.append(_part(stage, name, path, cell, finished[stage.cells.index(cell)]))
    return found


def _part(stage: Any, name: str, path: Path, cell: Roi, record: dict[str, Any]) -> Part:
    from stitchsafe.volumes import ArrayStore

    array = ArrayStore.open(path)
    leading = array.shape[: len(array.shape) - cell.ndim]
    region = Roi((*[0] * len(leading), *cell.offset), (*leading, *cell.shape))
    if name in stage.layout:
        region = stage.layout[name].box(cell)
    only = StageArrays(type(stage)(stage.stage, stage.cells, {name: path}, {}, stage.layout))
    return Part(
        f"{path.parent.name}/{path.name} of {stage.stage} at {cell}",
        frozenset(path.local / file for file in array.files(region)),
        lambda: array.read(region),
        lambda: [text for text, _ in only.damaged(cell, record)],
    )


def parts_of_input(
    store: ResultStore, volume: Volume, model: Path, chunks: dict[Path, Roi]
) -> list[Part]:
    """Every cell of the volume that was read; `chunks` says what lies in which file."""
    recipe = store.recipe()
    finished = store.ledger.finished("predict")
    grid = grid_of(recipe, load_network(model).geometry)
    reading = Reading(volume, Shares(recipe, grid))
    return [
        Part(
            f"the volume at {cell}",
            frozenset(file for file, part in chunks.items() if part.intersect(cell).size),
            lambda cell=cell: volume.read(cell),
            lambda cell=cell: list(
                reading.changes("predict", cell, finished[recipe.cells.index(cell)])
            ),
        )
        for cell in recipe.cells.cells()
    ]


@contextmanager
def _harmed(kind: str, paths: list[Path], rng: np.random.Generator) -> Iterator[list[Path]]:
    """Files with one fault; afterwards they are as before."""
    path = paths[rng.integers(len(paths))]
    other = paths[rng.integers(len(paths))]
    before = {each: each.read_bytes() for each in (path, other)}
    data = bytearray(before[path])
    at = int(rng.integers(len(data)))
    touched = [path]
    if kind == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "truncate":
        del data[at:]
    elif kind == "zero":
        end = min(len(data), at + int(rng.integers(1, 1 + len(data))))
        data[at:end] = bytes(end - at)
    elif kind == "swap":
        data = bytearray(before[other])
        other.write_bytes(before[path])
        touched = [path, other]
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(data)
    try:
        yield touched
    finally:
        for each, content in before.items():
            each.write_bytes(content)


KINDS = ("flip", "truncate", "zero", "delete", "swap")


def inject(parts: list[Part], count: int, seed: int) -> dict[str, int]:
    """Inject faults one at a time; how many were refused on reading, named, or without effect.

    A fault that changes values and is not named is an error of ours, and raises.
    """
    files = sorted({file for part in parts for file in part.files if file.is_file()})
    holding = {file: [part for part in parts if file in part.files] for file in files}
    sound = {part.name: part.read() for part in parts}
    assert len(sound) == len(parts), "names are not unique"
    for part in parts:
        assert part.findings() == []
    rng, shown = np.random.default_rng(seed), dict.fromkeys(("refused", "named", "no effect"), 0)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        with _harmed(kind, files, rng) as touched:
            effects = set()
            for part in {p.name: p for file in touched for p in holding[file]}.values():
                try:
                    equal = np.array_equal(part.read(), sound[part.name], equal_nan=False)
                    effect = "no effect" if equal else "named"
                except (IntegrityError, VolumeError):
                    effect = "refused"
                effects.add(effect)
                found = part.findings()
                assert bool(found) == (effect != "no effect"), (kind, touched, part.name, found)
            shown[next(e for e in shown if e in effects)] += 1
    return shown
