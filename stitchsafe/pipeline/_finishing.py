"""Fields whose last steps take statistics of the whole field: decided and done when it is there.

::

    predict               the field as the network and its pointwise steps give it -> raw/<name>
    field statistics 1    map: a tally of each portion of it
    field settle 1        reduce: one tally of the whole
    field statistics 2 …  what the next pass collects depends on what the earlier ones have settled
    field maps            fields.json: a pointwise map of each channel; the tallies go
    fields                map: raw/<name> through these maps -> fields/<name>

The whole is what is predicted: the elements of the ROI, without cells that a mask leaves out (which
are 0 in the end). Nothing is changed in place. Of a finished result the raw fields are gone;
whatever of it has to be made anew is predicted again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    BlockInput,
    CellIndex,
    CellRecord,
    FieldMaker,
    Fields,
    Intensity,
    Ledger,
    checksum,
    load_json,
    save_json,
)
from stitchsafe.errors import IntegrityError
from stitchsafe.networks import Finishing, Pointwise
from stitchsafe.pipeline._deciding import Runs, Tallies, nth_pass, reach
from stitchsafe.pipeline._steps import Chains, deciding_chain
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Field, Recipe
from stitchsafe.volumes import ArrayStore, Pass, Tally, Volume

__all__ = [
    "FinishWork",
    "RawFields",
    "decide_fields",
    "field_pass",
    "field_tallies",
    "load_field_maps",
    "mapped",
]

_KEPT = 2**24
"""Numbers of raw cells that are kept at hand while a portion is read."""

Maps = dict[str, Chains]
"""For each field that is finished, the maps of its channels."""


def field_tallies(store: ResultStore) -> Tallies:
    """Of raw fields."""
    return Tallies(store.field_statistics, "field ")


@dataclass(frozen=True)
class RawFields:
    """Reads cells of fields before the steps that need the whole of them.

    Parameters
    ----------
    store, recipe
        The result.
    records
        What the ledger says of the predicted cells; None for a finished result, whose raw fields
        are gone.
    maker
        Makes what predicts again, where that is needed.
    """

    store: ResultStore
    recipe: Recipe
    records: Mapping[CellIndex, CellRecord] | None
    maker: Callable[[], FieldMaker]
    _arrays: dict[str, ArrayStore] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, store: ResultStore, recipe: Recipe, ledger: Ledger, maker: Callable[[], FieldMaker]
    ) -> RawFields:
        over = bool(ledger.finished("finish"))
        return cls(store, recipe, None if over else ledger.finished("predict"), maker)

    def again(self, block: Roi) -> BlockInput | None:
        """What predicting the cells of a block again reads; None where they lie in scratch."""
        return self.maker().read(block) if self.records is None else None

    def read(self, cell: Roi, names: Sequence[str], source: BlockInput | None = None) -> Fields:
        """Fields of a whole cell.

        Raises
        ------
        IntegrityError
            If one does not hold what was written.
        """
        if self.records is None:
            made = self.maker().fields(cell, self.maker().read(cell) if source is None else source)
            return {name: made[name] for name in names}
        record = self.records[self.recipe.cells.index(cell)]
        return {name: self._checked(name, cell, record) for name in names}

    def _checked(self, name: str, cell: Roi, record: CellRecord) -> NDArray[np.floating]:
        if name not in self._arrays:
            self._arrays[name] = ArrayStore.open(self.store.raw / name)
        layout, _ = self.recipe.finished[name]
        data = self._arrays[name].read(layout.box(cell))
        if checksum(data) != record["checksums"][name]:
            raise IntegrityError(
                f"{self.store.raw / name} at {cell} no longer holds what was written; the same "
                "command with --repair does that cell again"
            )
        return data


@dataclass(frozen=True)
class _FieldView:
    """A raw field as a volume, to take statistics of: what a mask leaves out is NaN."""

    raw: RawFields
    layout: Field
    _cells: OrderedDict[CellIndex, NDArray[np.floating]] = field(
        default_factory=OrderedDict, repr=False
    )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape(self.raw.recipe.extent)

    @property
    def channels(self) -> int:
        return self.layout.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.raw.recipe.kept)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        recipe = self.raw.recipe
        cell = zip(recipe.cell_shape, recipe.extent, strict=True)
        return self.layout.shape([min(c, e) for c, e in cell])

    def read(self, roi: Roi) -> NDArray[np.floating]:
        cells = self.raw.recipe.cells
        found = np.full((self.channels, *roi.shape), np.nan, self.dtype)
        voxels = Roi.from_bounds(
            [math.floor(o / s) for o, s in zip(roi.offset, self.layout.scale, strict=True)],
            [math.ceil(e / s) for e, s in zip(roi.end, self.layout.scale, strict=True)],
        )
        for index in map(cells.index, cells.cells(voxels)):
            cell = cells.cell_at(index)
            elements = self.layout.elements(cell)
            part = elements.intersect(roi)
            if part.size and not self.raw.recipe.skips(cell):
                data = self._cell(index, cell)
                found[(slice(None), *part.relative_to(roi).slices)] = data[
                    (slice(None), *part.relative_to(elements).slices)
                ]
        return found

    def _cell(self, index: CellIndex, cell: Roi) -> NDArray[np.floating]:
        """A cell, at hand since pieces of several may alternate."""
        if index not in self._cells:
            name = self.layout.name
            data = self.raw.read(cell, [name])[name]
            while self._cells and (len(self._cells) + 1) * data.size > _KEPT:
                self._cells.popitem(last=False)
            self._cells[index] = data
        return self._cells[index]


def deciding_fields(raw: RawFields) -> Generator[Pass, Tally, Maps]:
    """Ask for passes over the raw fields until the maps of all are known."""
    maps: Maps = {}
    for name, (layout, listed) in raw.recipe.finished.items():
        steps = TypeAdapter(tuple[Finishing, ...]).validate_python(listed)
        view = cast(Volume, _FieldView(raw, layout))  # as much of one as statistics ask for
        region = layout.elements(raw.recipe.roi)
        maps[name] = yield from deciding_chain(view, steps, range(layout.channels), roi=region)
    return maps


def field_pass(raw: RawFields, ledger: Ledger, number: int) -> Pass:
    """A pass over raw fields, from 1, given that the earlier ones are settled."""
    return nth_pass(deciding_fields(raw), field_tallies(raw.store), ledger, number)


def decide_fields(run: Runs, raw: RawFields, ledger: Ledger) -> None:
    """Do what is left until the maps of all fields are known."""
    tallies = field_tallies(raw.store)
    if not ledger.finished("field maps"):
        maps = reach(run, tallies, ledger, deciding_fields(raw))

        def save() -> CellRecord:
            content = {
                name: [[step.to_json() for step in chain] for chain in chains]
                for name, chains in maps.items()
            }
            written = save_json(raw.store.field_maps_file, {"maps": content})
            return {"checksums": {"field maps": written}}

        run.once("field maps", save)
    tallies.remove(ledger)


def load_field_maps(store: ResultStore) -> Maps:
    """What was decided.

    Raises
    ------
    IntegrityError
        If its record is gone or damaged.
    """
    try:
        content = load_json(store.field_maps_file)["maps"]
    except OSError as error:
        raise IntegrityError(
            f"{store.field_maps_file} is gone; the same predict command with --repair decides again"
        ) from error
    return {
        name: tuple(tuple(map(Pointwise.from_json, chain)) for chain in chains)
        for name, chains in content.items()
    }


def mapped(raw: NDArray[np.floating], chains: Chains) -> NDArray[np.floating]:
    """A field, shape (channels, *space), through the maps of its channels, rounded once."""
    zero, one = (0.0,) * len(chains), (1.0,) * len(chains)
    return Intensity(zero, one, str(raw.dtype), then=chains).apply(raw)


@dataclass(frozen=True)
class FinishWork:
    """The stage that writes final fields."""

    raw: RawFields
    maps: Maps
    targets: Mapping[str, ArrayStore]

    def read(self, block: Roi, cells: Sequence[Roi]) -> BlockInput | None:
        if all(map(self.raw.recipe.skips, cells)):
            return None
        return self.raw.again(block)

    def compute(self, cells: Sequence[Roi], source: BlockInput | None) -> Iterator[Fields]:
        for cell in cells:
            yield self._finished(cell, source)

    def _finished(self, cell: Roi, source: BlockInput | None) -> Fields:
        if self.raw.recipe.skips(cell):
            return {
                name: np.zeros(layout.box(cell).shape, self.raw.recipe.kept)
                for name, (layout, _) in self.raw.recipe.finished.items()
            }
        raw = self.raw.read(cell, list(self.maps), source)
        return {name: mapped(raw.pop(name), chains) for name, chains in self.maps.items()}

    def write(self, cell: Roi, result: Fields) -> CellRecord:
        checksums = {}
        for name, data in result.items():
            layout, _ = self.raw.recipe.finished[name]
            self.targets[name].write(layout.box(cell), data)
            checksums[name] = checksum(data)
        return {"checksums": checksums}
