"""The verb seams: whether and where seams show in a result, ours or anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity import SeamReport, measure_seams
from stitchsafe.engine import Events, Silent
from stitchsafe.errors import InputError, StoreError, VolumeError
from stitchsafe.pipeline._inputs import VolumeLike
from stitchsafe.pipeline._result import is_result
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.seam_grid import SeamGrid
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import Volume, open_volume

__all__ = ["seams"]

_DEFAULT_MEMORY = 512 * 2**20


def seams(
    out: VolumeLike,
    *,
    grid: Sequence[int] | Literal["auto"] | None = None,
    origin: Sequence[int] | None = None,
    field: VolumeLike | None = None,
    labels: VolumeLike | None = None,
    roi: Roi | None = None,
    period: Sequence[int] | None = None,
    max_memory: int | None = None,
    events: Events | None = None,
) -> SeamReport:
    """Measure what shows at the seams of a result.

    Parameters
    ----------
    out
        A result of predict; or labels (whole numbers, one channel) or a field of anybody's, as a
        path, URL or array.
    grid
        Cells of the tiling, voxels per axis. By default those of a result's tiles and windows.
    origin
        Where a cell begins; the volume's origin by default.
    field
        The field's name in a result, or a field that belongs to `out`.
    labels
        Labels that belong to `out`, if that is a field.
    roi
        The only region to look at; all of the result by default.
    period
        Of the network that made the field, voxels per axis, if it is no power of two.
    max_memory
        About so many bytes are held at a time.
    events
        Told of progress.

    Returns
    -------
    SeamReport

    Raises
    ------
    InputError
        If there is nothing to measure, shapes differ, or the grid is none.
    """
    events = events or Silent()
    found = _found(out, field, labels)
    region = _region(roi, found)
    families = _families(grid, found)
    if origin is not None and len(origin) != len(found.shape):
        raise InputError(
            f"the origin {tuple(origin)} does not fit a volume of shape {found.shape}; give one "
            f"whole number per axis ({','.join(found.axes)})"
        )
    seam_grid = SeamGrid(families, region, tuple(origin or ()))
    events.stage("seams", region.size, "voxels")
    report = measure_seams(
        seam_grid,
        field=found.field,
        labels=found.labels,
        axes=found.axes,
        out=found.name,
        period=period,
        block_bytes=(max_memory or _DEFAULT_MEMORY) // 2,
        watch=lambda block: events.advance(block.size),
    )
    return replace(report, field=found.field_name, labels=found.labels_name, notes=found.notes)


@dataclass(frozen=True)
class _Found:
    """What there is to measure."""

    name: str
    field: Volume | None = None
    labels: Volume | None = None
    field_name: str | None = None
    labels_name: str | None = None
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()

    @property
    def _any(self) -> Volume:
        volume = self.field if self.labels is None else self.labels
        assert volume is not None  # one of the two is always there
        return volume

    @property
    def shape(self) -> tuple[int, ...]:
        return self._any.shape

    @property
    def axes(self) -> str:
        return self._any.axes


def _found(out: Any, field: Any, labels: Any) -> _Found:
    if not isinstance(out, Volume) and is_result(out):
        found = _of_result(ResultStore.at(out), field)
    else:
        found = _of_others(out, field)
    if labels is not None:
        found = replace(found, labels=_opened(labels), labels_name=_named(labels, "labels"))
    for volume, name in ((found.labels, found.labels_name), (found.field, found.field_name)):
        if volume is not None and volume.shape != found.shape:
            raise VolumeError(
                f"{name} has the shape {volume.shape} and not {found.shape}; give a field and "
                "labels of the same voxels"
            )
    if found.labels is not None and (
        found.labels.dtype.kind not in "iu" or found.labels.channels != 1
    ):
        raise VolumeError(
            f"{found.labels_name} holds {found.labels.channels} channel(s) of "
            f"{found.labels.dtype}, and labels are one channel of integers; name the right array"
        )
    return found


def _of_others(out: Any, field: Any) -> _Found:
    volume, name = _opened(out), _named(out, "the array")
    given = None if field is None else _opened(field)
    if volume.dtype.kind in "iu" and volume.channels == 1:
        return _Found(name, given, volume, _named(field, "the field") if given else None, name)
    if given is not None:
        raise VolumeError(
            f"{name} holds {volume.channels} channel(s) of {volume.dtype} and is a field itself, "
            "so there cannot be another; give its labels, if any, by labels"
        )
    return _Found(name, volume, None, name)


def _of_result(store: ResultStore, field: Any) -> _Found:
    recipe = store.recipe()
    names = [each.name for each in recipe.fields] if recipe.save_fields else []
    notes: tuple[str, ...] = ()
    volume, name = None, None
    if field is not None and not (isinstance(field, str) and field in names):
        volume, name = _opened(field), _named(field, "the field")
    elif names:
        name = str(field) if field is not None else names[0]
        volume = open_volume(store.field(name))
    else:
        notes = ("the result holds no field, so labels alone are measured; --save fields keeps it",)
    labels = None if recipe.labels is None else open_volume(store.labels)
    if volume is None and labels is None:
        raise StoreError(f"{store.path} holds neither labels nor a field; predict it again")
    return _Found(
        str(store.path),
        volume,
        labels,
        name,
        None if labels is None else "instances",
        recipe,
        notes,
    )


def _opened(source: Any) -> Volume:
    return source if isinstance(source, Volume) else open_volume(source)


def _named(source: Any, otherwise: str) -> str:
    if isinstance(source, Volume):
        return source.path or otherwise
    return str(source) if isinstance(source, str | Path) else otherwise


def _region(roi: Roi | None, found: _Found) -> Roi:
    whole = Roi.whole(found.shape) if found.recipe is None else found.recipe.roi
    if roi is None:
        return whole
    if roi.ndim != whole.ndim or not roi.intersect(whole).size:
        raise InputError(
            f"the region {roi} is not in {found.name}, which is {whole}; choose another"
        )
    return roi.intersect(whole)


def _families(grid: Sequence[int] | str | None, found: _Found) -> Mapping[str, tuple[int, ...]]:
    if grid is None:
        if found.recipe is None:
            raise InputError(
                f"{found.name} is no result of predict, so its grid is not known; say how it was "
                "tiled, as in 96,96,96, or auto to have it found"
            )
        recipe = found.recipe
        tiles = {"tile": recipe.tile_shape}
        return tiles if recipe.labels is None else {"window": recipe.cell_shape, **tiles}
    if isinstance(grid, str):
        raise InputError(f"the grid cannot be {grid!r}; give voxels per axis, such as 96,96,96")
    cell = tuple(grid)
    if len(cell) != len(found.shape) or any(size < 1 for size in cell):
        raise InputError(
            f"the grid {cell} does not fit a volume of shape {found.shape}; give one positive "
            f"number of voxels per axis ({','.join(found.axes)})"
        )
    return {"grid": cell}
