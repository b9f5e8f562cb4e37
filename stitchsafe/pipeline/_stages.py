"""The stages of a prediction, in order, and what each leaves behind.

::

    create    empty arrays
    image     copy of the image, where one is asked for
    predict   fields of every cell -> fields, samples, provisional labels, evidence
    merge     one table of final ids
    create labels, labels      final labels
    pyramid 1, 2, …            one stage per level
    finish    all is done, and scratch goes

Which of them there are depends on the recipe alone; `verify` walks the same list.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    Events,
    Executor,
    Ledger,
    StageCount,
    checksum,
    run_blocks,
    run_once,
    save_arrays,
    save_bytes,
)
from stitchsafe.errors import StoreError
from stitchsafe.instances import LabelSettings, instance_table, load_records, merge_windows
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._outputs import (
    LabelPyramid,
    make_field_arrays,
    make_image,
    make_label_arrays,
    make_scratch,
)
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import Workshop
from stitchsafe.tiling import Field, Plan, Recipe
from stitchsafe.volumes import Place, Volume

__all__ = ["Progress", "Written", "refuse_changed_volume", "run_stages", "written_by"]

_LOOKED_AT = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """Blocks in all, blocks that an earlier run had done, and instances (None without labels)."""

    blocks_total: int
    blocks_resumed: int
    instances: int | None


@dataclass(frozen=True)
class Written:
    """A stage with the arrays and files that its ledger entries speak of.

    Parameters
    ----------
    stage
        Its name in the ledger.
    cells
        Its cells; None for a stage that is one step.
    arrays
        Where each named array lies.
    files
        Where each named file lies, by the index of its cell.
    layout
        Of the arrays that are fields: which elements a cell has.
    """

    stage: str
    cells: CellGrid | None
    arrays: dict[str, Place] = field(default_factory=dict)
    files: Mapping[str, Callable[[CellIndex], Place]] = field(default_factory=dict)
    layout: Mapping[str, Field] = field(default_factory=dict)


def run_stages(
    workshop: Workshop,
    plan: Plan,
    executor: Executor,
    inputs: Inputs,
    settings: Settings,
    ledger: Ledger,
    events: Events,
) -> Progress:
    """Do what is left of a prediction."""
    run = _Run(workshop, plan, executor, inputs, settings, ledger, events)
    count = run.fields()
    instances = run.labels() if plan.recipe.labels is not None else None
    # Entered first: a run that dies while scratch goes must not look for it again.
    run.once("finish", dict)
    workshop.store.provisional.remove()
    return Progress(count.total, count.resumed, instances)


def refuse_changed_volume(store: ResultStore, recipe: Recipe, volume: Volume) -> None:
    """Refuse to go on where the volume is no longer the one that was read.

    Looks at some finished cells, spread over the region: enough for a file that was replaced, and
    no second reading of a large volume. `verify` looks at all.

    Raises
    ------
    StoreError
        Naming a cell that has changed.
    """
    done = sorted(store.ledger.finished("predict").items())
    for at in np.unique(np.linspace(0, len(done) - 1, _LOOKED_AT).astype(int)) if done else ():
        index, record = done[at]
        cell = recipe.cells.cell_at(index)
        if record["input"] != checksum(volume.read(cell)):
            raise StoreError(
                f"{volume.path or 'the array'} has changed since {store.path} was begun (at "
                f"{cell}); choose another place with --out, or start again with --overwrite"
            )


@dataclass(frozen=True)
class _Run:
    """One run over one store; each method does what is left of some stages."""

    workshop: Workshop
    plan: Plan
    executor: Executor
    inputs: Inputs
    settings: Settings
    ledger: Ledger
    events: Events

    @property
    def store(self) -> ResultStore:
        return self.workshop.store

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def volume(self) -> Volume:
        return self.inputs.volume

    def once(self, stage: str, work: Callable[[], CellRecord]) -> CellRecord:
        return run_once(stage, work, ledger=self.ledger, events=self.events)

    def blocks(self, stage: str, shape: Sequence[int] | None = None) -> StageCount:
        return run_blocks(
            stage,
            cells=self.workshop.cells(stage),
            block_shape=self.plan.schedule.block_shape if shape is None else shape,
            executor=self.executor,
            ledger=self.ledger,
            events=self.events,
        )

    def fields(self) -> StageCount:
        """The image, and the fields with what is made of them cell by cell."""
        made = self.once("create", self._create)
        if made["image"] == "copy":
            self.blocks("image")
        if self.recipe.labels is not None and self.ledger.finished("finish"):
            make_scratch(self.store, self.recipe)  # for cells whose entries have been deleted
        return self.blocks("predict")

    def _create(self) -> CellRecord:
        image = make_image(
            self.store, self.inputs, self.settings.image, self.recipe, self.settings.ngff
        )
        if image != self.settings.image and self.volume.path is not None:
            self.events.say(
                "image: not linked, as only a local OME-Zarr of the same version can be; "
                "--image copy copies it"
            )
        make_field_arrays(self.store, self.recipe, self.volume, self.settings.ngff)
        return {"image": image}

    def labels(self) -> int:
        """Final labels of what the fields gave; returns the number of instances."""
        merged = self.once("merge", self._merge)
        self.once("create labels", lambda: self._create_labels(merged["dtype"]))
        self.blocks("labels")
        for level in range(1, len(self.workshop.pyramid.levels)):
            self.blocks(f"pyramid {level}", self.recipe.cell_shape)
        return int(merged["instances"])

    def _merge(self) -> CellRecord:
        store, recipe, axes = self.store, self.recipe, self.volume.axes
        assert recipe.labels is not None
        labels = LabelSettings.from_json(recipe.labels)
        merge = merge_windows(load_records(store.evidence, recipe.cells), labels)
        arrays = {**merge.final.to_arrays(), **merge.evidence.to_arrays()}
        checksums = {"merges": save_arrays(store.merges_file, arrays)}
        if "table" in self.settings.save:
            records = load_records(store.evidence, recipe.cells)
            columns = instance_table(records, merge, recipe.roi).columns(axes)
            checksums["table"] = save_bytes(store.table_file, _csv(columns, self.volume))
        return {
            "checksums": checksums,
            "instances": merge.count,
            "dtype": str(merge.dtype),
            "conflicts": merge.conflicts,
            "dropped_small": merge.dropped_small,
            "dropped_background": merge.dropped_background,
        }

    def _create_labels(self, dtype: str) -> CellRecord:
        shown = self.ledger.finished("create")[()]["image"] != "none"
        pyramid, ngff = self.workshop.pyramid, self.settings.ngff
        make_label_arrays(self.store, pyramid, self.volume, dtype, ngff, with_image=shown)
        return {}


def _csv(columns: dict[str, NDArray[Any]], volume: Volume) -> bytes:
    """The instance table; volumes of instances in physical units where the voxel size is known."""
    if volume.voxel_size is not None:
        size = float(np.prod(volume.voxel_size.values))
        unit = f"volume_{volume.voxel_size.unit}{len(volume.axes)}"
        columns = {**columns, unit: columns["voxels"] * size}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return text.getvalue().encode()


def written_by(store: ResultStore, recipe: Recipe, volume: Volume) -> Iterator[Written]:
    """The stages whose arrays remain, for checking them against the ledger."""
    made = store.ledger.finished("create").get((), {})
    if made.get("image") == "copy":
        whole = CellGrid(Roi.whole(recipe.extent), recipe.cell_shape)
        yield Written("image", whole, {"image": store.path / "0"})
    fields = {}
    if recipe.save_fields:
        fields = {name: store.field(name) / "0" for name, _ in recipe.outputs}
    files = {"samples": store.samples, "evidence": store.evidence}
    layout = {each.name: each for each in recipe.fields}
    yield Written("predict", recipe.cells, fields, files, layout)
    if recipe.labels is not None:
        yield Written(
            "merge",
            None,
            files={"merges": lambda _: store.merges_file, "table": lambda _: store.table_file},
        )
        yield Written("labels", recipe.cells, {"labels": store.labels / "0"})
        pyramid = LabelPyramid.of(recipe, volume)
        for level in range(1, len(pyramid.levels)):
            arrays = {"labels": store.labels / str(level)}
            yield Written(f"pyramid {level}", pyramid.cells(level), arrays)
