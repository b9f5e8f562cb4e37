"""The verb verify: whether a result is whole, and what the network gives.

Three questions, each answered from the store and the volume alone:

* Is every cell in the ledger, and do the arrays hold what the ledger says was written? Do the
  volume and the mask still hold what was read?
* Do recorded voxels come out again, bit for bit under the recipe, and to rounding when the tiles
  are shifted by one period?
* Do the labels of some clustering windows come out again from the fields?
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events, FieldMaker, Fields, Shares, Silent
from stitchsafe.errors import IntegrityError, ModelError, StoreError, VolumeError
from stitchsafe.networks import load_network, own_threads
from stitchsafe.pipeline._audit import Finding, audit
from stitchsafe.pipeline._consensus import load_consensus
from stitchsafe.pipeline._devices import is_this_machine, places_for
from stitchsafe.pipeline._finishing import load_field_maps, mapped
from stitchsafe.pipeline._inputs import Inputs, ModelLike, VolumeLike
from stitchsafe.pipeline._mask import VoxelMask, masked_otherwise
from stitchsafe.pipeline._merging import is_merged
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._reading import Reading
from stitchsafe.pipeline._reopen import reopen
from stitchsafe.pipeline._samples import Samples, measure_seams, recorded, spread
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import final_labels_of
from stitchsafe.precision import PRECISIONS, Precision
from stitchsafe.tiling import Recipe, grid_of
from stitchsafe.volumes import ArrayStore

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
    repairable
        Whether predict with ``--repair`` can do again what is corrupt: not where the volume has
        changed, or the record of the recipe is damaged.
    """

    voxels: int
    bit_mismatches: int
    max_abs_diff: float
    tolerance: float | None
    label_mismatches: int
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]
    exact: bool = True
    repairable: bool = True

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
            "repairable": self.repairable,
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
        elif self.corrupt and self.repairable:
            remedy = ": the same predict command with --repair does again just what is damaged"
        elif self.corrupt:
            remedy = ": it cannot be repaired; predict it again with --overwrite"
        return "\n".join([*lines, f"NOT verified{remedy}"])


