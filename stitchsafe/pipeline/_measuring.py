"""The verb seams: whether and where seams show in a result, ours or anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.discontinuity import SeamReport, Views, guess_grid, measure_seams, write_html
from stitchsafe.engine import Events, FieldMaker, Silent, load_json, return_freed_memory, save_bytes
from stitchsafe.errors import InputError, StitchsafeError, StoreError, VolumeError
from stitchsafe.networks import load_network
from stitchsafe.pipeline._consensus import load_consensus
from stitchsafe.pipeline._devices import places_for
from stitchsafe.pipeline._inputs import ModelLike, VolumeLike
from stitchsafe.pipeline._machine import usable_cores
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._reopen import reopen
from stitchsafe.pipeline._result import is_result
from stitchsafe.pipeline._seams import measure_at_seams
from stitchsafe.pipeline._settings import Bound, Settings
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.seam_grid import SeamGrid
from stitchsafe.tiling import Recipe, Storage, grid_of
from stitchsafe.volumes import Volume, open_volume

__all__ = ["seams"]


def seams(
    out: VolumeLike,
    *,
    grid: Sequence[int] | Literal["auto"] | None = None,
    origin: Sequence[int] | None = None,
    field: VolumeLike | None = None,
    labels: VolumeLike | None = None,
    axes: str | None = None,
    time: int | None = None,
    roi: Roi | Sequence[tuple[Bound, Bound]] | None = None,
    period: Sequence[int] | None = None,
    recompute: int = 0,
    model: ModelLike | None = None,
    html: str | Path | None = None,
    image: VolumeLike | None = None,
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
        Cells of the tiling, voxels per axis. By default those of a result's tiles and windows;
        ``auto`` looks for a grid in the data.
    origin
        Where a cell of a given grid begins; the volume's origin by default.
    field
        The field's name in a result (its first by default), or a field that belongs to `out`.
    labels
        Labels that belong to `out`, if that is a field.
    axes
        Of a field whose file does not name them, or an array: letters of ``tczyx``.
    time
        Which time point of what is no result, where there are several.
    roi
        The only region to look at; all of the result by default.
    period
        Of the network that made the field, voxels per axis, if it is no power of two.
    recompute
        So many seams of a result across each axis are computed again, by other tiles.
    model
        For that, the network, if it has been moved or its code needs to be named.
    html
        Where a report is written to, one file for a browser.
    image
        What the report's pictures show beside; a result's own by default.
    max_memory
        No more bytes of data are held at a time, or it is refused; by default blocks of 256 MiB,
        and what the faces take.
    events
        Told of progress.

    Returns
    -------
    SeamReport

    Raises
    ------
    InputError
        If there is nothing to measure, shapes differ, or the grid is none.
    PlanError
        `max_memory` is too little.
    """
    events = events or Silent()
    if max_memory is not None:
        return_freed_memory()
    if html is not None:
        _refuse_place(Path(html))
    found = _found(out, field, labels, axes, time)
    region = _region(roi, found)
    picture = _image(image, found, time)
    if recompute and found.store is None:
        raise InputError(
            f"{found.name} is no result of predict, so nothing of it can be computed again; leave "
            "out recompute"
        )
    if isinstance(grid, str) or origin is not None:
        _refuse_odd(grid, origin, found)
    if isinstance(grid, str):
        seam_grid = _guessed(found, region, events)
    else:
        seam_grid = SeamGrid(_families(grid, found), region, tuple(origin or ()))
    if period is not None and len(period) != len(found.shape):
        raise InputError(
            f"the period {tuple(period)} does not fit a volume of shape {found.shape}; give one "
            f"number of voxels per axis ({','.join(found.axes)})"
        )
    events.stage("seams", region.size, "voxels")
    report = measure_seams(
        seam_grid,
        field=found.field,
        labels=found.labels,
        axes=found.axes,
        out=found.name,
        period=period,
        computed=_computed(found),
        max_bytes=max_memory,
        decoding=_decoding(found),
        watch=lambda block: events.advance(block.size),
    )
    report = replace(
        report,
        field=found.field_name,
        labels=found.labels_name,
        guessed=isinstance(grid, str),
        recomputed=_recomputed(found, recompute, model, events) if recompute else None,
        notes=(*found.notes, *_silences(report, found)),
    )
    if html is not None:
        views = Views(image=picture, field=found.field, labels=found.labels)
        text = write_html(report, views, provenance=_provenance(found))
        try:
            save_bytes(Path(html), text.encode())
        except OSError as error:
            raise StoreError(
                f"{html} cannot be written: {error.strerror}; choose another place for --html"
            ) from error
        events.say(f"report: {html}")
    return report


@dataclass(frozen=True)
class _Found:
    """What there is to measure."""

    name: str
    field: Volume | None = None
    labels: Volume | None = None
    field_name: str | None = None
    labels_name: str | None = None
    store: ResultStore | None = None
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

    @property
    def recipe(self) -> Recipe | None:
        return None if self.store is None else self.store.recipe()


