"""What predict made, for the verbs that use its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stitchsafe.errors import StoreError
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import Volume, open_volume

__all__ = ["LabelResult", "is_result"]


def is_result(source: object) -> bool:
    """Whether something names a result of predict."""
    try:
        return isinstance(source, str | Path) and ResultStore.at(source).exists
    except StoreError:
        return False  # what it is, opening it tells


@dataclass(frozen=True)
class LabelResult:
    """A finished result that holds labels.

    Parameters
    ----------
    store, recipe
        Where it lies, and how it was made; labels are 0 outside the recipe's ROI.
    volume
        Its labels.
    """

    store: ResultStore
    recipe: Recipe
    volume: Volume

    @classmethod
    def of(cls, source: str | Path) -> LabelResult:
        """The result at a path or URL.

        Raises
        ------
        StoreError
            If it is not one, is not finished, or holds no labels.
        """
        store = ResultStore.at(source)
        recipe = store.recipe()
        if recipe.labels is None:
            raise StoreError(
                f"{store.path} holds no labels, as it was predicted for its fields alone; predict "
                "it again with --save labels"
            )
        if not store.ledger.finished("finish"):
            raise StoreError(
                f"{store.path} is not finished; the same predict command goes on from what is done"
            )
        return cls(store, recipe, open_volume(store.labels))
