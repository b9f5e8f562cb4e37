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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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

    Use as a context manager to hold the lease `name` on the store, which the operating system
    releases when the process ends, however it ends. ``run`` excludes all others; others share the
    store, and exclude their own name.
    """

    def __init__(self, folder: Path, name: str = "run") -> None:
        self.folder, self.name = folder, name
        self._handles: tuple[int, ...] = ()

    def __enter__(self) -> Ledger:
        self._handles = _locked(self.folder, self.name, wait=False)
        if self.name == "run":
            self.sweep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _close(self._handles)
        self._handles = ()

    @contextmanager
    def holding(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold a further lease, waiting for whoever holds it."""
        try:
            handles = _locked(self.folder, name, wait=False)
        except StoreError:
            say(f"waiting for another part, which is at the step {name!r}")
            handles = _locked(self.folder, name, wait=True)
        try:
            yield
        finally:
            _close(handles)

    def sweep(self) -> None:
        """Remove what processes that died were writing, where none is at it any more."""
        for leftover in self.folder.parent.rglob(f"*{SUFFIX}"):
            leftover.unlink(missing_ok=True)

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


def _locked(folder: Path, name: str, *, wait: bool) -> tuple[int, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [("lock", fcntl.LOCK_EX if name == "run" else fcntl.LOCK_SH)]
    if name != "run":
        wanted.append((f"lock-{name}", fcntl.LOCK_EX))
    handles: list[int] = []
    try:
        for file, how in wanted:
            handles.append(os.open(folder / file, os.O_RDWR | os.O_CREAT, 0o644))
            fcntl.flock(handles[-1], how | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        _close(handles)
        if not isinstance(error, BlockingIOError):
            raise
        raise StoreError(
            f"another run is writing {folder.parent.parent}; wait for it, or stop it"
        ) from error
    return tuple(handles)


def _close(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)
