"""What a result says of itself that showing it needs: what was predicted, and by which grids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitchsafe.coordinates import Roi
from stitchsafe.errors import StoreError

__all__ = ["Result", "is_result"]

_RECORDS = (".stitchsafe/recipe.json", ".stitchsafe/recipe-copy.json")


def is_result(path: Any) -> bool:
    """Whether a path is a folder that predict has written."""
    return isinstance(path, str | Path) and any((Path(path) / r).is_file() for r in _RECORDS)


@dataclass(frozen=True)
class Result:
    """A result on this machine.

    Parameters
    ----------
    path
        Its folder.
    network
        Name of the network.
    roi
        What was predicted, in voxels.
    grids
        Shapes of the tiles and of the clustering windows, in voxels, the larger ones first.
    time
        The time point of the volume that was predicted.
    fields
        Names of the fields that are kept.
    """

    path: Path
    network: str
    roi: Roi
    grids: dict[str, tuple[int, ...]]
    time: int
    fields: tuple[str, ...]

    @classmethod
    def at(cls, path: str | Path) -> Result:
        """Read what a result says of itself.

        Raises
        ------
        StoreError
            If it is none, or neither of its two records can be read.
        """
        path = Path(path)
        for record in _RECORDS:
            try:
                stored = json.loads((path / record).read_text(encoding="utf-8"))
                return cls._from(path, stored)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        raise StoreError(f"{path} is not a result of stitchsafe that can be read; check the path")

    @classmethod
    def _from(cls, path: Path, stored: dict[str, Any]) -> Result:
        recipe = stored["recipe"]
        roi = Roi(tuple(recipe["roi"]["offset"]), tuple(recipe["roi"]["shape"]))
        tile, window = tuple(recipe["tile_shape"]), tuple(recipe["cell_shape"])
        grids = {"window": window} if recipe.get("labels") else {}
        fields = path / "fields"
        names = sorted(each.name for each in fields.iterdir()) if fields.is_dir() else []
        return cls(
            path,
            str(recipe["network"]),
            roi,
            {**grids, **({} if grids and tile == window else {"tile": tile})},
            int(stored["volume"].get("time") or 0),
            tuple(name for name in names if (fields / name).is_dir()),
        )