def _found(out: Any, field: Any, labels: Any, axes: str | None, time: int | None) -> _Found:
    if not isinstance(out, Volume) and is_result(out):
        if time is not None:
            raise InputError(f"{out} is a result and holds one time point; leave out the time")
        found = _of_result(ResultStore.at(out), field, axes)
    else:
        found = _of_others(out, field, axes, time)
    if labels is not None:
        found = replace(
            found, labels=_opened(labels, time=time), labels_name=_named(labels, "the labels")
        )
    notes = {note: None for each in (found.field, found.labels) if each for note in each.notes}
    if found.store is None:
        found = replace(found, notes=(*found.notes, *notes))
    for volume, name in ((found.labels, found.labels_name), (found.field, found.field_name)):
        if volume is not None and volume.shape != found.shape:
            raise VolumeError(
                f"{name} has the shape {volume.shape} and not {found.shape}; give a field and "
                "labels of the same voxels (--axes says which axis of a field is its channels)"
            )
    marked = found.labels
    if marked is not None and (marked.dtype.kind not in "iu" or marked.channels != 1):
        raise VolumeError(
            f"{found.labels_name} holds {marked.channels} channel(s) of {marked.dtype}, and labels "
            "are one channel of integers; name the right array"
        )
    return found


def _of_others(out: Any, field: Any, axes: str | None, time: int | None) -> _Found:
    name = _named(out, "the array")
    volume = _opened(out, axes if field is None else None, time)
    if volume.dtype.kind in "iu" and volume.channels == 1:
        if field is None:
            return _Found(name, None, volume, None, name)
        return _Found(name, _opened(field, axes, time), volume, _named(field, "the field"), name)
    if field is not None:
        raise VolumeError(
            f"{name} holds {volume.channels} channel(s) of {volume.dtype} and is a field itself, "
            "so there cannot be another; give its labels, if any, by labels"
        )
    return _Found(name, volume, None, name)


def _of_result(store: ResultStore, field: Any, axes: str | None) -> _Found:
    recipe = store.recipe()
    if not store.ledger.finished("finish"):
        raise StoreError(
            f"{store.path} is not finished; the same predict command goes on from what is done"
        )
    names = [each.name for each in recipe.fields] if recipe.save_fields else []
    notes: tuple[str, ...] = ()
    volume, name = None, None
    if field is not None and not (isinstance(field, str) and field in names):
        volume, name = _opened(field, axes), _named(field, "the field")
    elif names:
        name = str(field) if field is not None else names[0]
        _refuse_scaled(store, recipe, name)
        volume = open_volume(store.field(name))
    else:
        notes = ("the result keeps no field, so only labels are measured; --save fields keeps it",)
    labels = None if recipe.labels is None else open_volume(store.labels)
    if volume is None and labels is None:
        raise StoreError(f"{store.path} holds neither labels nor a field; predict it again")
    marked = None if labels is None else "instances"
    return _Found(str(store.path), volume, labels, name, marked, store, notes)


def _refuse_scaled(store: ResultStore, recipe: Recipe, name: str) -> None:
    scale = next(each.scale for each in recipe.fields if each.name == name)
    others = [each.name for each in recipe.fields if each.scale == (1,) * len(scale)]
    if name not in others:
        instead = f"--field {others[0]}, or " if others else ""
        raise StoreError(
            f"the field {name!r} of {store.path} has {', '.join(map(str, scale))} elements to a "
            f"voxel, and its tiles meet between voxels of the image; measure {instead}"
            f"{store.field(name)} by itself, with a --grid in its own elements"
        )


def _opened(source: Any, axes: str | None = None, time: int | None = None) -> Volume:
    return source if isinstance(source, Volume) else open_volume(source, axes=axes, time=time)


def _named(source: Any, otherwise: str) -> str:
    if isinstance(source, Volume):
        return source.path or otherwise
    return str(source) if isinstance(source, str | Path) else otherwise


def _image(image: Any, found: _Found, time: int | None) -> Volume | None:
    """What pictures show beside; none where a result's own cannot be read."""
    if image is not None:
        volume = _opened(image, time=time)
        if volume.shape != found.shape:
            raise VolumeError(
                f"the image has the shape {volume.shape} and the result {found.shape}; give the "
                "image that it was made of"
            )
        return volume
    if found.store is None:
        return None
    for place in (found.store.path, found.store.stored().get("source")):
        try:
            volume = open_volume(place)
        except StitchsafeError:
            continue
        if volume.shape == found.shape:
            return volume
    return None


def _region(roi: Any, found: _Found) -> Roi:
    whole = Roi.whole(found.shape) if found.recipe is None else found.recipe.roi
    region = Settings.of({"roi": roi}).region(found.shape).intersect(whole)
    if not region.size:
        raise InputError(f"the region is not in {found.name}, which is {whole}; choose another")
    return region


def _refuse_odd(
    grid: Sequence[int] | str | None, origin: Sequence[int] | None, found: _Found
) -> None:
    if isinstance(grid, str) and grid != "auto":
        raise InputError(
            f"the grid cannot be {grid!r}; give voxels per axis, such as 96,96,96, or auto"
        )
    if origin is None:
        return
    if grid is None or isinstance(grid, str):
        raise InputError("an origin goes with a grid in voxels, such as 96,96,96; give both")
    if len(origin) != len(found.shape):
        raise InputError(
            f"the origin {tuple(origin)} does not fit a volume of shape {found.shape}; give one "
            f"whole number per axis ({','.join(found.axes)})"
        )


