"""The arrays of a result: made empty, with their OME metadata, before any cell is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi, ceil_to
from stitchsafe.pipeline._inputs import Inputs
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import (
    ArrayStore,
    Ngff,
    PyramidLevel,
    Volume,
    create_field,
    create_group,
    create_image,
    create_labels,
    downsample_labels,
    finer_region,
    link_image,
    pyramid_levels,
)

__all__ = [
    "LabelPyramid",
    "make_field_arrays",
    "make_image",
    "make_label_arrays",
    "make_scratch",
]

_FORMATS = {"0.5": 3, "0.4": 2}


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

    def maker(self, level: int, finer: ArrayStore) -> Callable[[Roi], NDArray[Any]]:
        """What makes the cells of a level from the level below."""
        steps = self.levels[level].steps_from(self.levels[level - 1])

        def make(cell: Roi) -> NDArray[Any]:
            return downsample_labels(finer.read(finer_region(cell, steps)), steps)

        return make


def make_image(store: ResultStore, inputs: Inputs, mode: str, recipe: Recipe, ngff: Ngff) -> str:
    """Make the root group, and what it holds of the image.

    An image of other axes than the labels', as one of whose slices is predicted, is not linked.

    Returns
    -------
    str
        What became of the image: ``link``, ``copy`` or ``none``.
    """
    volume = inputs.volume
    most = None if recipe.labels is None else len(LabelPyramid.of(recipe, volume).levels)
    create_group(store.path, ngff=ngff)
    if mode == "link" and not (
        inputs.linkable and link_image(volume, store.path, ngff=ngff, most=most)
    ):
        return "none"
    if mode == "copy":
        create_image(
            store.path,
            axes=volume.axes,
            levels=pyramid_levels(volume.shape, most=1),
            dtype=volume.dtype,
            chunks=recipe.cell_shape,
            channels=volume.channels,
            voxel_size=volume.voxel_size,
            ngff=ngff,
            overwrite=True,
        )
    return mode


def make_field_arrays(store: ResultStore, recipe: Recipe, volume: Volume, ngff: Ngff) -> None:
    """Make the arrays that the first stage writes."""
    if recipe.save_fields:
        for field in recipe.fields:
            create_field(
                store.path,
                field.name,
                axes=volume.axes,
                shape=field.shape(recipe.extent),
                channels=field.channels,
                dtype=recipe.kept,
                chunks=field.shape(recipe.cell_shape),
                voxel_size=volume.voxel_size,
                density=field.scale,
                ngff=ngff,
                overwrite=True,
            )
    if recipe.labels is not None:
        make_scratch(store, recipe)


def make_scratch(store: ResultStore, recipe: Recipe) -> None:
    """Make the array of provisional labels."""
    chunks = tuple(min(c, e) for c, e in zip(recipe.cell_shape, recipe.extent, strict=True))
    ArrayStore.create(
        store.provisional, shape=recipe.extent, dtype="uint32", chunks=chunks, overwrite=True
    )


def make_label_arrays(
    store: ResultStore,
    pyramid: LabelPyramid,
    volume: Volume,
    dtype: Any,
    ngff: Ngff,
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
        chunks=pyramid.recipe.cell_shape,
        voxel_size=volume.voxel_size,
        with_image=with_image,
        ngff=ngff,
        overwrite=True,
    )
