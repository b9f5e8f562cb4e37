"""Fields whose last steps take statistics of the whole field: decided and done when it is there.

::

    predict               the field as the network and its pointwise steps give it -> raw/<name>
    field statistics 1    map: a tally of each portion of it
    field settle 1        reduce: one tally of the whole
    field statistics 2 …  what the next pass collects depends on what the earlier ones have settled
    field maps            fields.json: a pointwise map of each channel; the tallies go
    fields                map: raw/<name> through these maps -> fields/<name>

The whole is what is predicted: the elements of the ROI, without cells that a mask leaves out (which
are 0 in the end). Nothing is changed in place.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    BlockInput,
    CellRecord,
    Fields,
    FieldSink,
    Intensity,
    Ledger,
    load_json,
    save_json,
)
from stitchsafe.errors import IntegrityError
from stitchsafe.networks import Finishing, Pointwise
from stitchsafe.pipeline._deciding import Runs, Tallies, nth_pass, reach
from stitchsafe.pipeline._raw import FieldView, RawFields
from stitchsafe.pipeline._steps import Chains, deciding_chain
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.volumes import ArrayStore, Pass, Tally, Volume

__all__ = [
    "FinishWork",
    "decide_fields",
    "field_pass",
    "field_tallies",
    "load_field_maps",
    "mapped",
]

Maps = dict[str, Chains]
"""For each field that is finished, the maps of its channels."""


def field_tallies(store: ResultStore) -> Tallies:
    """Of raw fields."""
    return Tallies(store.field_statistics, "field ")


@functools.cache
def _chains() -> TypeAdapter[tuple[Finishing, ...]]:
    return TypeAdapter(tuple[Finishing, ...])


def deciding_fields(raw: RawFields) -> Generator[Pass, Tally, Maps]:
    """Ask for passes over the raw fields until the maps of all are known."""
    maps: Maps = {}
    for name, (layout, listed) in raw.recipe.finished.items():
        steps = _chains().validate_python(listed)
        view = cast(Volume, FieldView(raw, (layout,)))  # as much of one as statistics ask for
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
        layout = [layout for layout, _ in self.raw.recipe.finished.values()]
        return FieldSink(self.targets, layout).take(cell, result)
