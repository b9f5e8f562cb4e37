"""A result against its ledger: what is missing, what is damaged, and how it is made good.

Everything that a run leaves is covered by a checksum that lies elsewhere: arrays cell by cell and
files in the ledger, metadata in the ledger's last entry, and each record of our own, the ledger's
entries included, by a seal of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    CellIndex,
    CellRecord,
    Events,
    checksum,
    file_checksum,
    load_json,
    place_checksum,
)
from stitchsafe.errors import IntegrityError, InterruptedRunError, StitchsafeError, StoreError
from stitchsafe.pipeline._merging import forget_merging
from stitchsafe.pipeline._outputs import linked_levels
from stitchsafe.pipeline._reading import Reading
from stitchsafe.pipeline._stages import Written, written_by
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import ArrayStore, Place, PlaceError

__all__ = ["Finding", "StageArrays", "audit", "forget_damaged"]

_UNREADABLE = (StitchsafeError, ValueError, OSError)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Parameters
    ----------
    text
        What and where.
    missing
        It was never finished, rather than damaged: the same command finishes it.
    redo
        The stage to be done again, and the cell of it; None drops its damaged entries only.
    remove
        Damaged files that are to be written anew.
    hopeless
        Nothing can be done again as it was: the volume is no longer what was read.
    """

    text: str
    missing: bool = False
    redo: tuple[str, CellIndex | None] | None = None
    remove: tuple[Place, ...] = ()
    hopeless: bool = False


def audit(store: ResultStore, reading: Reading, events: Events) -> Iterator[Finding]:
    """Compare every array and file of a result, and the volume, with the ledger."""
    recipe, volume = reading.recipe, reading.volume
    for stage in written_by(store, recipe, volume):
        finished, unreadable = store.ledger.survey(stage.stage)
        for path in unreadable:
            yield Finding(f"{path}: is damaged", redo=(stage.stage, None))
        cells = [None] if stage.cells is None else list(stage.cells.cells())
        arrays = StageArrays(stage)
        events.stage(f"check {stage.stage}", len(cells), "cells")
        for cell in cells:
            index = () if cell is None or stage.cells is None else stage.cells.index(cell)
            record = finished.get(index)
            if record is None:
                place = stage.stage if cell is None else f"{stage.stage} of cell {cell}"
                yield Finding(place, missing=True)
                continue
            for text in _damaged_files(stage, index, record):
                yield Finding(text, redo=(stage.stage, index))
            if cell is not None:
                for text, files in arrays.damaged(cell, record):
                    yield Finding(text, redo=(stage.stage, index), remove=files)
                for change in reading.changes(stage.stage, cell, record):
                    yield Finding(str(change), hopeless=True)
            events.advance()
    for path, reason in store.unsound_recipes().items():
        yield Finding(f"{path}: {reason}")
    yield from _metadata(store)
    yield from _records(store, recipe)


def forget_damaged(store: ResultStore, reading: Reading, events: Events) -> int:
    """Drop from the ledger what is damaged, so that the run which follows does it again.

    Returns
    -------
    int
        How many things were found damaged.

    Raises
    ------
    StoreError
        If the volume is no longer what was read.
    """
    findings = [finding for finding in audit(store, reading, events) if not finding.missing]
    for finding in findings:
        if finding.hopeless:
            raise StoreError(
                f"{finding.text}, so that nothing can be repaired from it; restore it, or start "
                "again with --overwrite"
            )
    for text in dict.fromkeys(finding.text for finding in findings):
        events.say(f"damaged, and done again: {text}")
    for finding in findings:
        for path in finding.remove:
            path.remove()
        if finding.redo is not None:
            stage, index = finding.redo
            store.ledger.drop(stage, [] if index is None else [index])
    forget_merging(store, store.ledger)  # scratch, which is not looked at
    store.mend_recipe()
    return len(findings)


class StageArrays:
    """The arrays of a stage, each opened once."""

    def __init__(self, stage: Written) -> None:
        self.stage = stage
        self._opened: dict[str, ArrayStore | str] = {}

    def damaged(self, cell: Roi, record: CellRecord) -> Iterator[tuple[str, tuple[Place, ...]]]:
        """What does not hold what was written of a cell, and the files that cannot be read."""
        for name, path in self.stage.arrays.items():
            array = self._open(name, path)
            if isinstance(array, str):
                yield f"{path}: {array}", ()
                continue
            leading = array.shape[: len(array.shape) - cell.ndim]
            region = Roi((*[0] * len(leading), *cell.offset), (*leading, *cell.shape))
            if name in self.stage.layout:
                region = self.stage.layout[name].box(cell)
            try:
                reason = "holds other values than were written"
                if checksum(array.read(region)) == record["checksums"][name]:
                    continue
            except (PlaceError, InterruptedRunError):
                raise
            except _UNREADABLE as error:
                reason = f"cannot be read: {error}"
            files = array.files(region)
            unreadable = [name for name, part in files.items() if not _reads(array, part)]
            gone = [f"{name} is absent" for name in files if not (path / name).is_file()]
            named = [*unreadable, *gone] or list(files)
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            yield (
                f"{path} at {cell} ({', '.join(named[:3])}{more}): {reason}",
                tuple(path / name for name in unreadable),
            )

    def _open(self, name: str, path: Place) -> ArrayStore | str:
        if name not in self._opened:
            try:
                self._opened[name] = ArrayStore.open(path)
            except (PlaceError, InterruptedRunError):
                raise
            except _UNREADABLE as error:
                self._opened[name] = str(error)
        return self._opened[name]


def _reads(array: ArrayStore, part: Roi) -> bool:
    try:
        array.read(part)
    except _UNREADABLE:
        return False
    return True


def _damaged_files(stage: Written, index: CellIndex, record: CellRecord) -> Iterator[str]:
    for name, place in stage.files.items():
        expected = record.get("checksums", {}).get(name)
        if expected is None:
            continue  # not asked for
        path = place(index)
        try:
            if place_checksum(path) != expected:
                yield f"{path}: is not what was written"
        except PlaceError:
            raise  # says nothing of what is there
        except OSError as error:
            yield f"{path}: {error.strerror}"


def _metadata(store: ResultStore) -> Iterator[Finding]:
    """Metadata of groups and arrays, and links to the image, that are not what was written."""
    finished, _ = store.ledger.survey("finish")
    expected = finished.get((), {}).get("metadata", {})
    for name, written in expected.items():
        path = store.path / name
        stage = "create labels" if name.startswith("labels/") else "create"
        try:
            if file_checksum(path.read_bytes()) != written:
                yield Finding(f"{path}: is not what was written", redo=(stage, ()), remove=(path,))
        except PlaceError:
            raise
        except OSError as error:
            yield Finding(f"{path}: {error.strerror}", redo=(stage, ()))
    for name in finished.get((), {}).get("links", ()):
        if name not in linked_levels(store):
            yield Finding(f"{store.path / name}: is no link to the image", redo=("create", ()))


def _records(store: ResultStore, recipe: Recipe) -> Iterator[Finding]:
    """Records that no logic depends on."""
    if () not in store.ledger.survey("finish")[0]:
        return
    paths = [store.schedule_file, store.stamp_file, store.provenance_file]
    for path in paths if recipe.exact else [*paths, store.inexact_file]:
        try:
            load_json(path)
        except IntegrityError:
            yield Finding(f"{path}: is damaged", remove=(path,))
        except PlaceError:
            raise
        except OSError as error:
            yield Finding(f"{path}: {error.strerror}")
