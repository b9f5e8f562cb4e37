"""The stages of a prediction, in order, and what each leaves behind.

::

    statistics 1, …, consensus   what is decided once for the whole volume
    create    empty arrays
    image     copy of the image, where one is asked for
    predict   fields of every cell -> fields, samples, provisional labels, evidence
    field statistics 1, …, field maps, fields   steps that need a whole field
    cluster statistics 1, …, clusters, segment   labels that need something of all fields
    districts, …, merge, instances   windows are merged, see `stitchsafe.pipeline._merging`
    create labels, labels      final labels
    pyramid 1, 2, …            one stage per level
    finish    all is done, and scratch goes

Where labels are classes there is nothing to merge: predict writes them, and create labels comes
before it.

Which of them there are depends on the recipe alone; `verify` walks the same list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    Events,
    Executor,
    Ledger,
    StageCount,
    file_checksum,
    run_blocks,
    run_once,
)
from stitchsafe.instances import ClassSink, class_type
from stitchsafe.pipeline._clustering import (
    Clustering,
    decide_clusters,
    load_clustering,
    needs_consensus,
)
from stitchsafe.pipeline._deciding import FIRST_PASS, decide, first_pass, portions
from stitchsafe.pipeline._finishing import decide_fields
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._machine import allotted_memory
from stitchsafe.pipeline._merging import districts_of, forget_merging, merge_all
from stitchsafe.pipeline._outputs import (
    LabelPyramid,
    Layout,
    linked_levels,
    make_field_arrays,
    make_image,
    make_label_arrays,
    make_scratch,
    metadata_files,
)
from stitchsafe.pipeline._parts import Missing
from stitchsafe.pipeline._raw import RAW
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import Workshop
from stitchsafe.tiling import Field, Plan, Recipe
from stitchsafe.volumes import Place, Volume, write_note

__all__ = ["Progress", "Written", "run_stages", "written_by"]

_SHARED = ("image", "predict")
"""Stages whose blocks are shared among the parts of a run; what follows, the last one does."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Parameters
    ----------
    blocks_total, blocks_resumed
        Blocks in all (of a part: its own), and how many of them an earlier run had done.
    instances
        Their number; None without labels or of classes, or where the result is not finished.
    missing
        Blocks that other parts have still to do, where it is not finished.
    clustering
        How labels were made, with what was decided; None without labels.
    rounding
        By how much fields that are kept differ from the computed ones at most, by name; those that
        are kept as they were computed are not in it.
    """

    blocks_total: int
    blocks_resumed: int
    instances: int | None
    missing: Missing | None = None
    clustering: Clustering | None = None
    rounding: dict[str, float] = field(default_factory=dict)


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
    with run.alone("consensus"):
        decide(run, workshop.store, ledger, inputs.volume, plan.recipe)
        run.create()
    count = run.fields()
    with run.alone("finish"):
        missing = run.missing()
        if missing is not None:
            return Progress(count.total, count.resumed, None, missing)
        run.finish_fields()
        rounding = run.note_rounding()
        instances, clustering = None, None
        if plan.recipe.labels is not None:
            clustering = run.segments()
            instances = run.labels()
        # Entered first: a run that dies while scratch goes must not look for it again.
        run.once("finish", run.finish)
        workshop.store.provisional.remove()
        workshop.store.raw.remove()
        forget_merging(workshop.store, ledger)
        ledger.sweep()  # workers and parts may have died meanwhile
    return Progress(count.total, count.resumed, instances, clustering=clustering, rounding=rounding)


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

    @property
    def layout(self) -> Layout:
        return Layout.of(self.recipe, self.settings.chunk_shape, self.settings.ngff)

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
            share=self.settings.part.mine if self.settings.part and stage in _SHARED else None,
        )

    def alone(self, lease: str) -> AbstractContextManager[None]:
        """Keep other parts from a step that one of them does."""
        if self.settings.part is None:
            return nullcontext()
        return self.ledger.holding(lease, self.events.say)

    def missing(self) -> Missing | None:
        """Blocks of other parts, whose cells are not all there."""
        part = self.settings.part
        if part is None:
            return None
        made, lacking = self.ledger.finished("create")[()], set()
        for stage in _SHARED if made["image"] == "copy" else _SHARED[1:]:
            cells, done = self.workshop.cells(stage), self.ledger.finished(stage).keys()
            for at, block in enumerate(cells.blocks(self.plan.schedule.block_shape)):
                if any(cells.index(cell) not in done for cell in cells.cells(block)):
                    lacking.add(at)
        return Missing(Counter(map(part.owner, lacking)), part) if lacking else None

    def create(self) -> None:
        """Empty arrays, for all parts."""
        self.once("create", self._create)
        if self.recipe.classes:
            dtype = str(class_type(self.recipe.classes))
            self.once("create labels", lambda: self._create_labels(dtype))
        make_scratch(self.store, self.recipe)  # also for cells whose entries have been deleted

    def fields(self) -> StageCount:
        """The image, and the fields with what is made of them cell by cell."""
        if self.ledger.finished("create")[()]["image"] == "copy":
            self.blocks("image")
        return self.blocks("predict")

    def _create(self) -> CellRecord:
        layout = self.layout
        image = make_image(self.store, self.inputs, self.settings.image, self.recipe, layout)
        if image != self.settings.image and self.volume.path is not None:
            self.events.say(
                "image: not linked, as only a local OME-Zarr of the same version can be; "
                "--image copy copies it"
            )
        make_field_arrays(self.store, self.recipe, self.volume, layout)
        return {"image": image}

    def finish(self) -> CellRecord:
        """The last entry: what describes the arrays, for `verify`."""
        files = {
            name: file_checksum((self.store.path / name).read_bytes())
            for name in metadata_files(self.store, self.recipe, self.volume)
        }
        return {"metadata": files, "links": linked_levels(self.store)}

    def finish_fields(self) -> None:
        """Fields through the steps that need the whole of them."""
        if self.recipe.finished:
            decide_fields(self, self.workshop.raw, self.ledger)
            self.blocks("fields")

    def note_rounding(self) -> dict[str, float]:
        """Sum up what rounding fields has changed, and write it beside them."""
        largest: dict[str, float] = {}
        if self.recipe.save_fields and self.recipe.saved_type != self.recipe.kept:
            for stage in ("predict", "fields"):
                for record in self.ledger.finished(stage).values():
                    for name, difference in record.get("rounding", {}).items():
                        largest[name] = max(largest.get(name, 0.0), difference)
        for name, difference in sorted(largest.items()):
            note = {
                "computed": self.recipe.kept,
                "stored": self.recipe.saved_type,
                "max_abs_rounding": difference,
            }
            write_note(self.store.field(name), note, self.settings.ngff)
        return largest

    def segments(self) -> Clustering:
        """What labels need of all fields, and provisional labels by it."""
        if not needs_consensus(self.recipe):
            return load_clustering(self.store, self.recipe)
        decided = decide_clusters(self, self.workshop.raw, self.ledger)
        assert self.recipe.labels is not None
        if self.recipe.labels["bandwidth"] == "auto":
            self.events.say(f"bandwidth: auto -> {decided.settings.radius:.4g}")
        if decided.modes is not None:
            self.events.say(f"clusters: {len(decided.modes.units)} in the volume")
        self.blocks("segment")
        return decided

    def labels(self) -> int | None:
        """Final labels of what the fields gave; returns the number of instances, if they are."""
        if self.recipe.classes:
            self._pyramid()
            return None
        merged = merge_all(
            self,
            self.workshop.merging,
            budget=self.settings.max_memory or allotted_memory().memory,
            table="table" in self.settings.save,
            voxel_size=self.volume.voxel_size,
            axes=self.volume.axes,
        )
        self.once("create labels", lambda: self._create_labels(merged["dtype"]))
        self.blocks("labels")
        self._pyramid()
        return int(merged["instances"])

    def _pyramid(self) -> None:
        for level in range(1, len(self.workshop.pyramid.levels)):
            self.blocks(f"pyramid {level}", self.recipe.cell_shape)

    def _create_labels(self, dtype: str) -> CellRecord:
        shown = self.ledger.finished("create")[()]["image"] != "none"
        make_label_arrays(
            self.store, self.workshop.pyramid, self.volume, dtype, self.layout, with_image=shown
        )
        return {}


def written_by(store: ResultStore, recipe: Recipe, volume: Volume) -> Iterator[Written]:
    """The stages of a finished run with what of them remains, for checking the ledger."""
    first = first_pass(volume, recipe)
    if first is not None:
        yield Written(FIRST_PASS, portions(first))
    yield Written("consensus", None, files={"consensus": lambda _: store.consensus_file})
    yield Written("create", None)
    if store.stored()["form"]["image"] == "copy":
        whole = CellGrid(Roi.whole(recipe.extent), recipe.cell_shape)
        yield Written("image", whole, {"image": store.path / "0"})
    final = {name: store.field(name) / "0" for name in recipe.finished}
    fields, over = {}, bool(store.ledger.survey("finish")[0])
    if recipe.save_fields:
        fields = {n: store.field(n) / "0" for n, _ in recipe.outputs if n not in final}
    if not over:
        fields |= {f"{RAW}{each.name}": store.raw / each.name for each in recipe.raw}
    segments = {}
    if recipe.classes:
        segments[ClassSink.NAME] = store.labels / "0"
    elif recipe.labels is not None and not over:
        segments["provisional"] = store.provisional
    layout = {each.name: each for each in recipe.fields}
    layout |= {f"{RAW}{name}": each for name, each in layout.items()}
    if needs_consensus(recipe):
        yield Written("predict", recipe.cells, fields, {"samples": store.samples}, layout)
        yield Written("clusters", None, files={"clusters": lambda _: store.clusters_file})
        yield Written("segment", recipe.cells, segments, {"evidence": store.evidence})
    else:
        files = {"samples": store.samples, "evidence": store.evidence}
        yield Written("predict", recipe.cells, {**fields, **segments}, files, layout)
    if final:
        decided = {"field maps": lambda _: store.field_maps_file}
        yield Written("field maps", None, files=decided)
        yield Written("fields", recipe.cells, final, layout=layout)
    if recipe.labels is not None:
        if not recipe.classes:
            merged = {"arrays": store.merged}
            yield Written("districts", None)
            yield Written("merge", districts_of(store.ledger, recipe), files=merged)
            yield Written("instances", None, files={"table": lambda _: store.table_file})
        yield Written("create labels", None)
        if not recipe.classes:
            yield Written("labels", recipe.cells, {"labels": store.labels / "0"})
        pyramid = LabelPyramid.of(recipe, volume)
        for level in range(1, len(pyramid.levels)):
            arrays = {"labels": store.labels / str(level)}
            yield Written(f"pyramid {level}", pyramid.cells(level), arrays)
    yield Written("finish", None)
