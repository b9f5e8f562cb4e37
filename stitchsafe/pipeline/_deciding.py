"""The consensus as stages of a run: passes over the whole volume, and what is made of them.

::

    statistics 1    map: a tally of each portion of the volume
    settle 1        reduce: one tally of the whole
    statistics 2 …  what the next pass collects depends on what the earlier ones have settled
    consensus       consensus.json; the tallies go

How many passes there are depends on the volume and its normalization. Whoever does a portion goes
the same way through :func:`deciding`, from the tallies that are settled. The entries of the first
pass stay, with checksums of what was read: by them a volume that has changed since is found out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    Ledger,
    file_checksum,
    load_arrays,
    save_arrays,
    save_json,
)
from stitchsafe.pipeline._consensus import deciding
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import Pass, Place, PlaceError, Tally, Volume, pieces, portion_shape

__all__ = [
    "FIRST_PASS",
    "PassWork",
    "Runs",
    "Tallies",
    "decide",
    "first_pass",
    "input_checksum",
    "nth_pass",
    "portions",
    "reach",
    "volume_tallies",
]

FIRST_PASS = "statistics 1"
Decided = TypeVar("Decided")


class Runs(Protocol):
    """What carries out stages."""

    def once(self, stage: str, work: Callable[[], CellRecord]) -> CellRecord: ...
    def blocks(self, stage: str, shape: Sequence[int] | None = None) -> object: ...


def portions(due: Pass) -> CellGrid:
    """The portions in which a pass is done."""
    return CellGrid(due.roi, portion_shape(due.volume))


def first_pass(volume: Volume, recipe: Recipe) -> Pass | None:
    """The pass over the volume as it lies; None where nothing needs to be known of it."""
    return next(deciding(volume, recipe), None)


@dataclass(frozen=True)
class Tallies:
    """Where passes leave what they collect: files in one folder, and stages of the ledger.

    Parameters
    ----------
    folder
        Of the files; scratch.
    of
        What the names of the stages begin with.
    """

    folder: Place
    of: str = ""

    def stage(self, number: int) -> str:
        """The stage that does a pass."""
        return f"{self.of}statistics {number}"

    def settle(self, number: int) -> str:
        """The stage that adds up what a pass has collected."""
        return f"{self.of}settle {number}"

    def portion(self, number: int, index: CellIndex) -> Place:
        """What a pass collected of one portion."""
        return self.folder / str(number) / f"{'_'.join(map(str, index))}.npz"

    def whole(self, number: int) -> Place:
        """What a pass collected of all."""
        return self.folder / f"{number}.npz"

    def remove(self, ledger: Ledger, keep: str = "") -> None:
        """Remove all of it, once it is known what follows from it."""
        self.folder.remove()
        ledger.forget(
            stage
            for stage in ledger.stages()
            if stage.startswith((f"{self.of}statistics ", f"{self.of}settle ")) and stage != keep
        )


def volume_tallies(store: ResultStore) -> Tallies:
    """Of the volume."""
    return Tallies(store.statistics)


def nth_pass(
    asking: Generator[Pass, Tally, object], tallies: Tallies, ledger: Ledger, number: int
) -> Pass:
    """A pass, from 1, given that the earlier ones are settled."""
    due = next(asking)
    for earlier in range(1, number):
        due = asking.send(_settled(tallies, ledger, due, earlier))
    return due


def decide(run: Runs, store: ResultStore, ledger: Ledger, volume: Volume, recipe: Recipe) -> None:
    """Do what is left until there is consensus.

    Raises
    ------
    VolumeError
        If the volume holds what the recipe does not allow.
    """
    tallies = volume_tallies(store)
    if not ledger.finished("consensus"):
        consensus = reach(run, tallies, ledger, deciding(volume, recipe))

        def save() -> CellRecord:
            content = consensus.to_json()
            return {"checksums": {"consensus": save_json(store.consensus_file, content)}}

        run.once("consensus", save)
    elif (due := first_pass(volume, recipe)) is not None:
        run.blocks(FIRST_PASS, portions(due).cell_shape)  # portions whose entries have been lost
    tallies.remove(ledger, keep=FIRST_PASS)


def reach(
    run: Runs, tallies: Tallies, ledger: Ledger, asking: Generator[Pass, Tally, Decided]
) -> Decided:
    """Do the passes that are asked for, and return what is decided by them."""
    number = 0
    try:
        due = next(asking)
        while True:
            number += 1
            _collect(run, tallies, ledger, due, number)
            due = asking.send(_settled(tallies, ledger, due, number))
    except StopIteration as end:
        decided: Decided = end.value
        return decided


def _collect(run: Runs, tallies: Tallies, ledger: Ledger, due: Pass, number: int) -> None:
    """One pass: a tally of every portion, and one of all. What has been lost is done again."""
    stage, settle, cells = tallies.stage(number), tallies.settle(number), portions(due)
    _drop_unsound(ledger, settle, lambda _: tallies.whole(number))
    if not ledger.finished(settle):
        _drop_unsound(ledger, stage, lambda index: tallies.portion(number, index))
    run.blocks(stage, cells.cell_shape)

    def merge() -> CellRecord:
        whole, entered = due.begin(), ledger.finished(stage)
        for index in map(cells.index, cells.cells()):
            known = entered[index]["checksums"]["tally"]
            whole.take(load_arrays(tallies.portion(number, index), known))
        return {"checksums": {"tally": save_arrays(tallies.whole(number), whole.to_arrays())}}

    run.once(settle, merge)


def _settled(tallies: Tallies, ledger: Ledger, due: Pass, number: int) -> Tally:
    known = ledger.finished(tallies.settle(number))[()]["checksums"]["tally"]
    tally = due.begin()
    tally.take(load_arrays(tallies.whole(number), known))
    return tally


def _drop_unsound(ledger: Ledger, stage: str, place: Callable[[CellIndex], Place]) -> None:
    """Drop entries whose file is not what they say."""

    def sound(index: CellIndex, record: CellRecord) -> bool:
        try:
            return bool(file_checksum(place(index).read_bytes()) == record["checksums"]["tally"])
        except PlaceError:
            raise
        except OSError:
            return False

    unsound = [i for i, record in ledger.finished(stage).items() if not sound(i, record)]
    if unsound:
        ledger.drop(stage, unsound)


@dataclass(frozen=True)
class PassWork:
    """The stage that does one pass: what it collects of every portion goes into a small file."""

    due: Pass
    place: Callable[[CellIndex], Place]

    def read(self, block: Roi, cells: Sequence[Roi]) -> None:
        del block, cells  # a portion is read in pieces, so that memory stays small

    def compute(self, cells: Sequence[Roi], source: None) -> Iterator[tuple[Tally, str]]:
        del source
        for cell in cells:
            tally, read = self.due.begin(), 0
            for piece, data in pieces(self.due.volume, cell):
                tally.add(piece, data)
                read = zlib.crc32(np.ascontiguousarray(data).data, read)
            yield tally, f"{read:08x}"

    def write(self, cell: Roi, result: tuple[Tally, str]) -> CellRecord:
        tally, read = result
        index = portions(self.due).index(cell)
        written = save_arrays(self.place(index), tally.to_arrays())
        return {"checksums": {"tally": written}, "input": read}


def input_checksum(volume: Volume, portion: Roi) -> str:
    """The checksum of a portion as the first pass enters it."""
    read = 0
    for _, data in pieces(volume, portion):
        read = zlib.crc32(np.ascontiguousarray(data).data, read)
    return f"{read:08x}"
