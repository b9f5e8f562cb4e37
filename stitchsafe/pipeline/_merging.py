"""The merging of windows as stages of a run.

::

    districts    which windows are merged together
    adopt 1, …, contacts, unite 1, …, groups, walk, objects, totals, order
                 as `stitchsafe.instances` has them; files in scratch
    merge        for each district the ids of its segments, and what became of each pair
    instances    how many there are, and their table

What is in scratch goes at the end. If something of the result has to be made anew later on, all of
it is first: evidence stays, and merging is quick beside what it took to find segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    FileWork,
    Ledger,
    load_arrays,
    save_arrays,
    save_bytes,
)
from stitchsafe.errors import IntegrityError, InterruptedRunError
from stitchsafe.instances import (
    Districts,
    LabelSettings,
    Made,
    Merging,
    Order,
    WindowRecord,
    choose_districts,
    load_evidence,
)
from stitchsafe.pipeline._clustering import load_clustering, segmenting
from stitchsafe.pipeline._deciding import Runs
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._tables import csv_pieces
from stitchsafe.tiling import Recipe, format_bytes
from stitchsafe.volumes import Place, PlaceError, VoxelSize

__all__ = [
    "Leavings",
    "MergedWindows",
    "MergingStages",
    "districts_of",
    "forget_merging",
    "is_merged",
    "is_merging",
    "merge_all",
]

_MAPPED = ("contacts", "groups", "objects", "totals", "merge")
_LEVELLED = ("adopt ", "unite ")
_SCRATCH = ("adopt", "contacts", "unite ", "groups", "walk", "objects", "totals", "order")


def is_merging(stage: str) -> bool:
    """Whether it is a stage that has districts, or regions of them, for cells."""
    return stage in _MAPPED or stage.startswith(_LEVELLED)


def forget_merging(store: ResultStore, ledger: Ledger) -> None:
    """Remove what only merging needs."""
    ledger.forget(stage for stage in ledger.stages() if stage.startswith(_SCRATCH))
    store.merging.remove()


@dataclass(frozen=True)
class Leavings:
    """What the stages of merging have left: files, and entries of the ledger."""

    store: ResultStore
    ledger: Ledger
    _known: dict[str, Mapping[CellIndex, CellRecord]] = field(default_factory=dict, repr=False)

    def place(self, stage: str, index: CellIndex) -> Place:
        """Where the file of a cell lies."""
        if stage == "merge":
            return self.store.merged(index)
        return self.store.merging / stage.replace(" ", "-") / f"{_key(index)}.npz"

    def notes(self, stage: str) -> Mapping[CellIndex, CellRecord]:
        """The entries of a finished stage."""
        if stage not in self._known:
            self._known[stage] = self.ledger.finished(stage)
        return self._known[stage]

    def load(self, stage: str, index: CellIndex) -> dict[str, NDArray[Any]]:
        """The arrays of a cell.

        Raises
        ------
        IntegrityError
            If they are gone or damaged.
        """
        place, notes = self.place(stage, index), self.notes(stage)
        if () in notes:
            known = notes[()]["files"].get(_key(index))
        else:  # an entry that is gone is told of by verify
            known = notes.get(index, {}).get("checksums", {}).get("arrays")
        try:
            return load_arrays(place, known)
        except PlaceError:
            raise
        except OSError as error:
            raise IntegrityError(
                f"{place} is gone; the same predict command with --repair merges again"
            ) from error


def districts_of(ledger: Ledger, recipe: Recipe) -> CellGrid | None:
    """The districts of a result; None as long as they are not chosen, or where that is lost."""
    chosen = ledger.survey("districts")[0].get(())
    return None if chosen is None else CellGrid(recipe.roi, tuple(chosen["shape"]))


@dataclass(frozen=True)
class MergingStages:
    """The stages of merging that have cells."""

    store: ResultStore
    recipe: Recipe
    ledger: Ledger

    @cached_property
    def settings(self) -> LabelSettings:
        return load_clustering(self.store, self.recipe).settings

    @cached_property
    def leavings(self) -> Leavings:
        return Leavings(self.store, self.ledger)

    @cached_property
    def districts(self) -> Districts:
        grid = districts_of(self.ledger, self.recipe)
        assert grid is not None, "the first stage of merging chooses them"
        return Districts(self.recipe.cells, self.recipe.extent, grid)

    @cached_property
    def merging(self) -> Merging:
        return Merging(self.districts, self.settings, self._evidence, self.leavings)

    def _evidence(self, window: Roi) -> WindowRecord | None:
        entered = self.leavings.notes(segmenting(self.recipe))
        return load_evidence(self.store.evidence, self.recipe.cells, entered, window)

    def cells(self, stage: str) -> CellGrid:
        """Districts, or regions of them."""
        level = _level(stage) if stage.startswith("unite ") else 0
        return self.districts.regions(level)

    def work(self, stage: str) -> FileWork:
        """What is done with each of them."""
        make, cells = self._making(stage), self.cells(stage)

        def arrays_and_notes(cell: Roi) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]:
            made = make(cell)
            return made.arrays, made.notes

        return FileWork(
            arrays_and_notes, lambda cell: self.leavings.place(stage, cells.index(cell))
        )

    def _making(self, stage: str) -> Callable[[Roi], Made]:
        merging = self.merging
        if stage.startswith(_LEVELLED):
            make = merging.unite if stage.startswith("unite ") else merging.adopt
            return partial(make, _level(stage))
        if stage == "merge":
            order = _order(self.leavings.notes("order")[()])
            return lambda district: merging.merge(district, order)
        simple: dict[str, Callable[[Roi], Made]] = {
            "contacts": merging.contacts,
            "groups": merging.groups,
            "objects": merging.objects,
            "totals": merging.totals,
        }
        return simple[stage]


def merge_all(
    run: Runs,
    stages: MergingStages,
    *,
    budget: int,
    table: bool,
    voxel_size: VoxelSize | None,
    axes: str,
) -> CellRecord:
    """Do what is left of merging.

    Parameters
    ----------
    budget
        Bytes of memory that may be taken.
    table
        Whether the instance table is written.
    voxel_size, axes
        Of the volume, for the table.

    Returns
    -------
    CellRecord
        The last entry: ``instances``, ``dtype``, and how many conflicts and dropped objects.

    Raises
    ------
    InterruptedRunError
        If candidates that conflict are so many that deciding on them takes more memory.
    """
    store, ledger, recipe = stages.store, stages.ledger, stages.recipe

    def choose() -> CellRecord:
        entered = ledger.finished(segmenting(recipe))
        counts = {index: record["segments"] for index, record in entered.items()}
        grown = stages.settings.growth_threshold is not None
        return {"shape": list(choose_districts(recipe.cells, counts, grown=grown))}

    run.once("districts", choose)
    if is_merged(ledger, recipe):
        return ledger.finished("instances")[()]
    if ledger.finished("finish"):  # what scratch there is, is the rest of another attempt
        forget_merging(store, ledger)
    merging = stages.merging
    regions = [f"unite {level}" for level in range(1, merging.levels + 1)]
    if stages.settings.adopts:
        rounds = _adopt_all(run, stages)
        run.once("adopted", lambda: {"rounds": rounds})
    for stage in ("contacts", *regions, "groups"):
        run.blocks(stage, stages.cells(stage).cell_shape)
    run.once("walk", lambda: _walk(MergingStages(store, recipe, ledger), budget))
    for stage in ("objects", "totals"):
        run.blocks(stage, stages.districts.grid.cell_shape)
    order = _order(run.once("order", lambda: _put_in_order(MergingStages(store, recipe, ledger))))
    run.blocks("merge", stages.districts.grid.cell_shape)

    def conclude() -> CellRecord:
        now = MergingStages(store, recipe, ledger)
        record: CellRecord = {
            "instances": order.instances,
            "dtype": str(order.dtype),
            "conflicts": sum(said["conflicts"] for said in now.leavings.notes("merge").values()),
            "dropped_small": order.dropped_small,
            "dropped_background": order.dropped_background,
            "checksums": {},
        }
        if table:
            text = csv_pieces(now.merging.numbering.table(order), axes, voxel_size)
            record["checksums"]["table"] = save_bytes(store.table_file, text)
        return record

    return run.once("instances", conclude)


def _adopt_all(run: Runs, stages: MergingStages) -> int:
    """Give strays to what they touch, until nothing more does; how many rounds there were."""
    for level in count(1):
        run.blocks(f"adopt {level}", stages.districts.grid.cell_shape)
        if MergingStages(stages.store, stages.recipe, stages.ledger).merging.ends(level):
            break
    return level


def is_merged(ledger: Ledger, recipe: Recipe) -> bool:
    """Whether no district is left, nor what comes after them; damaged entries count as left."""
    districts = districts_of(ledger, recipe)
    if districts is None:
        return False
    done, _ = ledger.survey("merge")
    left = any(districts.index(cell) not in done for cell in districts.cells())
    return not left and bool(ledger.survey("instances")[0])


def _walk(stages: MergingStages, budget: int) -> CellRecord:
    merging, leavings = stages.merging, stages.leavings
    walked: dict[str, list[int]] = {}
    files: dict[str, str] = {}

    def allowed(need: int) -> None:
        if need > budget:
            raise InterruptedRunError(
                "segments hang together by candidates of which some conflict, and deciding on them "
                f"takes {format_bytes(need, up=True)}, more than the {format_bytes(budget)} given; "
                "run the same command again with a larger --max-memory, or start anew with a "
                "smaller --bandwidth"
            )

    for index, number, arrays in merging.walk(allowed) if merging.walks else ():
        of = (*index, number)
        files[_key(of)] = save_arrays(leavings.place("walk", of), arrays)
        walked.setdefault(_key(index), []).append(number)
    return {"walked": walked, "files": files}


def _put_in_order(stages: MergingStages) -> CellRecord:
    files: dict[str, str] = {}

    def keep(number: int, names: NDArray[np.int64]) -> None:
        place = stages.leavings.place("order", (number,))
        files[_key((number,))] = save_arrays(place, {"names": names})

    order = stages.merging.numbering.order(keep)
    return {**asdict(order), "files": files}


def _order(record: CellRecord) -> Order:
    return Order(
        tuple(record["starts"]),
        tuple(record["counts"]),
        record["dropped_small"],
        record["dropped_background"],
    )


@dataclass(frozen=True)
class MergedWindows:
    """What merging left of the district that a window is of."""

    store: ResultStore
    recipe: Recipe

    @cached_property
    def _districts(self) -> CellGrid:
        found = districts_of(self.store.ledger, self.recipe)
        if found is None:
            raise IntegrityError(
                f"{self.store.path} has lost what merging decided; the same predict command with "
                "--repair merges again"
            )
        return found

    @cached_property
    def _load(self) -> Callable[[CellIndex], dict[str, NDArray[Any]]]:
        leavings = Leavings(self.store, self.store.ledger)
        return lru_cache(maxsize=4)(lambda index: leavings.load("merge", index))

    def of(self, window: Roi) -> Mapping[str, NDArray[Any]]:
        """The ``keys``, ``starts`` and ``ids`` of its district.

        Raises
        ------
        IntegrityError
            If they are gone or damaged.
        """
        return self._load(self._districts.index(window))


def _level(stage: str) -> int:
    return int(stage.rsplit(" ", 1)[1])


def _key(index: CellIndex) -> str:
    return "_".join(map(str, index))
