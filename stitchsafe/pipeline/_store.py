"""The store that predict writes: one OME-Zarr group, and beside its arrays what made them.

It lies on a disk or on an object store, and everything in it goes through `Place`.

::

    OUT/
      0, 1, …                      the image, linked or copied
      labels/instances/0, 1, …     the instances and their pyramid
      fields/<name>/0              fields, channels first
      instances.csv                the table
      .stitchsafe/
        recipe.json                recipe, network and volume: what resume compares
        recipe-copy.json           the same once more, as nothing can be proved without it
        schedule.json              how the work was portioned, last
        stamp.json                 what changes when a file of the volume does
        statistics/                what passes over the volume collect, until there is consensus
        consensus.json             statistics of the whole volume
        raw/<name>/                fields before something is decided of the whole of them, and done
        field-statistics/          what passes over fields collect that are finished by statistics
        fields.json                what is decided by that: the maps of their channels
        cluster-statistics/        what passes over fields collect that labels are made of
        clusters.json              what is decided by that: bandwidth and modes
        ledger/<stage>/*.json      finished cells with checksums
        evidence/<cell>.npz        per cell: its segments, and labels at its faces
        samples/<cell>.npz         per cell: voxels of the fields, for verify
        inexact.json               why stitching is not exact, and by how much; only then
        merges.npz                 which segment became which instance
        provisional/               labels per window, until they are final
        provenance.json            times, host, versions; not compared
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitchsafe.engine import Ledger, load_json, save_json
from stitchsafe.errors import IntegrityError, StoreError
from stitchsafe.pipeline._parts import Part
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import Place, PlaceError, PlaceSyntaxError

__all__ = ["ZARR_FILES", "ResultStore"]

FORMAT = "stitchsafe-result/1"

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Names of the files that describe a group or an array."""


