"""What a recipe reads of its volume: whether it is all there, and whether it is still the same.

That nothing has changed is told by the sizes and times of the volume's files, where they lie on a
file system and are as they were when the result was begun. Otherwise every finished cell's share of
what was read is read again and compared with its checksum in the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from stitchsafe.coordinates import Roi
from stitchsafe.engine import CellRecord, Events, Shares, checksum, load_json, save_json
from stitchsafe.errors import (
    IntegrityError,
    InterruptedRunError,
    StitchsafeError,
    StoreError,
    VolumeError,
)
from stitchsafe.pipeline._deciding import FIRST_PASS, first_pass, input_checksum, portions
from stitchsafe.pipeline._parts import Part
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import PlaceError, Volume

__all__ = ["Reading", "tell_absent"]

_UNREADABLE = (StitchsafeError, ValueError, OSError)


@dataclass(frozen=True)
class Change:
    """That something is no longer as it was read: what, and whether it can still be read."""

    text: str
    unreadable: bool = False

    def __str__(self) -> str:
        return self.text


class Reading:
    """What is read of a volume.

    Parameters
    ----------
    volume
        That is read.
    shares
        Which of its voxels the cells answer for.
    """

    def __init__(self, volume: Volume, shares: Shares) -> None:
        self.volume, self.shares = volume, shares
        self.name = volume.path or "the array"

    @property
    def recipe(self) -> Recipe:
        return self.shares.recipe

    def regions(self) -> Iterator[Roi]:
        """All that is read, in few boxes."""
        if first_pass(self.volume, self.recipe) is not None:
            yield Roi.whole(self.volume.shape)
        elif self.recipe.skipping is None:
            yield self.shares.reads
        else:
            shares = map(self.shares.of, self.recipe.cells.cells())
            yield from (share for share in shares if share is not None)

    def refuse_absent_chunks(self, settings: Settings, events: Events) -> None:
        """Tell of chunks that are not there, or refuse them, as the user wishes.

        Raises
        ------
        VolumeError
            With their number and the name of one.
        """
        try:
            absent = {
                name for region in self.regions() for name in self.volume.absent_chunks(region)
            }
        except PlaceError as error:
            raise error.refusal(VolumeError) from error
        tell_absent(self.name, absent, settings, events)

    def stamp(self) -> str | None:
        """What changes when a file is written that holds any of it; None where nothing tells."""
        stamps = [self.volume.stamp(region) for region in self.regions()]
        if None in stamps:
            return None
        return hashlib.sha256("".join(filter(None, stamps)).encode()).hexdigest()

    def enter(self, store: ResultStore) -> None:
        """Keep the stamp: all that is finished was read from what it stands for."""
        save_json(store.stamp_file, {"stamp": self.stamp()})

    def refuse_changes(self, store: ResultStore, part: Part | None, events: Events) -> None:
        """Refuse to go on where the volume is no longer the one that was read.

        Parts of a run each look at their share of what is finished.

        Raises
        ------
        StoreError
            Naming a cell that has changed.
        """
        if (stamp := self.stamp()) is not None and stamp == _entered(store):
            return
        read = list(self.entered(store))
        if part is not None:
            read = part.mine(read)
        if not read:
            return
        events.say(
            f"the files of {self.name} are not the ones of before, or cannot tell: what was read "
            "is compared"
        )
        events.stage("compare", len(read), "cells")
        for stage, cell, record in read:
            for change in self.changes(stage, cell, record):
                if change.unreadable:
                    continue  # the run says so where it needs it, and does what it can
                raise StoreError(
                    f"{change}, so it has changed since {store.path} was begun; choose another "
                    "place with --out, or start again with --overwrite"
                )
            events.advance()

    def entered(self, store: ResultStore) -> Iterator[tuple[str, Roi, CellRecord]]:
        """The cells of all stages that read the volume, as far as they are in the ledger."""
        due = first_pass(self.volume, self.recipe)
        for stage, cells in (
            (FIRST_PASS, None if due is None else portions(due)),
            ("predict", self.recipe.cells),
        ):
            if cells is not None:
                for index, record in sorted(store.ledger.survey(stage)[0].items()):
                    yield stage, cells.cell_at(index), record

    def changes(self, stage: str, cell: Roi, record: CellRecord) -> Iterator[Change]:
        """Why a cell would no longer read what it has read, if so."""
        if "input" not in record:
            return
        place = f"{self.name} at {cell}"
        try:
            if stage == FIRST_PASS:
                found = input_checksum(self.volume, cell)
            else:
                share = self.shares.of(cell)
                found = "" if share is None else checksum(self.volume.read(share))
            if found != record["input"]:
                yield Change(f"{place}: holds other values than were read")
        except (PlaceError, InterruptedRunError):
            raise
        except _UNREADABLE as error:
            yield Change(f"{place}: {error}", unreadable=True)


def tell_absent(name: str, absent: set[str], settings: Settings, events: Events) -> None:
    """Tell of chunks that are not there, or refuse them, as the user wishes.

    Raises
    ------
    VolumeError
        With their number and the name of one.
    """
    if not absent:
        return
    said = f"{len(absent)} chunks of {name} are absent ({min(absent)} is one)"
    if settings.refuse_missing_chunks:
        raise VolumeError(
            f"{said}, which Zarr reads as its fill value; restore or write them, choose another "
            "--level or --roi, or drop --refuse-missing-chunks"
        )
    events.say(
        f"warning: {said}, and read as the fill value; --refuse-missing-chunks makes that an error"
    )


def _entered(store: ResultStore) -> str | None:
    try:
        return str(load_json(store.stamp_file)["stamp"])
    except (OSError, IntegrityError, KeyError):
        return None
