"""One clustering window: fields in, segments out; a pure function of the window's voxels.

Voxels of the foreground are clustered by their embedding (or taken as one cluster, or by their
class); each cluster falls into its connected parts, since same-looking objects have the same
embedding wherever they lie. Parts are joined by faces: 6 neighbours in 3-D, 4 in 2-D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.instances._growth import grow_segments
from stitchsafe.instances._meanshift import Modes, find_modes, nearest_mode
from stitchsafe.instances._records import STRAY, WindowSegments
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._sketch import Sketch, SketchUnion, to_units

__all__ = [
    "Inside",
    "clustered_points",
    "connected_parts",
    "modes_of",
    "read_fields",
    "segment_window",
    "voxel_bytes",
]

Fields = Mapping[str, NDArray[Any]]
Inside = Callable[[Roi], NDArray[np.bool_]]
"""Which voxels of a region a mask holds."""

_BATCH = 1 << 16
_LABELLED_BYTES, _GROWN_BYTES, _COMPARED_BYTES, _CHOSEN_BYTES = 16, 29, 29, 11
_MASKED_BYTES = (
    7  # the mask twice, as it is looked up, and the foreground without what it leaves out
)


def segment_window(
    fields: Fields,
    *,
    settings: LabelSettings,
    nan_is_background: bool = False,
    inside: NDArray[np.bool_] | None = None,
    modes: Modes | None = None,
) -> WindowSegments:
    """Segment one clustering window.

    Parameters
    ----------
    fields
        By name; those that are read are ``(channels, *window)``, foreground as probability in its
        first channel.
    settings
        Names of the fields to read, and how.
    nan_is_background
        Take voxels where a field is NaN or infinite for background, rather than refuse.
    inside
        Which voxels a mask holds, of the window's shape; the others are background. None: all.
    modes
        Of the whole volume, where clusters are those of the volume; else found in the window.

    Raises
    ------
    InputError
        If a field is missing (with those that there are), has another shape, or holds NaN.
    """
    arrays, core = read_fields(fields, settings, nan_is_background=nan_is_background)
    if inside is not None:
        core = inside if core is None else core & inside
    usual = np.ones(next(iter(arrays.values())).shape[1:], bool) if core is None else core
    foreground = arrays[settings.foreground_field][0] if settings.needs_foreground else None
    if foreground is not None:
        if core is not None:
            foreground = np.where(usual, foreground, -1)
        core = (foreground >= settings.foreground_threshold) & usual
    if settings.source == "embeddings":
        clusters, centers = _cluster(arrays[settings.embedding_field], core, settings, modes)
    elif settings.source == "foreground":
        assert core is not None
        clusters, centers = core.astype(np.int32), np.zeros((1, 0), np.float32)
    else:
        classes = arrays[settings.class_field]
        clusters = classes.argmax(axis=0).astype(np.int32)  # equal scores: the lower class
        clusters[~usual] = 0
        centers = np.arange(1, len(classes), dtype=np.float32)[:, None]
    labels, first = connected_parts(clusters) if settings.parts else _all_parts(clusters)
    of_segment = clusters.reshape(-1)[first] - 1
    del clusters, core, usual
    cores = labels
    if settings.growth_threshold is not None and foreground is not None:
        labels, cores, first, of_segment = _grow(labels, of_segment, foreground, settings)
        centers = np.concatenate([centers, np.full((1, centers.shape[1]), np.nan, np.float32)])
    lost = _lost(labels, len(first), settings.min_size, of_segment == STRAY)
    if settings.parts and lost.any():
        kept = np.flatnonzero(~lost)
        new = np.zeros(len(lost) + 1, np.uint32)
        new[kept + 1] = np.arange(1, len(kept) + 1)
        labels, cores = _replaced(labels, new), _replaced(cores, new)
        first, of_segment = first[kept], of_segment[kept]
    return WindowSegments(
        labels=labels,
        cores=cores,
        modes=centers[of_segment],  # of strays the last one
        clusters=of_segment.astype(np.int32),
        voxels=_sizes(labels, len(first))[1:],
        first=np.stack(np.unravel_index(first, labels.shape), axis=1).astype(np.int64),
    )


def read_fields(
    fields: Fields, settings: LabelSettings, *, nan_is_background: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
    """The fields that are read, and which voxels are numbers in all of them; None where all are.

    Raises
    ------
    InputError
        As `segment_window` does.
    """
    arrays = {name: _field(fields, name, settings.fields) for name in settings.fields}
    if not nan_is_background:
        _refuse_nan(arrays)
        return arrays, None
    usual = np.logical_and.reduce([np.isfinite(each).all(axis=0) for each in arrays.values()])
    arrays = {name: np.where(usual, field, 0) for name, field in arrays.items()}
    return arrays, None if usual.all() else usual


def clustered_points(fields: Fields, settings: LabelSettings) -> NDArray[Any]:
    """Embeddings ``(points, dimensions)`` of the voxels that are clustered, of any piece of fields.

    Voxels where a field is not finite, and those of the background by the foreground field, are
    none of them.
    """
    embedding = fields[settings.embedding_field]
    inside = np.logical_and.reduce([np.isfinite(fields[n]).all(axis=0) for n in settings.fields])
    if settings.needs_foreground:
        inside &= fields[settings.foreground_field][0] >= settings.foreground_threshold
    points: NDArray[Any] = embedding[:, inside].T
    return points


def modes_of(sketch: Sketch, settings: LabelSettings) -> Modes:
    """The modes of a sketch, of a window or of the volume, as the settings say."""
    return find_modes(
        sketch, settings.radius, min_support=settings.min_mode, kernel=settings.kernel
    )


def voxel_bytes(settings: LabelSettings, *, fields: int, nan_is_background: bool = False) -> int:
    """Memory that `segment_window` takes for every voxel of a window, beside its fields.

    As measured on windows of 4 to 8 million voxels: 12 to 15 bytes for masks, clusters and labels,
    24 to 29 where segments grow, 28 where scores are compared. Points in units, of which there is a
    batch at a time, are not among them.

    Parameters
    ----------
    settings
        As for `segment_window`.
    fields
        Bytes of a voxel in all fields together, which are copied where NaN is background.
    nan_is_background
        As for `segment_window`.
    """
    copied = (fields + 1 if nan_is_background else 0) + (_MASKED_BYTES if settings.masked else 0)
    if settings.is_class_map:
        return _CHOSEN_BYTES + copied
    if settings.growth_threshold is not None:
        return _GROWN_BYTES + copied
    return (_COMPARED_BYTES if settings.source == "argmax" else _LABELLED_BYTES) + copied


def _lost(
    labels: NDArray[np.uint32], count: int, min_size: int, strays: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which segments are strays or below the minimum size, and can never become more.

    Only contact over a face of the window makes a segment part of something larger, so dropping
    the others here changes no result, and keeps noise out of the table of all segments.
    """
    sizes = _sizes(labels, count)
    reaches = np.zeros(count + 1, bool)
    for axis in range(labels.ndim):
        for at in (0, -1):
            reaches[labels.take(at, axis=axis)] = True
    result: NDArray[np.bool_] = ((sizes < min_size)[1:] | strays) & ~reaches[1:]
    return result


