"""The ledger: which cells of which stage are finished, beside the arrays that they went to.

Zarr cannot tell "never written" from "zero"; the ledger can. An entry is written after its data is
on the disk, whole or not at all, and holds a checksum of what was written. Entries name cells,
which belong to the recipe, and not blocks, which belong to the schedule: so a run may be resumed
with other blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from stitchsafe.engine._durable import save_json, unseal
from stitchsafe.engine._lease import Lease
from stitchsafe.engine._sweep import sweep
from stitchsafe.errors import IntegrityError, StoreError
from stitchsafe.volumes import Place

__all__ = ["CellIndex", "CellRecord", "Ledger"]

CellIndex = tuple[int, ...]
CellRecord = dict[str, Any]


class Ledger:
    """Finished work, in ``<store>/.stitchsafe/ledger``.

    Use as a context manager to hold a lease on the store (see `Lease`).

    Parameters
    ----------
    folder
        Where it lies.
    name
        The lease to hold: ``run``, or ``part-i-of-n``.
    lease
        One that another process holds for this one, for commits to be checked by.
    """

    def __init__(self, folder: Path | Place, name: str = "run", lease: Lease | None = None) -> None:
        self.folder = Place.of(folder)
        self.name = name
        self.lease = lease
        self._steps: list[Lease] = []

    def __enter__(self) -> Ledger:
        self.lease = Lease.take(self.folder, self.name)
        if self.lease.alone:
            # An older run that this one took over from may lose what it is writing, and stops.
            self.sweep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    @contextmanager
    def holding(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold a further lease, for a step that one of several does.

        Whoever holds it is waited for.
        """
        try:
            step = Lease.take(self.folder, name)
        except StoreError:
            say(f"waiting for another part, which is at the step {name!r}")
            step = Lease.take(self.folder, name, wait=True)
        with step, step.beating():
            self._steps.append(step)
            try:
                yield
            finally:
                self._steps.remove(step)

    def sweep(self) -> None:
        """Remove what processes that died were writing, where none is at it any more."""
        sweep(self.folder.parent.parent)

    def finished(self, stage: str) -> dict[CellIndex, CellRecord]:
        """Records of the finished cells of a stage.

        Raises
        ------
        IntegrityError
            If an entry is damaged.
        """
        records: dict[CellIndex, CellRecord] = {}
        for name, content in self._entries(stage):
            records.update(_read(self.folder / stage / name, content, stage))
        return records

    def survey(self, stage: str) -> tuple[dict[CellIndex, CellRecord], list[Place]]:
        """Records of the finished cells of a stage, as far as they can be read; damaged entries."""
        records: dict[CellIndex, CellRecord] = {}
        unreadable = []
        for name, content in self._entries(stage):
            place = self.folder / stage / name
            try:
                records.update(_read(place, content, stage))
            except IntegrityError:
                unreadable.append(place)
        return records, unreadable

    def drop(self, stage: str, cells: Collection[CellIndex]) -> None:
        """Drop the entries of some cells, which must be done again, and all damaged entries."""
        for name, content in list(self._entries(stage)):
            place = self.folder / stage / name
            try:
                records = _read(place, content, stage)
            except IntegrityError:
                place.remove()
                continue
            kept = {index: record for index, record in records.items() if index not in cells}
            if len(kept) < len(records):
                # Under another name if the first cell goes: an entry is named after its first.
                self.commit(stage, kept)
                if not kept or _name(kept) != name:
                    place.remove()

    def stages(self) -> list[str]:
        """Names of the stages that have entries."""
        names = {name.partition("/")[0] for name in self.folder.listing() if "/" in name}
        return sorted(names - {"epochs", "beats"})

    def _entries(self, stage: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents of a stage's entries."""
        place = self.folder / stage
        names = [name for name in place.listing() if name.endswith(".json") and "/" not in name]
        return place.read_many(names)

    def commit(self, stage: str, records: Mapping[CellIndex, CellRecord]) -> None:
        """Enter finished cells; their data must be on the disk already.

        Raises
        ------
        InterruptedRunError
            If another run has taken over.
        """
        if not records:
            return
        for lease in (self.lease, *self._steps):
            if lease is not None:
                lease.check()
        cells = [{"index": list(i), "record": r} for i, r in sorted(records.items())]
        save_json(self.folder / stage / _name(records), {"stage": stage, "cells": cells})

    def forget(self, stages: Iterable[str]) -> None:
        """Drop the entries of stages that must be done again."""
        for stage in stages:
            (self.folder / stage).remove()


def _name(records: Collection[CellIndex]) -> str:
    return f"{'_'.join(map(str, min(records)))}.json"


def _read(place: Place, content: bytes, stage: str) -> dict[CellIndex, CellRecord]:
    entry = unseal(content, place)
    records: dict[CellIndex, CellRecord] = {
        tuple(cell["index"]): cell["record"] for cell in entry["cells"]
    }
    if entry["stage"] != stage or not records or _name(records) != place.name:
        raise IntegrityError(
            f"the ledger entry {place} belongs elsewhere; --repair redoes its cells"
        )
    return records
