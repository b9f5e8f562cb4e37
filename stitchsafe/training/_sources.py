"""From what ``train.yaml`` says of its data to labelled volumes and images that can be learnt from.

Everything that could be wrong with them is found here, before any work: missing files and arrays,
labels of another shape or of another kind of number, regions that reach out, windows that do not
fit, and labels without an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity
from stitchsafe.errors import VolumeError
from stitchsafe.networks import InputConfig
from stitchsafe.training._data_config import ImagesConfig, SourceConfig, VolumeConfig
from stitchsafe.training._data_record import DataRecord
from stitchsafe.training._labelled import Labelled, normalise, refuse_negative
from stitchsafe.volumes import (
    Volume,
    VoxelSize,
    is_url,
    open_volume,
    planar,
    require_voxel_size,
)

__all__ = ["image_files", "open_images", "open_volumes", "opened_images"]

_BRIGHT = 0.5
_HELD_BYTES = 2**29
"""So many bytes of small volumes are read once and kept; the rest is read window by window."""


def open_volumes(
    data: VolumeConfig,
    rule: InputConfig,
    window: Sequence[int],
    *,
    folder: Path,
    instead: Path | str | None = None,
    hold: bool = True,
    record: DataRecord | None = None,
) -> list[Labelled]:
    """The labelled volumes of a training.

    Parameters
    ----------
    data, rule
        What is said of them, and what the network takes.
    window
        Of training, in voxels; each volume's region must hold one.
    folder
        What relative paths are relative to.
    instead
        To be taken for the path of the data; where these have several, for their folder.
    hold
        Read small regions once and keep them, without what surrounds them.
    record
        What the run knows of them.

    Raises
    ------
    VolumeError
        If one cannot be opened or does not fit, or there is no instance in any.
    StoreError
        If they are not those of the run.
    """
    record = record or DataRecord()
    if instead is not None and data.path is None:
        folder, instead = Path(instead), None
    sources: list[Labelled] = []
    room = _HELD_BYTES
    all_fit = [_open_source(said, rule, window, folder, instead) for said in data.all_sources]
    for opened in [record.enter(source) for source in all_fit]:
        source = _scaled(opened, rule, record)
        if source.labels.dtype.kind == "i":
            record.has_instance(source)  # which looks for negative ids everywhere
        size = _bytes(source)
        if hold and size <= room:
            source, room = _held(source), room - size
        sources.append(source)
    _require_instances(sources, record)
    return sources


def _open_source(
    said: SourceConfig,
    rule: InputConfig,
    window: Sequence[int],
    folder: Path,
    instead: Path | str | None,
) -> Labelled:
    image, labels = _pair(said, folder, instead)
    image, labels = (planar(v) if len(rule.axes) == 2 else v for v in (image, labels))
    name = image.path or "the image"
    for volume in (image, labels):
        if volume.axes != rule.axes:
            raise VolumeError(
                f"{volume.path} has axes {volume.axes} (shape {volume.shape}), but the network "
                f"takes {rule.axes}; give a volume with those"
            )
    if image.shape != labels.shape:
        raise VolumeError(
            f"the image {name} has shape {image.shape}, but its labels {labels.path} have shape "
            f"{labels.shape}; training needs both alike, so give the labels of this image"
        )
    _require_channels(image.channels, rule, name)
    if labels.channels != 1:
        raise VolumeError(
            f"the labels {labels.path} have {labels.channels} channels, but each voxel has one "
            "label; give one of them"
        )
    _require_whole_numbers(labels.dtype, labels.path or name)
    _require_possible(said.ignore, labels)
    if rule.voxel_size is not None and image.voxel_size is not None:
        require_voxel_size(image, VoxelSize(rule.voxel_size, rule.unit))
    region = _region(said.region, image.shape, name)
    _require_window(region, window, name)
    where = labels.path or name
    unscaled = _unscaled(image.channels)
    return Labelled(where, image, labels, region, unscaled, said.ignore, said.weight)


def _unscaled(channels: int) -> Intensity:
    return Intensity((0.0,) * channels, (1.0,) * channels)


def _scaled(source: Labelled, rule: InputConfig, record: DataRecord) -> Labelled:
    """The same with the statistics of its region, for which all of it is read."""
    scaled = record.scaled(source, rule)
    if not any(scaled.intensity.gain):
        raise VolumeError(
            f"the image {source.image.path} has no contrast in {source.region}{_between(rule)}, so "
            f"normalised by {rule.normalize} there is nothing to see; choose another normalize, or "
            "find out whether chunks are missing"
        )
    return scaled


def _between(rule: InputConfig) -> str:
    low, high = rule.percentiles
    return f" between percentiles {low:g} and {high:g}" if rule.normalize == "percentile" else ""


def _pair(said: SourceConfig, folder: Path, instead: Path | str | None) -> tuple[Volume, Volume]:
    """The image and the labels, opened."""

    def opened(name: str, axes: str | None, channel: int | None, level: int) -> Volume:
        if said.path is None:
            place, inside = _place(name, folder), None
        else:
            place = str(instead) if instead is not None else _place(said.path, folder)
            inside = name or None
        return open_volume(
            place, image=inside, axes=axes, channel=channel, level=level, time=said.time
        )

    image = opened(said.image, said.axes, said.channel, said.level)
    labels = opened(said.labels, None, None, 0)
    if said.level and len(labels.levels) > 1:
        labels = opened(said.labels, None, None, said.level)
    return image, labels


def _place(path: str, folder: Path) -> str:
    return path if is_url(path) else str(folder / Path(path).expanduser())


def _region(bounds: Sequence[tuple[int, int]] | None, shape: tuple[int, ...], name: str) -> Roi:
    if bounds is None:
        return Roi.whole(shape)
    if len(bounds) != len(shape):
        raise VolumeError(
            f"the region of {name} has bounds along {len(bounds)} axes, but its shape is {shape}; "
            "give begin and end along each"
        )
    region = Roi.from_bounds(*zip(*bounds, strict=True))
    if region.size == 0:
        raise VolumeError(
            f"the region {_shown(bounds)} of {name} is empty; each end must be above its begin"
        )
    if not Roi.whole(shape).contains(region):
        fitting = region.intersect(Roi.whole(shape))
        remedy = f"{fitting} would fit" if fitting.size else "it lies outside altogether"
        raise VolumeError(
            f"the region {region} reaches out of {name}, whose shape is {shape}; {remedy}"
        )
    return region


def _shown(bounds: Sequence[tuple[int, int]]) -> str:
    return ",".join(f"{begin}:{end}" for begin, end in bounds)


def _require_window(region: Roi, window: Sequence[int], name: str) -> None:
    if all(n >= w for n, w in zip(region.shape, window, strict=True)):
        return
    nearest = tuple(map(min, region.shape, window))
    raise VolumeError(
        f"the training window {tuple(window)} is larger than {name}, of which {region.shape} can "
        f"be learnt from; the nearest window that fits is {nearest}"
    )


def _require_channels(channels: int, rule: InputConfig, name: str) -> None:
    if channels != rule.channels:
        raise VolumeError(
            f"{name} has {channels} channels, but the network takes {rule.channels}; "
            "change input.channels or the data"
        )


def _require_whole_numbers(dtype: np.dtype[np.generic], name: str) -> None:
    if dtype.kind not in "iu":
        raise VolumeError(
            f"the labels {name} are {dtype}, but ids are whole numbers; store them as such "
            "(uint32, say)"
        )


def _require_possible(ignore: int | None, labels: Volume) -> None:
    if ignore is None:
        return
    kind = np.iinfo(labels.dtype)
    if not kind.min <= ignore <= kind.max:
        raise VolumeError(
            f"ignore {ignore} cannot occur in the labels {labels.path}, which are {labels.dtype} "
            f"({kind.min} to {kind.max}); give the id that they hold"
        )


def _require_instances(sources: Sequence[Labelled], record: DataRecord) -> None:
    if any(record.has_instance(source) for source in sources):
        return
    names = ", ".join(source.name for source in sources[:3])
    more = f" and {len(sources) - 3} others" if len(sources) > 3 else ""
    raise VolumeError(
        f"there is no instance in the labels {names}{more}: every voxel is background or ignored; "
        "give labels, or another region"
    )


def _bytes(source: Labelled) -> int:
    voxel = source.image.channels * source.image.dtype.itemsize + source.labels.dtype.itemsize
    return source.region.size * voxel


def _held(source: Labelled) -> Labelled:
    """The same with its region in memory."""
    axes = "c" + source.image.axes
    image, labels = (
        open_volume(volume.read(source.region), axes=axes)
        for volume in (source.image, source.labels)
    )
    return replace(
        source,
        image=image,
        labels=labels,
        region=Roi.whole(source.region.shape),
        origin=source.region.offset,
    )


def image_files(path: Path, config: ImagesConfig) -> tuple[list[Path], list[Path]]:
    """Files to train on, and files kept back: every `keep_back`-th in the order of their names."""
    files = sorted(path.glob("*.npz"))
    if not files:
        raise VolumeError(f"{path} holds no npz files to train on; give their folder with --data")
    step = config.keep_back
    kept = [] if step is None else files[step - 1 :: step]
    return [file for file in files if file not in set(kept)], kept


def open_images(
    path: Path,
    data: ImagesConfig,
    rule: InputConfig,
    window: Sequence[int],
    record: DataRecord | None = None,
) -> list[Labelled]:
    """The labelled images of a folder that are no smaller than the window.

    Raises
    ------
    VolumeError
        If none is, or one does not fit, or there is no instance in any.
    StoreError
        If they are not those of the run.
    """
    record = record or DataRecord()
    images = opened_images(image_files(path, data)[0], data, rule, record)
    large = [
        image
        for image in images
        if all(n >= w for n, w in zip(image.region.shape, window, strict=True))
    ]
    if not large:
        raise VolumeError(
            f"none of the {len(images)} labelled images to train on is as large as the "
            f"training window {tuple(window)}; make the window smaller or give other data"
        )
    _require_instances(large, record)
    return large


def opened_images(
    files: Sequence[Path], data: ImagesConfig, rule: InputConfig, record: DataRecord
) -> list[Labelled]:
    """Those of some images whose ground is the one that is asked for."""
    found = (_open_image(file, data, rule) for file in files)
    return [record.scaled(record.enter(image), rule) for image in found if image is not None]


def _open_image(file: Path, data: ImagesConfig, rule: InputConfig) -> Labelled | None:
    """One image; none where its ground is not the one that is asked for."""
    with np.load(file, allow_pickle=False) as content:
        missing = [name for name in (data.image, data.labels) if name not in content]
        if missing:
            raise VolumeError(
                f"{file} has no array {missing[0]!r}; it has {', '.join(content) or 'none'}"
            )
        image, labels = to_channels(content[data.image], rule), content[data.labels]
    _require_channels(image.shape[0], rule, str(file))
    _require_whole_numbers(labels.dtype, f"of {file}")
    if image.shape[1:] != labels.shape:
        raise VolumeError(
            f"the image in {file} has shape {image.shape[1:]}, but its labels have shape "
            f"{labels.shape}; training needs both alike"
        )
    if data.ground == "dark" and np.median(normalise(image, rule)) > _BRIGHT:
        return None
    seen = open_volume(image, axes="c" + rule.axes)
    known = open_volume(labels, axes=rule.axes)
    _require_possible(data.ignore, known)
    region = Roi.whole(labels.shape)
    refuse_negative(f"in {file}", labels, region, data.ignore)
    return Labelled(str(file), seen, known, region, _unscaled(seen.channels), data.ignore)


def to_channels(image: npt.NDArray[np.generic], rule: InputConfig) -> npt.NDArray[np.generic]:
    """Channels first; a colour image becomes its mean where the network takes one channel."""
    ndim = len(rule.axes)
    if image.ndim == ndim:
        return image[None]
    if rule.channels == 1:
        grey = image.mean(axis=-1, dtype=np.float64).round()
        return np.asarray(grey[None], dtype=image.dtype)
    return np.moveaxis(image, -1, 0)