def connected_parts(
    clusters: NDArray[np.int32],
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Parts of each positive cluster that are joined by faces.

    Returns
    -------
    labels
        uint32, numbered from 1 by first voxel in raster order; 0 where `clusters` is 0.
    first
        int64: raster index of each part's first voxel.
    """
    contiguous = np.ascontiguousarray(clusters)
    if contiguous.size == 0:
        return contiguous.astype(np.uint32), np.zeros(0, np.int64)
    import cc3d  # here, as only labels need it

    flat = contiguous.reshape((1,) * max(0, 2 - contiguous.ndim) + contiguous.shape)
    parts = cc3d.connected_components(
        flat, connectivity=6 if flat.ndim == 3 else 4, out_dtype=np.uint32
    ).reshape(contiguous.shape)
    labels, first, _ = _renumber(parts, None)
    return labels, first


def _all_parts(clusters: NDArray[np.int32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Each positive cluster with all its parts, numbered as by `connected_parts`."""
    occurs = _sizes(clusters, int(clusters.max(initial=0))) > 0
    occurs[0] = False
    numbers = np.where(occurs, np.cumsum(occurs), 0).astype(np.uint32)
    labels, first, _ = _renumber(_replaced(clusters, numbers), None)
    return labels, first


def _grow(
    labels: NDArray[np.uint32],
    of_segment: NDArray[np.int32],
    foreground: NDArray[Any],
    settings: LabelSettings,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64], NDArray[np.int32]]:
    """Drop segments that are too small to be seeds, grow the others, number them anew.

    What they may grow into and do not reach are strays: its connected parts follow as segments.

    Returns
    -------
    labels, cores
        The grown segments and strays, and of each only what it was before growth.
    first, of_segment
        First voxel of each grown segment, and what `of_segment` said of it; `STRAY` of strays.
    """
    sizes = _sizes(labels, len(of_segment))
    kept = np.flatnonzero(sizes[1:] >= settings.min_core)
    seeds = np.zeros(len(sizes), np.uint32)
    seeds[kept + 1] = np.arange(1, len(kept) + 1)
    cores = _replaced(labels, seeds)
    allowed = foreground >= settings.growth_threshold
    grown = grow_segments(cores, foreground, allowed, steps=settings.growth_steps)
    of_segment = of_segment[kept]
    if settings.adopts:
        strays, found = connected_parts((allowed & (grown == 0)).astype(np.int32))
        np.add(strays, len(kept), out=strays, where=strays > 0)
        grown += strays
        of_segment = np.concatenate([of_segment, np.full(len(found), STRAY, np.int32)])
    numbered, first, of_segment = _renumber(grown, of_segment)
    return numbered, np.where(cores > 0, numbered, np.uint32(0)), first, of_segment


