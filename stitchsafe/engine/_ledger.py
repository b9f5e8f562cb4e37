"""The ledger: which cells of which stage are finished, beside the arrays that they went to.

Zarr cannot tell "never written" from "zero"; the ledger can. An entry is written after its data is
on the disk, whole or not at all, and holds a checksum of what was written. Entries name cells,
which belong to the recipe, and not blocks, which belong to the schedule: so a run may be resumed
with other blocks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stitchsafe.engine._durable import SUFFIX, save_json
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
        for path in sorted((self.folder / stage).glob("*.json")):
            try:
                entry = json.loads(path.read_text())
                records.update({tuple(cell["index"]): cell["record"] for cell in entry["cells"]})
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(
                    f"the ledger entry {path} is damaged; delete it, and the next run redoes its "
                    "cells"
                ) from error
        return records

    def commit(self, stage: str, records: Mapping[CellIndex, CellRecord]) -> None:
        """Enter finished cells; their data must be on the disk already."""
        if not records:
            return
        first = "_".join(map(str, min(records)))
        cells = [{"index": list(i), "record": r} for i, r in sorted(records.items())]
        save_json(self.folder / stage / f"{first}.json", {"stage": stage, "cells": cells})

    def forget(self, stages: Iterable[str]) -> None:
        """Drop the entries of stages that must be done again."""
        for stage in stages:
            shutil.rmtree(self.folder / stage, ignore_errors=True)
