"""The verb verify: whether a result is whole, and what the network gives.

Three questions, each answered from the store and the volume alone:

* Is every cell in the ledger, and do the arrays hold what the ledger says was written?
* Do recorded voxels come out again, bit for bit under the recipe, and to rounding when the tiles
  are shifted by one period?
* Do the labels of some clustering windows come out again from the fields?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    Events,
    FieldMaker,
    Fields,
    Silent,
    checksum,
    file_checksum,
)
from stitchsafe.errors import IntegrityError, ModelError, StoreError
from stitchsafe.networks import load_network
from stitchsafe.pipeline._consensus import load_consensus
from stitchsafe.pipeline._devices import is_this_machine, places_for
from stitchsafe.pipeline._inputs import ModelLike, VolumeLike
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._reopen import reopen
from stitchsafe.pipeline._samples import Samples, measure_seams, recorded, spread
from stitchsafe.pipeline._stages import Written, written_by
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import final_labels_of
from stitchsafe.precision import Precision
from stitchsafe.tiling import Recipe, grid_of
from stitchsafe.volumes import ArrayStore, PlaceError, Volume

__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """The answer of verify.

    Parameters
    ----------
    voxels
        Recorded voxels that were predicted again.
    bit_mismatches
        Of those, how many differ under the recipe.
    max_abs_diff, tolerance
        Largest difference on the shifted grid, and what is allowed: None where the network cannot
        be stitched exactly, so that no difference is too large.
    label_mismatches
        Voxels whose label does not come out again.
    corrupt, missing
        Arrays and cells that are damaged, or were never finished.
    exact
        Whether stitched equals whole for the network; False where the user accepted that it does
        not.
    """

    voxels: int
    bit_mismatches: int
    max_abs_diff: float
    tolerance: float | None
    label_mismatches: int
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]
    exact: bool = True

    @property
    def ok(self) -> bool:
        return not (
            self.bit_mismatches
            or self.label_mismatches
            or self.corrupt
            or self.missing
            or (self.tolerance is not None and not self.max_abs_diff <= self.tolerance)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "exact": self.exact,
            "voxels": self.voxels,
            "bit_mismatches": self.bit_mismatches,
            "max_abs_diff": self.max_abs_diff,
            "tolerance": self.tolerance,
            "label_mismatches": self.label_mismatches,
            "corrupt": list(self.corrupt),
            "missing": list(self.missing),
        }

    def describe(self) -> str:
        """The answer for people."""
        allowed = "not exact, as accepted"
        if self.tolerance is not None:
            allowed = f"tolerance {self.tolerance:.2g}"
        lines = [
            f"{self.voxels} recorded voxels predicted again: {self.bit_mismatches} differ under "
            f"the recipe; on a shifted grid by at most {self.max_abs_diff:.2g} ({allowed})",
            f"labels: {self.label_mismatches} voxels differ",
        ]
        lines += [f"missing: {place}" for place in self.missing]
        lines += [f"corrupt: {place}" for place in self.corrupt]
        if self.ok:
            return "\n".join([*lines, "verified" if self.exact else "verified, but NOT exact"])
        remedy = ""
        if self.missing and not self.corrupt:
            remedy = ": the same predict command finishes what is missing"
        elif self.corrupt:
            remedy = ": predict it again with --overwrite"
        return "\n".join([*lines, f"NOT verified{remedy}"])


def verify(
    out: str | Path,
    *,
    volume: VolumeLike | None = None,
    model: ModelLike | None = None,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_channels: int | Sequence[int] | None = None,
    model_axes: str | Mapping[str, str] | None = None,
    trust_model: bool = False,
    cells: int = 8,
    events: Events | None = None,
) -> Verification:
    """Check a result of predict.

    Parameters
    ----------
    out
        The store.
    volume, model
        Where they are now, if they have been moved; by default where predict found them.
    weights, arguments, input_channels
        Of `model`, if it is ``package.module:factory``.
    model_axes
        Of `model`, if it is an ONNX file.
    trust_model
        Whether code that the model brings along, or that the result names, may run.
    cells
        How many cells to predict again, spread over the volume. All arrays are checked whole.
    events
        Told of progress.

    Returns
    -------
    Verification

    Raises
    ------
    StoreError
        If `out` is no result of stitchsafe.
    VolumeError, ModelError
        If the volume or the model is gone, or is not the one of the recipe.
    IntegrityError
        If the record of how it was made is gone or damaged.
    """
    events = events or Silent()
    store = ResultStore.at(out)
    stored = store.stored()
    recipe = store.recipe()
    if model is None:
        if weights is not None or arguments or input_channels or model_axes:
            raise ModelError(
                "weights, arguments, input channels and axes go with a model; give it too, with "
                "--model"
            )
        network = Origin.from_json(stored).load(trust=trust_model)
    else:
        network = load_network(
            model,
            weights=weights,
            arguments=arguments,
            input_channels=input_channels,
            model_axes=model_axes,
            trust=trust_model,
        )
    opened = reopen(store, network, volume)
    network, source = opened.network, opened.volume
    missing, corrupt = _check_arrays(store, recipe, source, events)
    consensus = load_consensus(store, recipe)
    if consensus is None:
        raise IntegrityError(f"{store.consensus_file} is gone; start again with --overwrite")
    grid = grid_of(recipe, network.geometry)
    place = places_for(recipe, network)[0]
    maker = FieldMaker(recipe, grid, network, source, consensus.intensity, device=place)
    chosen = spread(store, cells)
    same_machine = is_this_machine(recipe, network)
    if not same_machine:
        events.say(
            f"the result was made with {recipe.build} on {recipe.processor}, unlike here: "
            "recorded voxels are compared to rounding, not bit for bit"
        )
    if not recipe.exact:
        events.say(
            "the network cannot be stitched exactly, as was accepted; what other tiles give for "
            "recorded voxels is measured, and speaks neither for nor against the result"
        )
    events.stage("verify", len(chosen), "cells")
    voxels = bits = labels = 0
    for index in chosen:
        cell = recipe.cells.cell_at(index)
        found = recorded(store, recipe, index)
        if found is None:
            continue  # among the corrupt files
        again = maker.fields(cell, maker.read(cell))
        for samples in found:
            voxels += len(samples.positions)
            bits += _mismatches(samples, cell, again, same_machine, recipe.arithmetic)
        labels += _label_mismatches(store, recipe, cell, again)
        events.advance()
    seams = measure_seams(store, maker, chosen)
    tolerance = recipe.arithmetic.tolerance * max(seams.max_abs_value, 1e-30)
    return Verification(
        voxels,
        bits,
        seams.max_abs_diff,
        tolerance if recipe.exact else None,
        labels,
        corrupt,
        missing,
        exact=recipe.exact,
    )


def _mismatches(
    samples: Samples, cell: Roi, again: Fields, same_machine: bool, arithmetic: Precision
) -> int:
    """How many recorded places of a cell do not come out again under the recipe."""
    wrong = np.zeros(len(samples.positions), bool)
    for field in samples.layout:
        inside = (samples.positions - np.asarray(field.elements(cell).offset)).T
        found, expected = again[field.name][(slice(None), *inside)], samples.values[field.name]
        size = float(np.nanmax(np.abs(expected), initial=0.0))
        allowed = 0.0 if same_machine else arithmetic.tolerance * size
        agree = (np.abs(found - expected) <= allowed) | (np.isnan(found) & np.isnan(expected))
        wrong |= ~agree.all(axis=0)
    return int(wrong.sum())


def _check_arrays(
    store: ResultStore, recipe: Recipe, volume: Volume, events: Events
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compare every array and file, and the volume, with the ledger."""
    missing: list[str] = []
    corrupt: list[str] = []
    for stage in written_by(store, recipe, volume):
        finished = store.ledger.finished(stage.stage)
        cells = [None] if stage.cells is None else list(stage.cells.cells())
        events.stage(f"check {stage.stage}", len(cells), "cells")
        for cell in cells:
            index = () if cell is None or stage.cells is None else stage.cells.index(cell)
            record = finished.get(index)
            if record is None:
                missing.append(stage.stage if cell is None else f"{stage.stage} of cell {cell}")
            else:
                corrupt += _damaged_files(stage, index, record)
                if cell is not None:
                    corrupt += _damaged_arrays(stage, cell, record)
                    corrupt += _changed_input(volume, cell, record)
            events.advance()
    missing += _missing_metadata(store, recipe)
    return tuple(missing), tuple(corrupt)