def _field(fields: Fields, name: str, names: Sequence[str]) -> NDArray[Any]:
    if name not in fields:
        raise InputError(
            f"the network has no field {name!r}, which the label settings read; it has "
            f"{', '.join(sorted(fields))}: name one of them in the settings"
        )
    field = fields[name]
    shapes = {fields[other].shape[1:] for other in names if other in fields}
    if len(shapes) != 1 or len(field) == 0:
        raise InputError(f"fields of one window differ in shape or are empty: {sorted(shapes)}")
    return field


def _refuse_nan(arrays: Fields) -> None:
    for name, field in arrays.items():
        if np.isnan(field).any():
            place = tuple(int(n) for n in np.argwhere(np.isnan(field))[0][1:])
            raise InputError(
                f"the field {name!r} is NaN at {place} of its window, so it cannot be segmented; "
                "look for NaN in the volume or for an overflow in the network"
            )


def _cluster(
    embedding: NDArray[Any],
    core: NDArray[np.bool_] | None,
    settings: LabelSettings,
    modes: Modes | None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Clusters from 1 (0: background), and the mode of each."""
    points = embedding.reshape(len(embedding), -1)
    inside = None if core is None else core.reshape(-1)
    clusters = np.zeros(points.shape[1], np.int32)
    if modes is None:
        sketch = SketchUnion(len(points))
        for _, units in _units(points, inside, settings):
            sketch.add(Sketch.of_units(units))
        modes = modes_of(sketch.whole(), settings)
    for where, units in _units(points, inside, settings):
        clusters[where] = nearest_mode(units, modes) + 1
    return clusters.reshape(embedding.shape[1:]), modes.centers


def _units(
    points: NDArray[Any], inside: NDArray[np.bool_] | None, settings: LabelSettings
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """Raster indices of the voxels inside, and their positions in units, some at a time.

    In units a point takes many times its memory; the whole window's never exist at once.
    """
    for part in _batches(points.shape[1]):
        where = np.arange(part.start, part.stop)
        if inside is not None:
            where = where[inside[part]]
        yield where, to_units(points[:, where].T, settings.radius)


def _renumber(
    labels: NDArray[Any], of_segment: NDArray[np.int32] | None
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int32]]:
    """Number labels 1..n by first voxel; also first voxels, and `of_segment` in the new order."""
    flat = labels.reshape(-1)
    count = int(flat.max(initial=0))
    first = np.full(count + 1, flat.size, np.int64)
    # Of repeated indices the last one stays, hence backwards: the first voxel of each label.
    for part in reversed(_batches(flat.size)):
        first[flat[part][::-1]] = np.arange(part.stop - 1, part.start - 1, -1)
    first = first[1:]
    order = np.argsort(first, kind="stable")
    new = np.zeros(count + 1, np.uint32)
    new[order + 1] = np.arange(1, count + 1, dtype=np.uint32)
    kept = np.zeros(0, np.int32) if of_segment is None else of_segment[order]
    return _replaced(labels, new), first[order], kept


def _replaced(labels: NDArray[Any], new: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """``new[labels]``, without an index of 8 bytes for every voxel."""
    result = np.empty(labels.shape, np.uint32)
    flat, target = labels.reshape(-1), result.reshape(-1)
    for part in _batches(flat.size):
        target[part] = new[flat[part]]
    return result


def _sizes(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Voxels of each label from 0 to `count`."""
    flat = labels.reshape(-1)
    sizes = np.zeros(count + 1, np.int64)
    for part in _batches(flat.size):
        np.add.at(sizes, flat[part], 1)
    return sizes


def _batches(size: int) -> list[slice]:
    """Voxels of a window, some at a time."""
    return [slice(begin, min(begin + _BATCH, size)) for begin in range(0, size, _BATCH)]
