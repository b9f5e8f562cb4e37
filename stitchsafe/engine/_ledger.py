"""The ledger: which cells of which stage are finished, beside the arrays that they went to.

Zarr cannot tell "never written" from "zero"; the ledger can. An entry is written after its data is
on the disk, whole or not at all, and holds a checksum of what was written. Entries name cells,
which belong to the recipe, and not blocks, which belong to the schedule: so a run may be resumed
with other blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stitchsafe.engine._durable import save_json
from stitchsafe.engine._lease import Lease
from stitchsafe.engine._sweep import sweep
from stitchsafe.errors import IntegrityError
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

    def __enter__(self) -> Ledger:
        self.lease = Lease.take(self.folder, self.name)
        if self.lease.alone and self.lease.local:
            sweep(self.folder.parent.parent)
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

    def finished(self, stage: str) -> dict[CellIndex, CellRecord]:
        """Records of the finished cells of a stage.

        Raises
        ------
        IntegrityError
            If an entry is damaged.
        """
        records: dict[CellIndex, CellRecord] = {}
        place = self.folder / stage
        names = [name for name in place.listing() if name.endswith(".json") and "/" not in name]
        for name, content in place.read_many(names):
            try:
                entry = json.loads(content)
                records.update({tuple(cell["index"]): cell["record"] for cell in entry["cells"]})
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(
                    f"the ledger entry {place / name} is damaged; delete it, and the next run "
                    "redoes its cells"
                ) from error
        return records

    def commit(self, stage: str, records: Mapping[CellIndex, CellRecord]) -> None:
        """Enter finished cells; their data must be on the disk already.

        Raises
        ------
        InterruptedRunError
            If another run has taken over.
        """
        if not records:
            return
        if self.lease is not None:
            self.lease.check()
        first = "_".join(map(str, min(records)))
        cells = [{"index": list(i), "record": r} for i, r in sorted(records.items())]
        save_json(self.folder / stage / f"{first}.json", {"stage": stage, "cells": cells})

    def forget(self, stages: Iterable[str]) -> None:
        """Drop the entries of stages that must be done again."""
        for stage in stages:
            (self.folder / stage).remove()