def _missing_metadata(store: ResultStore, recipe: Recipe) -> Iterator[str]:
    """Groups of the result that no reader would find."""
    groups = [store.path]
    if recipe.labels is not None:
        groups += [store.labels.parent, store.labels]
    if recipe.save_fields:
        groups += [store.path / "fields", *(store.field(name) for name, _ in recipe.outputs)]
    for group in groups:
        if not (group / "zarr.json").is_file() and not (group / ".zgroup").is_file():
            yield f"the metadata of the group {group}"


def _damaged_files(stage: Written, index: CellIndex, record: CellRecord) -> Iterator[str]:
    for name, place in stage.files.items():
        expected = record["checksums"].get(name)
        if expected is None:
            continue  # not asked for
        path = place(index)
        try:
            if file_checksum(path.read_bytes()) != expected:
                yield f"{path}: is not what was written"
        except PlaceError:
            raise  # says nothing of what is there
        except OSError as error:
            yield f"{path}: {error.strerror}"


def _damaged_arrays(stage: Written, cell: Roi, record: CellRecord) -> Iterator[str]:
    for name, path in stage.arrays.items():
        try:
            array = ArrayStore.open(path)
            leading = array.shape[: len(array.shape) - cell.ndim]
            region = Roi((*[0] * len(leading), *cell.offset), (*leading, *cell.shape))
            if name in stage.layout:
                region = stage.layout[name].box(cell)
            if checksum(array.read(region)) != record["checksums"][name]:
                yield f"{path} at {cell}: holds other values than were written"
        except PlaceError:
            raise
        except (IntegrityError, StoreError, ValueError, OSError) as error:
            yield f"{path} at {cell}: {error}"


def _changed_input(volume: Volume, cell: Roi, record: CellRecord) -> Iterator[str]:
    if "input" in record and checksum(volume.read(cell)) != record["input"]:
        yield f"{volume.path or 'the array'} at {cell}: holds other values than were read"


def _label_mismatches(store: ResultStore, recipe: Recipe, cell: Roi, fields: dict[str, Any]) -> int:
    if recipe.labels is None or not store.merges_file.is_file():
        return 0
    finest = store.labels / "0"
    if not any((finest / name).is_file() for name in ("zarr.json", ".zarray")):
        return 0
    try:
        expected = final_labels_of(store, recipe, cell, fields)
        found = ArrayStore.open(store.labels / "0").read(cell)
    except (IntegrityError, StoreError, ValueError, OSError):
        return cell.size
    return int((found != expected).sum())