def _guessed(found: _Found, region: Roi, events: Events) -> SeamGrid:
    """The grid that shows in the data; one without families where none does."""
    events.stage("grid", region.ndim, "axes")
    guess = guess_grid(
        region, field=found.field, labels=found.labels, watch=lambda _: events.advance()
    )
    if guess is None:
        return SeamGrid({}, region)
    return SeamGrid({"grid": guess.cell}, region, guess.origin)


def _families(grid: Sequence[int] | None, found: _Found) -> Mapping[str, tuple[int, ...]]:
    if grid is None:
        recipe = found.recipe
        if recipe is None:
            raise InputError(
                f"{found.name} is no result of predict, so its grid is not known; say how it was "
                "tiled, as in 96,96,96, or auto to have it found"
            )
        tiles = {"tile": recipe.tile_shape}
        return tiles if recipe.labels is None else {"window": recipe.cell_shape, **tiles}
    cell = tuple(grid)
    if len(cell) != len(found.shape) or any(size < 1 for size in cell):
        raise InputError(
            f"the grid {cell} does not fit a volume of shape {found.shape}; give one positive "
            f"number of voxels per axis ({','.join(found.axes)})"
        )
    return {"grid": cell}


def _recomputed(
    found: _Found, per_axis: int, model: ModelLike | None, events: Events
) -> dict[str, Any]:
    """What some seams of a result are by other tiles."""
    store = found.store
    assert store is not None  # asked for a result only
    recipe, origin = store.recipe(), Origin.from_json(store.stored())
    network = origin.load(trust=False) if model is None else load_network(model)
    opened = reopen(store, network)
    grid, place = grid_of(recipe, opened.network.geometry), places_for(recipe, opened.network)[0]
    intensity = load_consensus(store, recipe).intensity
    events.stage("seams again", 1, "passes")
    maker = FieldMaker(recipe, grid, opened.network, opened.volume, intensity, device=place)
    measured = measure_at_seams(maker, per_axis)
    events.advance()
    allowed = recipe.arithmetic.tolerance * max(measured.max_abs_value, 1e-30)
    return {**measured.to_json(), "tolerance": allowed if recipe.exact else None}


def _computed(found: _Found) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None:
    """Which voxels of a result a mask did not leave out; None where there is no mask."""
    recipe = found.recipe
    if recipe is None or recipe.skipping is None:
        return None
    skipping, cell = recipe.skipping, recipe.cell_shape

    def computed(voxels: NDArray[np.int64]) -> NDArray[np.bool_]:
        cells, index = np.unique(voxels // np.asarray(cell), axis=0, return_inverse=True)
        wanted = np.array([not skipping.skips(each) for each in cells.tolist()], bool)
        return wanted[index.reshape(-1)]

    return computed


def _silences(report: SeamReport, found: _Found) -> Iterator[str]:
    """Why a report says nothing, or less than is thought."""
    if not report.grids or report.compared:
        return
    if not len(report.faces):
        yield f"no seam of the grid lies within {report.region}, so nothing was measured"
    else:
        what = " or ".join(
            words
            for volume, words in ((found.labels, "labelled"), (found.field, "finite"))
            if volume is not None
        )
        yield (
            f"no seam could be held against a plane between seams: cells leave no room for one, or "
            f"nothing is {what} there"
        )


def _decoding(found: _Found) -> int:
    """Bytes that decoding takes while the result is read: stored chunks are decoded whole."""
    return max(
        Storage(
            itemsize=each.dtype.itemsize,
            extent=each.shape,
            chunk_shape=each.chunk_shape,
            decoded_bytes=each.decoded_bytes,
            decoders=max(2, usable_cores()),
        ).decoding(each.shape)
        for each in (found.field, found.labels)
        if each is not None
    )


def _provenance(found: _Found) -> dict[str, Any]:
    """What a result says of how it was made, by heading."""
    store, recipe = found.store, found.recipe
    if store is None or recipe is None:
        return {}
    plan = {
        key: value
        for key, value in recipe.to_json().items()
        if key not in ("skipping", "finishing") and value not in (None, [], {})
    }
    return {"recipe": plan, "provenance": _optional_json(store.provenance_file)}


def _optional_json(place: Any) -> dict[str, Any]:
    try:
        return dict(load_json(place))
    except (StitchsafeError, OSError, ValueError, TypeError):
        return {}


def _refuse_place(path: Path) -> None:
    """Only a page is ever replaced, so that a slip of the hand costs no data."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"the folder {parent} does not exist; create it, or change --html")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, and the report is a file; change --html")
    if path.exists() and not _is_page(path):
        raise StoreError(
            f"{path} is there already and is no report, so it is left alone; change --html"
        )


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(15).lower() == b"<!doctype html>"
    except OSError:
        return False
