"""The arrays of a result: made empty, with their OME metadata, before any cell is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stitchsafe.coordinates import CellGrid, Roi, ceil_to
from stitchsafe.errors import PlanError
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._store import ZARR_FILES, ResultStore
from stitchsafe.tiling import Field, Recipe
from stitchsafe.volumes import (
    ArrayStore,
    Ngff,
    PyramidLevel,
    Volume,
    create_field,
    create_group,
    create_image,
    create_labels,
    link_image,
    pyramid_levels,
)

__all__ = [
    "LabelPyramid",
    "Layout",
    "linked_levels",
    "make_field_arrays",
    "make_image",
    "make_label_arrays",
    "make_scratch",
    "metadata_files",
]


@dataclass(frozen=True)
class LabelPyramid:
    """Levels of the labels, each with cells of its own."""

    levels: tuple[PyramidLevel, ...]
    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe, volume: Volume) -> LabelPyramid:
        return cls(pyramid_levels(recipe.extent, voxel_size=volume.voxel_size), recipe)

    def cells(self, level: int) -> CellGrid:
        """Cells of a level: what of it the ROI covers."""
        factors, roi = self.levels[level].factors, self.recipe.roi
        begin = [ceil_to(o, f) // f for o, f in zip(roi.offset, factors, strict=True)]
        end = [ceil_to(e, f) // f for e, f in zip(roi.end, factors, strict=True)]
        return CellGrid(Roi.from_bounds(begin, end), self.recipe.cell_shape)

    def steps(self, level: int) -> tuple[int, ...]:
        """Voxels of the level below that one step spans."""
        return self.levels[level].steps_from(self.levels[level - 1])


@dataclass(frozen=True)
class Layout:
    """How the arrays of a result are stored: each cell in one chunk, or in one shard of chunks.

    A cell has one writer, and nothing else may be in a file that it writes: so a shard is a cell.
    Zarr v2 knows no shards; there the chunks of a cell are files of their own.

    Parameters
    ----------
    cell
        Shape of a cell.
    chunk
        Shape of a chunk: whole chunks make a cell.
    ngff
        The version of OME-Zarr.
    """

    cell: tuple[int, ...]
    chunk: tuple[int, ...]
    ngff: Ngff

    @classmethod
    def of(cls, recipe: Recipe, asked: Sequence[int] | None, ngff: Ngff) -> Layout:
        """The layout that is asked for; by default chunks that a viewer can fetch at ease.

        Raises
        ------
        PlanError
            If the chunks do not fill cells.
        """
        cell = recipe.cell_shape
        if asked is None:
            return cls(cell, tuple(_at_ease(size, _EASE[len(cell)]) for size in cell), ngff)
        if len(asked) != len(cell) or any(
            a < 1 or c % a for a, c in zip(asked, cell, strict=False)
        ):
            raise PlanError(
                f"chunks of shape {tuple(asked)} do not fill cells of shape {cell}; give a divisor "
                "of each, or leave out --chunk-shape"
            )
        return cls(cell, tuple(asked), ngff)

    def arrays(self, field: Field | None = None) -> dict[str, Any]:
        """The keywords that say so where arrays are made: of labels, or of a field."""
        cell, chunk = self.cell, self.chunk
        if field is not None:
            cell, chunk = field.shape(cell), field.shape(chunk)
            if any(a % b for a, b in zip(cell, chunk, strict=True)):
                chunk = cell  # chunks of voxels that are no whole elements
        shards = None if chunk == cell or self.ngff == "0.4" else cell
        return {"chunks": chunk, "shards": shards, "ngff": self.ngff, "keep": True}


_EASE = {2: 512, 3: 128}
"""Cells of up to twice this length along an axis are chunks as they are."""


def make_image(
    store: ResultStore, inputs: Inputs, mode: str, recipe: Recipe, layout: Layout
) -> str:
    """Make the root group, and what it holds of the image.

    An image of other axes than the labels', as one of whose slices is predicted, is not linked.

    Returns
    -------
    str
        What became of the image: ``link``, ``copy`` or ``none``.
    """
    volume = inputs.volume
    most = None if recipe.labels is None else len(LabelPyramid.of(recipe, volume).levels)
    create_group(store.path, ngff=layout.ngff)
    if mode == "link" and not (
        inputs.linkable and link_image(volume, store.path, ngff=layout.ngff, most=most)
    ):
        return "none"
    if mode == "copy":
        create_image(
            store.path,
            axes=volume.axes,
            levels=pyramid_levels(volume.shape, most=1),
            dtype=volume.dtype,
            channels=volume.channels,
            voxel_size=volume.voxel_size,
            **layout.arrays(),
        )
    return mode


def make_field_arrays(store: ResultStore, recipe: Recipe, volume: Volume, layout: Layout) -> None:
    """Make the arrays that the first stage writes."""
    if recipe.save_fields:
        for field in recipe.fields:
            create_field(
                store.path,
                field.name,
                axes=volume.axes,
                shape=field.shape(recipe.extent),
                channels=field.channels,
                dtype=recipe.saved_type,
                voxel_size=volume.voxel_size,
                density=field.scale,
                **layout.arrays(field),
            )
    make_scratch(store, recipe)


def make_scratch(store: ResultStore, recipe: Recipe) -> None:
    """Make the arrays of provisional labels and of fields that wait."""
    cell = tuple(min(c, e) for c, e in zip(recipe.cell_shape, recipe.extent, strict=True))
    if recipe.labels is not None and not recipe.classes:
        ArrayStore.create(
            store.provisional, shape=recipe.extent, dtype="uint32", chunks=cell, keep=True
        )
    for field in recipe.raw:
        ArrayStore.create(
            store.raw / field.name,
            shape=field.box(Roi.whole(recipe.extent)).shape,
            dtype=recipe.kept,
            chunks=field.box(Roi.whole(cell)).shape,
            keep=True,
        )


def _at_ease(size: int, ease: int) -> int:
    """The longest part of a cell that is not too long; the cell where no fair part divides it."""
    fair = (part for part in range(ease, ease // 4, -1) if size % part == 0)
    return size if size <= 2 * ease else next(fair, size)


def linked_levels(store: ResultStore) -> list[str]:
    """Names of the levels of the image that are links; there are none but on a disk."""
    root = store.path.local
    return [] if root is None else [n for n in store.path.children() if (root / n).is_symlink()]


def metadata_files(store: ResultStore, recipe: Recipe, volume: Volume) -> Iterator[str]:
    """The files that describe the groups and arrays of a result; a linked image is not ours."""
    nodes = [".", *([] if linked_levels(store) else ["0"])]
    if recipe.labels is not None:
        levels = range(len(LabelPyramid.of(recipe, volume).levels))
        labels = f"labels/{store.labels.name}"
        nodes += ["labels", labels, *(f"{labels}/{n}" for n in levels)]
    if recipe.save_fields:
        nodes.append("fields")
        for name, _ in recipe.outputs:
            nodes += [f"fields/{name}", f"fields/{name}/0"]
    for node in nodes:
        for file in ZARR_FILES:
            name = file if node == "." else f"{node}/{file}"
            if (store.path / name).is_file():
                yield name


def make_label_arrays(
    store: ResultStore,
    pyramid: LabelPyramid,
    volume: Volume,
    dtype: Any,
    layout: Layout,
    *,
    with_image: bool,
) -> None:
    """Make the labels and their pyramid."""
    create_labels(
        store.path,
        store.labels.name,
        axes=volume.axes,
        levels=pyramid.levels,
        dtype=dtype,
        voxel_size=volume.voxel_size,
        with_image=with_image,
        **layout.arrays(),
    )
