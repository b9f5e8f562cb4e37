"""The ledger: which cells of which stage are finished, beside the arrays that they went to.

Zarr cannot tell "never written" from "zero"; the ledger can. An entry is written after its data is
on the disk, whole or not at all, and holds a checksum of what was written. Entries name cells,
which belong to the recipe, and not blocks, which belong to the schedule: so a run may be resumed
with other blocks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stitchsafe.engine._durable import SUFFIX, load_json, save_json
from stitchsafe.errors import IntegrityError, StoreError

__all__ = ["CellIndex", "CellRecord", "Ledger"]

CellIndex = tuple[int, ...]
CellRecord = dict[str, Any]


class Ledger:
    """Finished work, in ``<store>/.stitchsafe/ledger``.

    Use as a context manager to hold the store's lock, which the operating system releases when the
    process ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    def __enter__(self) -> Ledger:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise StoreError(
                f"another run is writing {self.folder.parent.parent}; wait for it, or stop it"
            ) from error
        self._lock = handle
        for leftover in self.folder.parent.rglob(f"*{SUFFIX}"):
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def finished(self, stage: str) -> dict[CellIndex, CellRecord]:
        """Records of the finished cells of a stage.

        Raises
        ------
        IntegrityError
            If an entry is damaged.
        """
        records: dict[CellIndex, CellRecord] = {}
        for path in self._entries(stage):
            records.update(_read(path, stage))
        return records

    def survey(self, stage: str) -> tuple[dict[CellIndex, CellRecord], list[Path]]:
        """Records of the finished cells of a stage, as far as they can be read; damaged entries."""
        records: dict[CellIndex, CellRecord] = {}
        unreadable = []
        for path in self._entries(stage):
            try:
                records.update(_read(path, stage))
            except IntegrityError:
                unreadable.append(path)
        return records, unreadable

    def drop(self, stage: str, cells: Collection[CellIndex]) -> None:
        """Drop the entries of some cells, which must be done again, and all damaged entries."""
        for path in self._entries(stage):
            try:
                records = _read(path, stage)
            except IntegrityError:
                path.unlink()
                continue
            kept = {index: record for index, record in records.items() if index not in cells}
            if len(kept) < len(records):
                # Under another name if the first cell goes: an entry is named after its first.
                self.commit(stage, kept)
                if not kept or _name(kept) != path.name:
                    path.unlink()

    def stages(self) -> list[str]:
        """Names of the stages that have entries."""
        return sorted(path.name for path in self.folder.glob("*/"))

    def _entries(self, stage: str) -> list[Path]:
        return sorted((self.folder / stage).glob("*.json"))

    def commit(self, stage: str, records: Mapping[CellIndex, CellRecord]) -> None:
        """Enter finished cells; their data must be on the disk already."""
        if not records:
            return
        cells = [{"index": list(i), "record": r} for i, r in sorted(records.items())]
        save_json(self.folder / stage / _name(records), {"stage": stage, "cells": cells})

    def forget(self, stages: Iterable[str]) -> None:
        """Drop the entries of stages that must be done again."""
        for stage in stages:
            shutil.rmtree(self.folder / stage, ignore_errors=True)


def _name(records: Collection[CellIndex]) -> str:
    return f"{'_'.join(map(str, min(records)))}.json"


def _read(path: Path, stage: str) -> dict[CellIndex, CellRecord]:
    try:
        entry = load_json(path)
    except OSError as error:
        raise IntegrityError(f"the ledger entry {path} cannot be read: {error.strerror}") from error
    records: dict[CellIndex, CellRecord] = {
        tuple(cell["index"]): cell["record"] for cell in entry["cells"]
    }
    if entry["stage"] != stage or not records or _name(records) != path.name:
        raise IntegrityError(
            f"the ledger entry {path} belongs elsewhere; --repair redoes its cells"
        )
    return records
