"""The store that predict writes: one OME-Zarr group, and beside its arrays what made them.

::

    OUT/
      0, 1, …                      the image, linked or copied
      labels/instances/0, 1, …     the instances and their pyramid
      fields/<name>/0              fields, channels first
      instances.csv                the table
      .stitchsafe/
        recipe.json                recipe, network and volume: what resume compares
        schedule.json              how the work was portioned, last
        consensus.json             statistics of the whole volume
        ledger/<stage>/*.json      finished cells with checksums
        evidence/<cell>.npz        per cell: its segments, and labels at its faces
        samples/<cell>.npz         per cell: voxels of the fields, for verify
        inexact.json               why stitching is not exact, and by how much; only then
        merges.npz                 which segment became which instance
        provisional/               labels per window, until they are final
        provenance.json            times, host, versions; not compared
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitchsafe.engine import Ledger, save_json
from stitchsafe.errors import IntegrityError, StoreError
from stitchsafe.pipeline._parts import Part
from stitchsafe.tiling import Recipe

__all__ = ["ResultStore"]

FORMAT = "stitchsafe-result/1"

_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True)
class ResultStore:
    """Places in a result, and what it was made by."""

    path: Path

    @property
    def private(self) -> Path:
        return self.path / ".stitchsafe"

    @property
    def recipe_file(self) -> Path:
        return self.private / "recipe.json"

    @property
    def consensus_file(self) -> Path:
        return self.private / "consensus.json"

    @property
    def provisional(self) -> Path:
        return self.private / "provisional"

    @property
    def merges_file(self) -> Path:
        return self.private / "merges.npz"

    @property
    def inexact_file(self) -> Path:
        return self.private / "inexact.json"

    @property
    def table_file(self) -> Path:
        return self.path / "instances.csv"

    @property
    def labels(self) -> Path:
        return self.path / "labels" / "instances"

    def field(self, name: str) -> Path:
        return self.path / "fields" / name

    def evidence(self, index: Sequence[int]) -> Path:
        """Segments and faces of one cell."""
        return self.private / "evidence" / f"{'_'.join(map(str, index))}.npz"

    def samples(self, index: Sequence[int]) -> Path:
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
        """Whether a run has begun here."""
        return self.recipe_file.is_file()

    def stored(self) -> dict[str, Any]:
        """What the run here was begun with.

        Raises
        ------
        StoreError
            If no run has begun here.
        IntegrityError
            If its record is damaged.
        """
        if not self.exists:
            raise StoreError(f"{self.path} is not a result of stitchsafe; check the path")
        try:
            content: dict[str, Any] = json.loads(self.recipe_file.read_text())
            if content["format"] != FORMAT:
                raise StoreError(
                    f"{self.path} has the format {content['format']!r}, and this version reads "
                    f"{FORMAT!r}; use the version that wrote it"
                )
        except (ValueError, KeyError, OSError) as error:
            raise _damaged(self.recipe_file) from error
        return content

    def recipe(self) -> Recipe:
        stored = self.stored()
        try:
            recipe = Recipe.from_json(stored["recipe"])
        except ValueError as error:
            raise _damaged(self.recipe_file) from error
        if recipe.fingerprint != stored["fingerprint"]:
            raise _damaged(self.recipe_file)
        return recipe

    def refuse_foreign(self) -> None:
        """Refuse a place that holds anything that stitchsafe did not write.

        Raises
        ------
        StoreError
            If it does.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise StoreError(f"{self.path} exists and is a file; choose another place with --out")
        ours = self.private.is_dir()
        if self.path.is_dir() and not ours and any(self.path.iterdir()):
            raise StoreError(
                f"{self.path} exists and was not written by stitchsafe; choose another place with "
                "--out (it is not replaced, even with --overwrite)"
            )
        parent = self.path.absolute().parent
        if not parent.is_dir():
            raise StoreError(f"the folder {parent} does not exist; create it, or change --out")
        place = self.path if self.path.is_dir() else parent
        if not os.access(place, os.W_OK | os.X_OK):
            raise StoreError(f"the folder {place} cannot be written; choose another with --out")

    def refuse_to_replace_others(self) -> None:
        """Refuse to clear a place that holds more than stitchsafe's own result.

        Raises
        ------
        StoreError
            Naming what else there is.
        """
        if not self.path.is_dir():
            return
        foreign = [
            entry.relative_to(self.path)
            for folder, known in (
                (self.path, {".stitchsafe", "labels", "fields", self.table_file.name}),
                (self.path / "labels", {self.labels.name}),
            )
            for entry in (folder.iterdir() if folder.is_dir() else ())
            if not (
                entry.name in {*known, *_ZARR_FILES}
                or (folder == self.path and (entry.is_symlink() or entry.name.isdecimal()))
            )
        ]
        if foreign:
            raise StoreError(
                f"{self.path} also holds {', '.join(map(str, sorted(foreign)[:5]))}, which this "
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
        record = {
            "format": FORMAT,
            "recipe": recipe.to_json(),
            "fingerprint": recipe.fingerprint,
            **content,
        }
        save_json(self.recipe_file, record)

    def clear(self) -> None:
        """Remove an earlier result, or the rest of one that never began."""
        if self.private.is_dir():
            shutil.rmtree(self.path)


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(f"{path} is damaged; start again with --overwrite")