@own_threads()
def verify(
    out: str | Path,
    *,
    volume: VolumeLike | None = None,
    model: ModelLike | None = None,
    mask: VolumeLike | None = None,
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
    volume, model, mask
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
    """
    events = events or Silent()
    store = ResultStore.at(out)
    given = weights is not None or arguments or input_channels or model_axes
    if model is None and given:
        raise ModelError(
            "weights, arguments, input channels and axes go with a model; give it too, with --model"
        )
    try:
        stored, recipe = store.stored(), store.recipe()
    except IntegrityError as error:  # with it everything else stands or falls
        return Verification(0, 0, 0.0, 0.0, 0, (str(error),), (), repairable=False)
    if model is None:
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
    reading = Reading(opened.volume, Shares(recipe, grid_of(recipe, opened.network.geometry)))
    mask = stored.get("mask") if mask is None else mask
    held = VoxelMask.of(mask, recipe)
    findings = [*audit(store, reading, events), *_mask(mask, recipe, events)]
    again = _predict_again(store, recipe, opened, held, cells, events)
    return Verification(
        again.voxels,
        again.bit_mismatches,
        again.max_abs_diff,
        again.tolerance if recipe.exact else None,
        again.label_mismatches,
        tuple(dict.fromkeys(finding.text for finding in findings if not finding.missing)),
        tuple(finding.text for finding in findings if finding.missing),
        exact=recipe.exact,
        repairable=not any(finding.hopeless for finding in findings),
    )


def _mask(mask: object, recipe: Recipe, events: Events) -> Iterator[Finding]:
    """Whether the mask still says what is left out."""
    if recipe.skipping is None:
        return
    if mask is None:
        events.say("the mask was an array in memory, so it is not looked at; give it as mask=")
    elif (changed := masked_otherwise(mask, recipe)) is not None:
        yield Finding(changed, hopeless=True)


@dataclass
class _Again:
    """What predicting some cells again has shown."""

    voxels: int = 0
    bit_mismatches: int = 0
    label_mismatches: int = 0
    max_abs_diff: float = 0.0
    tolerance: float = 0.0


def _predict_again(
    store: ResultStore,
    recipe: Recipe,
    opened: Inputs,
    mask: VoxelMask | None,
    cells: int,
    events: Events,
) -> _Again:
    """Predict some cells again; those that cannot be, for damage that is found already, are not."""
    shown, network = _Again(), opened.network
    try:
        intensity = load_consensus(store, recipe).intensity
    except IntegrityError:
        return shown
    grid, place = grid_of(recipe, network.geometry), places_for(recipe, network)[0]
    maker = FieldMaker(recipe, grid, network, opened.volume, intensity, device=place)
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
    largest, finished = 0.0, store.ledger.survey("fields")[0]
    for index, entered in chosen.items():
        cell = recipe.cells.cell_at(index)
        found = recorded(store, recipe, index, entered)
        if found is None:
            continue
        try:
            fields = maker.fields(cell, maker.read(cell))
            seams = measure_seams(store, maker, {index: entered})
        except VolumeError:
            continue
        for samples in found:
            shown.voxels += len(samples.positions)
            wrong = _mismatches(samples, cell, fields, same_machine, recipe.arithmetic)
            final = recipe.finished if index in finished else {}
            wrong |= _unlike_what_is_kept(store, recipe, samples, final, same_machine)
            shown.bit_mismatches += int(wrong.sum())
        shown.label_mismatches += _label_mismatches(store, recipe, cell, fields, mask)
        shown.max_abs_diff = max(shown.max_abs_diff, seams.max_abs_diff)
        largest = max(largest, seams.max_abs_value)
        events.advance()
    shown.tolerance = recipe.arithmetic.tolerance * max(largest, 1e-30)
    return shown


def _mismatches(
    samples: Samples, cell: Roi, again: Fields, same_machine: bool, arithmetic: Precision
) -> NDArray[np.bool_]:
    """Which recorded places of a cell do not come out again under the recipe."""
    wrong = np.zeros(len(samples.positions), bool)
    for field in samples.layout:
        inside = (samples.positions - np.asarray(field.elements(cell).offset)).T
        found, expected = again[field.name][(slice(None), *inside)], samples.values[field.name]
        wrong |= ~_agree(found, expected, same_machine, arithmetic)
    return wrong


def _unlike_what_is_kept(
    store: ResultStore,
    recipe: Recipe,
    samples: Samples,
    final: Container[str],
    same_machine: bool,
) -> NDArray[np.bool_]:
    """Where a field that is kept is not the recorded one, mapped and rounded as it should be.

    Parameters
    ----------
    final
        Names of the fields that recorded maps have been done to; those that wait for them are not
        there yet.
    """
    wrong = np.zeros(len(samples.positions), bool)
    if not recipe.save_fields:
        return wrong
    there = [f for f in samples.layout if f.name in final or f.name not in recipe.finished]
    try:
        maps = load_field_maps(store) if any(f.name in final for f in there) else {}
        for field in there:
            expected, same = samples.values[field.name], True
            if field.name in maps:
                expected, same = mapped(expected, maps[field.name]), same_machine
            with np.errstate(over="ignore"):
                expected = expected.astype(recipe.saved_type)
            array = ArrayStore.open(store.field(field.name) / "0")
            corner, end = samples.positions.min(axis=0), samples.positions.max(axis=0) + 1
            box = Roi.from_bounds((0, *corner.tolist()), (field.channels, *end.tolist()))
            found = array.read(box)[(slice(None), *(samples.positions - corner).T)]
            wrong |= ~_agree(found, expected, same, PRECISIONS[recipe.saved_type])
    except (IntegrityError, StoreError, ValueError, KeyError, OSError):
        wrong[:] = True
    return wrong


def _agree(
    found: NDArray[Any], expected: NDArray[Any], same_machine: bool, arithmetic: Precision
) -> NDArray[np.bool_]:
    """At which elements all channels agree: to the bit, or on another machine to rounding."""
    size = float(np.nanmax(np.abs(expected), initial=0.0))
    allowed = 0.0 if same_machine else arithmetic.tolerance * size
    with np.errstate(invalid="ignore"):  # infinity less infinity
        agree = (found == expected) | (np.abs(found - expected) <= allowed)
    agree |= np.isnan(found) & np.isnan(expected)
    every: NDArray[np.bool_] = agree.all(axis=0)
    return every


def _label_mismatches(
    store: ResultStore, recipe: Recipe, cell: Roi, fields: dict[str, Any], mask: VoxelMask | None
) -> int:
    if recipe.labels is None or not (recipe.classes or is_merged(store.ledger, recipe)):
        return 0  # nothing to compare with, and said to be missing
    finest = store.labels / "0"
    if not any((finest / name).is_file() for name in ("zarr.json", ".zarray")):
        return 0
    try:
        expected = final_labels_of(store, recipe, cell, fields, mask)
        found = ArrayStore.open(store.labels / "0").read(cell)
    except VolumeError:  # the mask has changed, which is found already
        return 0
    except (IntegrityError, StoreError, ValueError, OSError):
        return cell.size
    return int((found != expected).sum())