@dataclass(frozen=True)
class ResultStore:
    """Places in a result, and what it was made by."""

    path: Place

    @classmethod
    def at(cls, where: str | Path | Place) -> ResultStore:
        """The result at a path or URL, whether it is there or not.

        Raises
        ------
        StoreError
            If nothing can be there.
        """
        try:
            return cls(Place.of(where))
        except PlaceSyntaxError as error:
            raise StoreError(str(error)) from error

    @property
    def resolved(self) -> ResultStore:
        """The same; through a link to a folder, where the link points."""
        if self.path.local is None or not self.path.is_link():
            return self
        return ResultStore(Place.of(self.path.local.resolve()))

    @property
    def private(self) -> Place:
        return self.path / ".stitchsafe"

    @property
    def recipe_file(self) -> Place:
        return self.private / "recipe.json"

    @property
    def recipe_copy(self) -> Place:
        return self.private / "recipe-copy.json"

    @property
    def consensus_file(self) -> Place:
        return self.private / "consensus.json"

    @property
    def statistics(self) -> Place:
        """What passes collect; scratch."""
        return self.private / "statistics"

    @property
    def raw(self) -> Place:
        """Fields before what needs the whole of them; scratch."""
        return self.private / "raw"

    @property
    def field_statistics(self) -> Place:
        """What passes over such fields collect; scratch."""
        return self.private / "field-statistics"

    @property
    def field_maps_file(self) -> Place:
        return self.private / "fields.json"

    @property
    def cluster_statistics(self) -> Place:
        """What passes over fields that are clustered collect; scratch."""
        return self.private / "cluster-statistics"

    @property
    def clusters_file(self) -> Place:
        return self.private / "clusters.json"

    @property
    def schedule_file(self) -> Place:
        return self.private / "schedule.json"

    @property
    def stamp_file(self) -> Place:
        return self.private / "stamp.json"

    @property
    def provenance_file(self) -> Place:
        return self.private / "provenance.json"

    @property
    def provisional(self) -> Place:
        return self.private / "provisional"

    @property
    def merging(self) -> Place:
        """Scratch of merging."""
        return self.private / "merging"

    def merged(self, index: Sequence[int]) -> Place:
        """Ids of the segments of one district, and what became of pairs that touch."""
        return self.private / "merged" / f"{'_'.join(map(str, index))}.npz"

    @property
    def inexact_file(self) -> Place:
        return self.private / "inexact.json"

    @property
    def table_file(self) -> Place:
        return self.path / "instances.csv"

    @property
    def labels(self) -> Place:
        return self.path / "labels" / "instances"

    def field(self, name: str) -> Place:
        return self.path / "fields" / name

    def evidence(self, index: Sequence[int]) -> Place:
        """Segments and faces of one cell."""
        return self.private / "evidence" / f"{'_'.join(map(str, index))}.npz"

    def samples(self, index: Sequence[int]) -> Place:
        """Recorded voxels of one cell."""
        return self.private / "samples" / f"{'_'.join(map(str, index))}.npz"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.private / "ledger")

    def ledger_of(self, part: Part | None) -> Ledger:
        """The ledger, to be held by a whole run or by a part of one."""
        return Ledger(self.ledger.folder, "run" if part is None else part.lease)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here, whose recipe is known."""
        with _refused():
            # The copy is written first: alone, it is the rest of a run, or of one that never began.
            return self.recipe_file.is_file() or (self.recipe_copy.is_file() and self._has_work())

    def _has_work(self) -> bool:
        """Whether the ledger tells of finished cells."""
        if self.path.kind == "http":  # where nothing can be listed, and nothing is written
            return False
        with _refused():
            return any((self.ledger.folder / stage).children() for stage in ("predict", "finish"))

    def stored(self) -> dict[str, Any]:
        """What the run here was begun with, by whichever of its two records is sound.

        Raises
        ------
        StoreError
            If no run has begun here.
        IntegrityError
            If neither record is sound.
        """
        if not self.exists and not self._has_work():
            raise StoreError(f"{self.path} is not a result of stitchsafe; check the path")
        content = self._read(self.recipe_file)
        if isinstance(content, str):
            content, reason = self._read(self.recipe_copy), content
            if isinstance(content, str):
                raise IntegrityError(
                    f"{self.recipe_file} {reason}, its copy {self.recipe_copy.name} {content}, and "
                    "without either nothing of the result can be proved; restore one of them, or "
                    "predict it again with --overwrite"
                )
        if content["format"] != FORMAT:
            raise StoreError(
                f"{self.path} has the format {content['format']!r}, and this version reads "
                f"{FORMAT!r}; use the version that wrote it"
            )
        return content

    def _read(self, record: Place) -> dict[str, Any] | str:
        """One of the two records of the recipe, or why it cannot be had."""
        try:
            content = load_json(record)
        except IntegrityError:
            return "is damaged"
        except PlaceError as error:  # says nothing of what is there
            raise error.refusal(StoreError) from error
        except OSError as error:
            return "is gone" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        return content if "format" in content else "is damaged"

    def unsound_recipes(self) -> dict[Place, str]:
        """Which of the two records of the recipe is not what was written, and why."""
        stored = self.stored()
        found = {place: self._read(place) for place in (self.recipe_file, self.recipe_copy)}
        return {
            place: content if isinstance(content, str) else "is not what was written"
            for place, content in found.items()
            if content != stored
        }

    def mend_recipe(self) -> list[str]:
        """Write anew whichever of the two records of the recipe is not sound; which, and why."""
        stored, unsound = self.stored(), self.unsound_recipes()
        for place in unsound:
            save_json(place, stored)
        return [f"{place}: {reason}" for place, reason in unsound.items()]

    def refuse_lost_recipe(self) -> None:
        """Refuse to begin where there is work whose recipe is not known any more.

        Raises
        ------
        StoreError
            If there is.
        """
        if not self.exists and self._has_work():
            raise StoreError(
                f"{self.path} holds finished work, and {self.recipe_file} with the recipe that it "
                "was made by is gone, as is its copy; restore one of them, choose another place "
                "with --out, or replace the result with --overwrite"
            )

    def recipe(self) -> Recipe:
        return Recipe.from_json(self.stored()["recipe"])

    def refuse_foreign(self) -> None:
        """Refuse a place that holds anything that stitchsafe did not write.

        Raises
        ------
        StoreError
            If it does.
        """
        path = self.path.local
        if path is None:
            self._refuse_foreign_keys()
            return
        if path.exists() and not path.is_dir():
            raise StoreError(f"{self.path} exists and is a file; choose another place with --out")
        if path.is_dir() and not self.private.is_dir() and any(path.iterdir()):
            raise self._foreign()
        parent = path.absolute().parent
        if not parent.is_dir():
            raise StoreError(f"the folder {parent} does not exist; create it, or change --out")
        place = path if path.is_dir() else parent
        if not os.access(place, os.W_OK | os.X_OK):
            raise StoreError(f"the folder {place} cannot be written; choose another with --out")

    def _refuse_foreign_keys(self) -> None:
        if not self.path.writable_kind:
            what = "an archive" if self.path.kind == "zip" else "a web server"
            raise StoreError(
                f"{self.path} lies in {what}, which can only be read; write to a folder or to "
                "s3://bucket/key with --out"
            )
        if not self.path.key:
            raise StoreError(
                f"{self.path} is a whole bucket; name a key in it with --out, as in "
                f"{self.path}/result.zarr"
            )
        with _refused():
            if self.path.is_file():
                raise StoreError(
                    f"{self.path} exists and is an object; choose another place with --out"
                )
            # By one look: other parts may be making the result, and begin it with what is private.
            there = () if self.exists else self.path.children()
            if there and self.private.name not in there:
                raise self._foreign()
            probe = self.private / f"writable-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.remove()

    def _foreign(self) -> StoreError:
        return StoreError(
            f"{self.path} exists and was not written by stitchsafe; choose another place with "
            "--out (it is not replaced, even with --overwrite)"
        )

    def refuse_to_replace_others(self) -> None:
        """Refuse to clear a place that holds more than stitchsafe's own result.

        Raises
        ------
        StoreError
            Naming what else there is.
        """
        path = self.path.local
        with _refused():
            foreign = [
                f"{below}{name}"
                for folder, below, known in (
                    (self.path, "", {".stitchsafe", "labels", "fields", self.table_file.name}),
                    (self.path / "labels", "labels/", {self.labels.name}),
                )
                for name in folder.children()
                if name not in {*known, *ZARR_FILES}
                and not (
                    not below
                    and (name.isdecimal() or (path is not None and (path / name).is_symlink()))
                )
            ]
        if foreign:
            raise StoreError(
                f"{self.path} also holds {', '.join(sorted(foreign)[:5])}, which this "
                "program did not write and would lose; move it away, or choose another --out"
            )

    def refuse_other_work(
        self, recipe: Recipe, volume: dict[str, Any], form: dict[str, Any]
    ) -> None:
        """Refuse to go on where another recipe, volume or form of output was begun.

        Raises
        ------
        StoreError
            Naming each difference.
        """
        stored = self.stored()
        differences = recipe.differences(Recipe.from_json(stored["recipe"]))
        differences += [
            f"volume's {key}: {volume.get(key)!r}, not {stored['volume'].get(key)!r}"
            for key in sorted({*volume, *stored["volume"]})
            if volume.get(key) != stored["volume"].get(key)
        ]
        differences += [
            f"{key}: {form[key]!r}, not {stored['form'].get(key)!r}"
            for key in sorted(form)
            if form[key] != stored.get("form", {}).get(key)
        ]
        if differences:
            raise StoreError(
                f"{self.path} holds a result of another recipe ({'; '.join(differences)}); choose "
                "another place with --out, ask for the same, or replace it with --overwrite"
            )

    def begin(self, recipe: Recipe, content: dict[str, Any]) -> None:
        """Enter the recipe: from now on, the store is a run that can be resumed."""
        made_by = {"recipe": recipe.to_json(), "fingerprint": recipe.fingerprint}
        for place in (self.recipe_copy, self.recipe_file):
            save_json(place, {"format": FORMAT, **made_by, **content})

    def relocate(self, **places: str | None) -> None:
        """Enter where the volume and the mask lie now, of which what is here goes on being made.

        Parameters
        ----------
        **places
            By the names of `begin`'s content; what is None is left as it is.
        """
        stored = self.stored()
        moved = {k: v for k, v in places.items() if v is not None and stored.get(k) != v}
        if moved:
            for place in (self.recipe_copy, self.recipe_file):
                save_json(place, {**stored, **moved})

    def withdraw(self) -> None:
        """Take back that a run has begun, before anything is finished."""
        self.recipe_file.remove()
        self.recipe_copy.remove()

    def clear(self) -> None:
        """Remove an earlier result, or the rest of one that never began.

        Ended half-way, it leaves neither entries of work whose recipe is gone, nor a place that
        seems to be of others.
        """
        if not self.private.is_dir():
            return
        self.ledger.folder.remove()
        self.withdraw()
        for name in self.path.children():
            if name != self.private.name:
                (self.path / name).remove()
        self.path.remove()


@contextmanager
def _refused() -> Iterator[None]:
    """Turn a place that cannot be used into a refusal; for before any work has begun."""
    try:
        yield
    except PlaceError as error:
        raise error.refusal(StoreError) from error
