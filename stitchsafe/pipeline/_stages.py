"""The stages of a prediction, in order, and what each leaves behind.

::

    create    empty arrays
    image     copy of the image, where one is asked for
    predict   fields of every cell -> fields, samples, provisional labels, evidence
    merge     one table of final ids
    create labels, labels      final labels
    pyramid 1, 2, …            one stage per level
    finish    scratch goes

Which of them there are depends on the recipe alone; `verify` walks the same list.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    CellRecord,
    Events,
    FieldMaker,
    FieldSink,
    Ledger,
    SampleSink,
    Sink,
    StageCount,
    Work,
    map_fields,
    run_blocks,
    run_once,
    save_arrays,
    save_bytes,
)
from stitchsafe.errors import IntegrityError
from stitchsafe.instances import (
    FinalIds,
    LabelSettings,
    SegmentSink,
    instance_table,
    load_records,
    merge_windows,
    relabel_cells,
    segment_window,
)
from stitchsafe.pipeline._outputs import (
    LabelPyramid,
    copy_cells,
    make_field_arrays,
    make_image,
    make_label_arrays,
)
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Plan, Recipe
from stitchsafe.volumes import ArrayStore, Volume

__all__ = ["Progress", "Written", "final_labels_of", "run_stages", "written_by"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Blocks in all, blocks that an earlier run had finished, and instances (None without labels)."""

    blocks_total: int
    blocks_resumed: int
    instances: int | None


@dataclass(frozen=True)
class Written:
    """A stage with the arrays that its ledger entries speak of."""

    stage: str
    cells: CellGrid
    arrays: dict[str, Path]


def run_stages(
    store: ResultStore,
    plan: Plan,
    maker: FieldMaker,
    volume: Volume,
    settings: Settings,
    ledger: Ledger,
    events: Events,
) -> Progress:
    """Do what is left of a prediction."""
    run = _Run(store, plan, volume, settings, ledger, events)
    count = run.fields(maker)
    instances = run.labels() if plan.recipe.labels is not None else None
    run.once("finish", lambda: _finish(store))
    return Progress(count.total, count.resumed, instances)


@dataclass(frozen=True)
class _Run:
    """One run over one store; each method does what is left of some stages."""

    store: ResultStore
    plan: Plan
    volume: Volume
    settings: Settings
    ledger: Ledger
    events: Events

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

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

    def fields(self, maker: FieldMaker) -> StageCount:
        """The image, and the fields with what is made of them cell by cell."""
        made = self.once("create", self._create)
        if made["image"] == "copy":
            whole = CellGrid(Roi.whole(self.recipe.extent), self.recipe.cell_shape)
            image = ArrayStore.open(self.store.path / "0")
            self.blocks("image", copy_cells(self.volume, image), whole)
        sinks: list[Sink] = [
            SampleSink(self.store.samples, self.recipe.cells, self.recipe.seed)
        ]
        if self.recipe.save_fields:
            sinks.append(
                FieldSink(
                    {
                        name: ArrayStore.open(self.store.field(name) / "0")
                        for name, _ in self.recipe.outputs
                    }
                )
            )
        if self.recipe.labels is not None and not self.ledger.finished("finish"):
            settings = LabelSettings.from_json(self.recipe.labels)
            provisional = ArrayStore.open(self.store.provisional)
            sinks.append(
                SegmentSink(provisional, self.store.evidence, self.recipe.cells, settings)
            )
        return self.blocks("predict", map_fields(maker, sinks), self.recipe.cells)

    def _create(self) -> CellRecord:
        image = make_image(
            self.store, self.volume, self.settings.image, self.recipe, self.settings.ngff
        )
        if image != self.settings.image:
            self.events.say(
                "image: not linked, as only a local OME-Zarr of the same version can be; "
                "--image copy copies it"
            )
        make_field_arrays(self.store, self.recipe, self.volume, self.settings.ngff)
        return {"image": image}

    def labels(self) -> int:
        """Final labels of what the fields gave; returns the number of instances."""
        store, recipe = self.store, self.recipe
        merged = self.once("merge", lambda: _merge(store, recipe, self.volume))
        pyramid = LabelPyramid.of(recipe, self.volume)
        self.once("create labels", lambda: self._create_labels(pyramid, merged["dtype"]))
        arrays = [ArrayStore.open(store.labels / str(k)) for k in range(len(pyramid.levels))]
        if not self.ledger.finished("finish"):
            provisional = ArrayStore.open(store.provisional)
            ids = load_ids(store, recipe)
            self.blocks("labels", relabel_cells(provisional, arrays[0], ids), recipe.cells)
        for level in range(1, len(arrays)):
            work = pyramid.work(level, arrays[level - 1], arrays[level])
            self.blocks(f"pyramid {level}", work, pyramid.cells(level), recipe.cell_shape)
        return int(merged["instances"])

    def _create_labels(self, pyramid: LabelPyramid, dtype: str) -> CellRecord:
        make_label_arrays(self.store, pyramid, self.volume, dtype, self.settings.ngff)
        return {}


def _merge(store: ResultStore, recipe: Recipe, volume: Volume) -> CellRecord:
    assert recipe.labels is not None
    labels = LabelSettings.from_json(recipe.labels)
    table, merge = merge_windows(load_records(store.evidence, recipe.cells), labels)
    save_arrays(store.merges_file, {**merge.to_arrays(), **merge.evidence.to_arrays()})
    save_bytes(
        store.table_file, _csv(instance_table(table, merge, recipe.roi).columns(volume.axes), volume)
    )
    return {
        "instances": merge.count,
        "dtype": str(merge.dtype),
        "conflicts": merge.conflicts,
        "dropped_small": merge.dropped_small,
        "dropped_background": merge.dropped_background,
    }


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


def _finish(store: ResultStore) -> CellRecord:
    """Scratch goes; and nothing but the ledger says that all is done."""
    shutil.rmtree(store.provisional, ignore_errors=True)
    return {}


def load_ids(store: ResultStore, recipe: Recipe) -> FinalIds:
    """What merging decided."""
    with np.load(store.merges_file) as arrays:
        return FinalIds.of_arrays({k: arrays[k] for k in arrays.files}, recipe.extent)


def final_labels_of(
    store: ResultStore, recipe: Recipe, cell: Roi, fields: dict[str, Any]
) -> NDArray[Any]:
    """Labels of a cell, made again from its fields."""
    if recipe.labels is None:
        raise IntegrityError("the result holds no labels; predict it with --save labels")
    segments = segment_window(fields, settings=LabelSettings.from_json(recipe.labels))
    return load_ids(store, recipe).of(segments.labels, cell)


def written_by(store: ResultStore, recipe: Recipe, volume: Volume) -> Iterator[Written]:
    """The stages whose arrays remain, for checking them against the ledger."""
    made = store.ledger.finished("create").get((), {})
    if made.get("image") == "copy":
        whole = CellGrid(Roi.whole(recipe.extent), recipe.cell_shape)
        yield Written("image", whole, {"image": store.path / "0"})
    fields = {}
    if recipe.save_fields:
        fields = {name: store.field(name) / "0" for name, _ in recipe.outputs}
    yield Written("predict", recipe.cells, fields)
    if recipe.labels is not None:
        yield Written("labels", recipe.cells, {"labels": store.labels / "0"})
        pyramid = LabelPyramid.of(recipe, volume)
        for level in range(1, len(pyramid.levels)):
            arrays = {"labels": store.labels / str(level)}
            yield Written(f"pyramid {level}", pyramid.cells(level), arrays)
