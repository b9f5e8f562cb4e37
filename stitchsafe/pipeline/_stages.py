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
    FieldMaker,
    FieldSink,
    Ledger,
    SampleSink,
    Sink,
    StageCount,
    Work,
    checksum,
    load_arrays,
    map_fields,
    run_blocks,
    run_once,
    save_arrays,
    save_bytes,
)
from stitchsafe.errors import IntegrityError, StoreError
from stitchsafe.instances import (
    FinalIds,
    LabelSettings,
    SegmentSink,
    final_labels,
    instance_table,
    load_records,
    merge_windows,
    relabel_cells,
    segment_window,
)
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._outputs import (
    LabelPyramid,
    copy_cells,
    make_field_arrays,
    make_image,
    make_label_arrays,
    make_scratch,
)
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Field, Plan, Recipe
from stitchsafe.volumes import ArrayStore, Place, Volume

__all__ = [
    "Progress",
    "Written",
    "final_labels_of",
    "refuse_changed_volume",
    "run_stages",
    "written_by",
]

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
    store: ResultStore,
    plan: Plan,
    maker: FieldMaker,
    inputs: Inputs,
    settings: Settings,
    ledger: Ledger,
    events: Events,
) -> Progress:
    """Do what is left of a prediction."""
    run = _Run(store, plan, maker, inputs, settings, ledger, events)
    count = run.fields()
    instances = run.labels() if plan.recipe.labels is not None else None
    # Entered first: a run that dies while scratch goes must not look for it again.
    run.once("finish", dict)
    store.provisional.remove()
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

    store: ResultStore
    plan: Plan
    maker: FieldMaker
    inputs: Inputs
    settings: Settings
    ledger: Ledger
    events: Events

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def volume(self) -> Volume:
        return self.inputs.volume

    def once(self, stage: str, work: Callable[[], CellRecord]) -> CellRecord:
        return run_once(stage, work, ledger=self.ledger, events=self.events)

    def blocks(
        self, stage: str, work: Work, cells: CellGrid, shape: Sequence[int] | None = None
    ) -> StageCount:
        return run_blocks(
            stage,
            work,
            cells=cells,
            block_shape=self.plan.schedule.block_shape if shape is None else shape,
            ledger=self.ledger,
            events=self.events,
        )

    def fields(self) -> StageCount:
        """The image, and the fields with what is made of them cell by cell."""
        made = self.once("create", self._create)
        if made["image"] == "copy":
            whole = CellGrid(Roi.whole(self.recipe.extent), self.recipe.cell_shape)
            image = ArrayStore.open(self.store.path / "0")
            self.blocks("image", copy_cells(self.volume, image), whole)
        layout = self.recipe.fields
        sinks: list[Sink] = [
            SampleSink(self.store.samples, self.recipe.cells, layout, self.recipe.seed)
        ]
        if self.recipe.save_fields:
            arrays = {
                each.name: ArrayStore.open(self.store.field(each.name) / "0") for each in layout
            }
            sinks.append(FieldSink(arrays, layout))
        if self.recipe.labels is not None:
            if self.ledger.finished("finish"):  # for cells whose entries have been deleted
                make_scratch(self.store, self.recipe)
            settings = LabelSettings.from_json(self.recipe.labels)
            provisional = ArrayStore.open(self.store.provisional)
            sinks.append(SegmentSink(provisional, self.store.evidence, self.recipe.cells, settings))
        return self.blocks("predict", map_fields(self.maker, sinks), self.recipe.cells)

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
        store, recipe = self.store, self.recipe
        merged = self.once("merge", self._merge)
        pyramid = LabelPyramid.of(recipe, self.volume)
        self.once("create labels", lambda: self._create_labels(pyramid, merged["dtype"]))
        arrays = [ArrayStore.open(store.labels / str(k)) for k in range(len(pyramid.levels))]
        if self.ledger.finished("finish"):  # a cell whose entry has been deleted is made anew
            work = _relabel_anew(store, recipe, self.maker, arrays[0])
        else:
            provisional = ArrayStore.open(store.provisional)
            work = relabel_cells(provisional, arrays[0], load_ids(store))
        self.blocks("labels", work, recipe.cells)
        for level in range(1, len(arrays)):
            work = pyramid.work(level, arrays[level - 1], arrays[level])
            self.blocks(f"pyramid {level}", work, pyramid.cells(level), recipe.cell_shape)
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

    def _create_labels(self, pyramid: LabelPyramid, dtype: str) -> CellRecord:
        shown = self.ledger.finished("create")[()]["image"] != "none"
        make_label_arrays(
            self.store, pyramid, self.volume, dtype, self.settings.ngff, with_image=shown
        )
        return {}


def _relabel_anew(store: ResultStore, recipe: Recipe, maker: FieldMaker, final: ArrayStore) -> Work:
    """Work for the runner: final labels of cells, from the volume on."""

    def work(block: Roi, cells: Sequence[Roi]) -> Iterator[tuple[Roi, CellRecord]]:
        source = maker.read(block)
        for cell in cells:
            labels = final_labels_of(store, recipe, cell, maker.fields(cell, source))
            final.write(cell, labels)
            yield cell, {"checksums": {"labels": checksum(labels)}}

    return work


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


def load_ids(store: ResultStore) -> FinalIds:
    """What merging decided."""
    return FinalIds.from_arrays(load_arrays(store.merges_file))


def final_labels_of(
    store: ResultStore, recipe: Recipe, cell: Roi, fields: dict[str, Any]
) -> NDArray[Any]:
    """Labels of a cell, made again from its fields."""
    if recipe.labels is None:
        raise IntegrityError("the result holds no labels; predict it with --save labels")
    segments = segment_window(fields, settings=LabelSettings.from_json(recipe.labels))
    return final_labels(segments.labels, cell, load_ids(store), recipe.extent)


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
