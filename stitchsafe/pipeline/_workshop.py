"""Where blocks of a prediction are done: an opened result with its volume and network.

The run itself has one, and so has each worker, which opens it from a `Job`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import (
    ArrayWork,
    BlockInput,
    CellRecord,
    FieldMaker,
    FieldSink,
    FieldWork,
    Lease,
    Ledger,
    SampleSink,
    Sink,
    Stage,
    Work,
    checksum,
)
from stitchsafe.errors import InputError, IntegrityError, ModelError
from stitchsafe.instances import (
    ClassSink,
    LabelSettings,
    SegmentSink,
    class_map,
    final_labels,
    segment_window,
)
from stitchsafe.networks import Network, is_factory
from stitchsafe.pipeline._checked import CheckedCells, downsampling
from stitchsafe.pipeline._clustering import (
    SegmentWork,
    cluster_pass,
    cluster_tallies,
    load_clustering,
    needs_consensus,
    segmenting,
)
from stitchsafe.pipeline._consensus import deciding, load_consensus
from stitchsafe.pipeline._deciding import PassWork, nth_pass, portions, volume_tallies
from stitchsafe.pipeline._devices import computes_on
from stitchsafe.pipeline._finishing import (
    FinishWork,
    field_pass,
    field_tallies,
    load_field_maps,
)
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._mask import VoxelMask, mask_place
from stitchsafe.pipeline._merging import MergedWindows, MergingStages, is_merging
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._outputs import LabelPyramid
from stitchsafe.pipeline._raw import RAW, RawFields
from stitchsafe.pipeline._reopen import reopen
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe, grid_of
from stitchsafe.volumes import ArrayStore, Pass, Place, Volume

__all__ = ["Job", "Workshop", "final_labels_of"]


_PASSES = ("statistics ", "field statistics ", "cluster statistics ")
"""How the names of stages that are passes begin."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to open a workshop; small, and without any data.

    Parameters
    ----------
    out
        The result.
    origin
        What loads the network.
    volume, mask
        Where they are now, whatever the result says of where they were when it was begun.
    trust
        Whether code that the model brings along may run.
    lease
        What commits are checked by.
    device
        Which one this worker's passes run on.
    """

    out: Place
    origin: Origin
    volume: str
    mask: str | None
    trust: bool
    lease: Lease | None = None
    device: str = "cpu"

    @classmethod
    def of(
        cls,
        store: ResultStore,
        inputs: Inputs,
        settings: Settings,
        lease: Lease | None = None,
        device: str = "cpu",
    ) -> Job:
        """The job of a run, for a worker with a device.

        Raises
        ------
        InputError
            If its volume, mask or network lies in memory, where no other process finds it.
        """
        needed = {"volume": inputs.volume.path, "model": inputs.origin.model}
        if settings.mask_voxels:
            needed["mask"] = mask_place(settings.mask)
        for what, place in needed.items():
            if place is None:
                raise InputError(
                    f"the {what} lies in the memory of this process, and workers open it by "
                    "themselves; give it as a path, or leave out the workers"
                )
        # A factory runs since the user names it.
        trust = settings.trust_model or is_factory(str(inputs.origin.model))
        volume, mask = str(inputs.volume.path), mask_place(settings.mask)
        return cls(store.path.absolute, inputs.origin, volume, mask, trust, lease, device)

    def __call__(self) -> Workshop:
        store = ResultStore(self.out)
        network, recipe = self.origin.load(trust=self.trust), store.recipe()
        opened = reopen(store, network, self.volume)
        for what, here, asked in (
            ("library", opened.network.build, recipe.build),
            ("processor", computes_on(recipe, opened.network), recipe.processor),
        ):
            if here != asked:
                raise ModelError(
                    f"the {what} of this worker is {here!r}, and the recipe says {asked!r}, whose "
                    "arithmetic may differ in the last bit; take workers that are alike"
                )
        mask = VoxelMask.of(self.mask, recipe)
        return Workshop(store, recipe, opened.network, opened.volume, mask, self.lease, self.device)


@dataclass(frozen=True)
class Workshop:
    """Does blocks of the stages that have cells."""

    store: ResultStore
    recipe: Recipe
    network: Network
    volume: Volume
    mask: VoxelMask | None = None
    lease: Lease | None = None
    device: str = "cpu"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store.ledger.folder, lease=self.lease)

    @cached_property
    def maker(self) -> FieldMaker:
        """What computes fields; the network is made ready when it is first asked for."""
        consensus = load_consensus(self.store, self.recipe)
        grid = grid_of(self.recipe, self.network.geometry)
        return FieldMaker(
            self.recipe, grid, self.network, self.volume, consensus.intensity, device=self.device
        )

    @property
    def raw(self) -> RawFields:
        """Fields as they are before what needs the whole of them."""
        return RawFields.of(self.store, self.recipe, self.ledger, lambda: self.maker, self.mask)

    @property
    def merging(self) -> MergingStages:
        """The stages of merging, with what they have left by now."""
        return MergingStages(self.store, self.recipe, self.ledger)

    @property
    def _whole(self) -> list[str]:
        return list(self.recipe.finished)

    @cached_property
    def pyramid(self) -> LabelPyramid:
        return LabelPyramid.of(self.recipe, self.volume)

    def cells(self, stage: str) -> CellGrid:
        """All cells of a stage."""
        if stage.startswith(_PASSES):
            return portions(self._pass(stage))
        if stage == "image":
            return CellGrid(Roi.whole(self.recipe.extent), self.recipe.cell_shape)
        if stage.startswith("pyramid "):
            return self.pyramid.cells(_number(stage))
        if is_merging(stage):
            return self.merging.cells(stage)
        return self.recipe.cells

    def stage(self, name: str) -> Stage:
        # While a device computes the next cell, this process may write the last one. On a processor
        # it is the same cores that would do both.
        behind = name == "predict" and self.device != "cpu"
        return Stage(name, self.cells(name), self._work(name), writes_behind=behind)

    def _pass(self, stage: str) -> Pass:
        if stage.startswith("field "):
            return field_pass(self.raw, self.ledger, _number(stage))
        if stage.startswith("cluster "):
            return cluster_pass(self.raw, self.ledger, _number(stage))
        asking = deciding(self.volume, self.recipe)
        return nth_pass(asking, volume_tallies(self.store), self.ledger, _number(stage))

    def _work(self, name: str) -> Work:
        if name.startswith(_PASSES):
            of = {"field": field_tallies, "cluster": cluster_tallies}.get(
                name.partition(" ")[0], volume_tallies
            )
            return PassWork(self._pass(name), partial(of(self.store).portion, _number(name)))
        if name == "fields":
            fields = {each: ArrayStore.open(self.store.field(each) / "0") for each in self._whole}
            return FinishWork(self.raw, load_field_maps(self.store), fields)
        if name == "image":
            return ArrayWork("image", self.volume.read, ArrayStore.open(self.store.path / "0"))
        if name == "predict":
            return FieldWork(self.maker, self._sinks())
        if name == "segment":
            return SegmentWork(self.raw, self._segments())
        if is_merging(name):
            return self.merging.work(name)
        if name == "labels":
            return self._relabelling()
        level = _number(name)
        finer, kept = f"pyramid {level - 1}", "labels"
        if level == 1:
            finer, kept = ("predict", ClassSink.NAME) if self.recipe.classes else (kept, kept)
        known = self._checked(finer, kept, self._labels(level - 1))
        make = downsampling(known, self.pyramid.steps(level))
        return ArrayWork("labels", make, self._labels(level))

    def _checked(self, stage: str, name: str, array: ArrayStore) -> CheckedCells:
        return CheckedCells(array, self.cells(stage), self.ledger.finished(stage), name)

    def _sinks(self) -> list[Sink]:
        store, recipe, layout = self.store, self.recipe, self.recipe.fields
        sinks: list[Sink] = [SampleSink(store.samples, recipe.cells, layout, recipe.seed)]
        if recipe.save_fields:
            saved = [each for each in layout if each.name not in self._whole]
            arrays = {n.name: ArrayStore.open(store.field(n.name) / "0") for n in saved}
            sinks.append(FieldSink(arrays, saved))
        if recipe.raw:
            arrays = {each.name: ArrayStore.open(store.raw / each.name) for each in recipe.raw}
            sinks.append(FieldSink(arrays, recipe.raw, RAW))
        if recipe.labels is not None and recipe.classes:
            settings, nan = LabelSettings.from_json(recipe.labels), recipe.nan == "keep"
            sinks.append(
                ClassSink(self._labels(0), settings, nan_is_background=nan, inside=self.mask)
            )
        elif recipe.labels is not None and not needs_consensus(recipe):
            sinks.append(self._segments())
        return sinks

    def _segments(self) -> SegmentSink:
        clustering = load_clustering(self.store, self.recipe)
        return SegmentSink(
            ArrayStore.open(self.store.provisional),
            self.store.evidence,
            self.recipe.cells,
            clustering.settings,
            nan_is_background=self.recipe.nan == "keep",
            inside=self.mask,
            modes=clustering.modes,
        )

    def _relabelling(self) -> Work:
        final = self._labels(0)
        if self.ledger.finished("finish"):  # a cell whose entry has been deleted is made anew
            return _Anew(self.maker, self.store, final, self.mask)
        scratch = ArrayStore.open(self.store.provisional)
        provisional = self._checked(segmenting(self.recipe), "provisional", scratch)
        merged, extent = MergedWindows(self.store, self.recipe), self.recipe.extent

        def make(cell: Roi) -> NDArray[Any]:
            if self.recipe.skips(cell):
                return np.zeros(cell.shape, final.dtype)
            return final_labels(provisional.read(cell), cell, merged.of(cell), extent)

        return ArrayWork("labels", make, final)

    def _labels(self, level: int) -> ArrayStore:
        return ArrayStore.open(self.store.labels / str(level))


@dataclass(frozen=True)
class _Anew:
    """Final labels of cells, from the volume on."""

    maker: FieldMaker
    store: ResultStore
    final: ArrayStore
    mask: VoxelMask | None

    def read(self, block: Roi, cells: Sequence[Roi]) -> BlockInput:
        del cells
        return self.maker.read(block)

    def compute(self, cells: Sequence[Roi], source: BlockInput) -> Iterator[NDArray[Any]]:
        for cell in cells:
            if self.maker.recipe.skips(cell):
                yield np.zeros(cell.shape, self.final.dtype)
                continue
            fields = self.maker.fields(cell, source)
            yield final_labels_of(self.store, self.maker.recipe, cell, fields, self.mask)

    def write(self, cell: Roi, result: NDArray[Any]) -> CellRecord:
        self.final.write(cell, result)
        return {"checksums": {"labels": checksum(result)}}


def _number(stage: str) -> int:
    """The number of a level, or of a pass."""
    return int(stage.rpartition(" ")[2])


def final_labels_of(
    store: ResultStore,
    recipe: Recipe,
    cell: Roi,
    fields: dict[str, Any],
    mask: VoxelMask | None,
) -> NDArray[Any]:
    """Labels of a cell, made again from its fields."""
    if recipe.labels is None:
        raise IntegrityError("the result holds no labels; predict it with --save labels")
    clustering, nan = load_clustering(store, recipe), recipe.nan == "keep"
    settings, inside = clustering.settings, None if mask is None else mask(cell)
    if settings.is_class_map:
        return class_map(fields, settings=settings, nan_is_background=nan, inside=inside)
    segments = segment_window(
        fields, settings=settings, nan_is_background=nan, inside=inside, modes=clustering.modes
    )
    merged = MergedWindows(store, recipe).of(cell)
    return final_labels(segments.labels, cell, merged, recipe.extent)
