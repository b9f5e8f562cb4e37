"""A stage of a run: its cells, what is done with each, and how a block of them is done.

Every stage is pure: it reads what earlier stages wrote and writes arrays of its own. So a block
that was interrupted is simply done again, and one that is done twice at once gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine._durable import save_arrays
from stitchsafe.engine._ledger import CellIndex, CellRecord, Ledger
from stitchsafe.engine._sinks import checksum
from stitchsafe.interruption import untorn
from stitchsafe.volumes import Place

__all__ = ["ArrayWork", "FileWork", "Stage", "Task", "Work", "Workshop", "do_task"]


class Work(Protocol):
    """What a stage does, in the three steps that an executor may overlap."""

    def read(self, block: Roi, cells: Sequence[Roi]) -> Any:
        """What the cells of a block need, read once."""

    def compute(self, cells: Sequence[Roi], source: Any) -> Iterator[Any]:
        """What is to be written of each cell, in order.

        One at a time, and each let go before the next is made; but what makes them may begin with
        the next, so that no device waits between two cells.
        """

    def write(self, cell: Roi, result: Any) -> CellRecord:
        """Write it; returns the cell's record when the data is on the disk."""


class Target(Protocol):
    """An array that is written by regions."""

    def write(self, roi: Roi, data: NDArray[Any]) -> None: ...


@dataclass(frozen=True)
class ArrayWork:
    """Work that makes one array from what has been written before, cell by cell.

    Parameters
    ----------
    name
        What the ledger calls its checksum.
    make
        The values of a cell: of its shape, or with leading axes that are written whole.
    target
        Takes them.
    """

    name: str
    make: Callable[[Roi], NDArray[Any]]
    target: Target

    def read(self, block: Roi, cells: Sequence[Roi]) -> None:
        del block, cells

    def compute(self, cells: Sequence[Roi], source: None) -> Iterator[NDArray[Any]]:
        del source
        return map(self.make, cells)

    def write(self, cell: Roi, result: NDArray[Any]) -> CellRecord:
        leading = (0,) * (result.ndim - cell.ndim)
        self.target.write(Roi((*leading, *cell.offset), result.shape), result)
        return {"checksums": {self.name: checksum(result)}}


@dataclass(frozen=True)
class FileWork:
    """Work that makes one file of arrays for each cell.

    Parameters
    ----------
    make
        The arrays of a cell, and what else is entered of it for later stages.
    place
        Where the file of a cell goes; the ledger calls its checksum ``arrays``.
    """

    make: Callable[[Roi], tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]]
    place: Callable[[Roi], Place]

    def read(self, block: Roi, cells: Sequence[Roi]) -> None:
        del block, cells

    def compute(
        self, cells: Sequence[Roi], source: None
    ) -> Iterator[tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]]:
        del source
        return map(self.make, cells)

    def write(
        self, cell: Roi, result: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]
    ) -> CellRecord:
        arrays, notes = result
        return {**notes, "checksums": {"arrays": save_arrays(self.place(cell), arrays)}}


@dataclass(frozen=True)
class Stage:
    """A map stage.

    Parameters
    ----------
    name
        In the ledger.
    cells
        All of them.
    work
        What is done with each.
    writes_behind
        Whether a cell is written by another thread, while the next one is computed.
    """

    name: str
    cells: CellGrid
    work: Work
    writes_behind: bool = False


class Workshop(Protocol):
    """A place where blocks of stages can be done: an opened result with its volume and network."""

    @property
    def ledger(self) -> Ledger: ...

    def stage(self, name: str) -> Stage:
        """The stage of this name, with all that earlier stages have written at hand."""


@dataclass(frozen=True, slots=True)
class Task:
    """A block of a stage, and those of its cells that are to be done. Small: it holds no data."""

    stage: str
    block: Roi
    cells: tuple[Roi, ...]


def do_task(task: Task, stage: Stage, ledger: Ledger, source: Any) -> None:
    """Compute and write the cells of a block, and enter them.

    Cells that are finished when something goes wrong, an interruption included, are entered too.

    Parameters
    ----------
    source
        What the stage's work read for the block.
    """
    records: dict[CellIndex, CellRecord] = {}

    def write(cell: Roi, result: Any) -> None:
        records[stage.cells.index(cell)] = stage.work.write(cell, result)

    try:
        with _behind() if stage.writes_behind else nullcontext(_at_once) as hand_over:
            results = stage.work.compute(task.cells, source)
            for cell in task.cells:
                hand_over(write, cell, next(results))
    finally:
        with untorn():
            ledger.commit(task.stage, records)


def _at_once(do: Callable[..., None], *arguments: Any) -> None:
    do(*arguments)


@contextmanager
def _behind() -> Iterator[Callable[..., None]]:
    """Lets another thread do things in order, one at a time and none waiting."""
    with ThreadPoolExecutor(1, thread_name_prefix="stitchsafe-writer") as writer:
        last: Future[None] | None = None

        def hand_over(do: Callable[..., None], *arguments: Any) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = writer.submit(do, *arguments)

        yield hand_over
        if last is not None:
            last.result()
