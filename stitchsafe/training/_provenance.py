"""What a card says of the data where its author says nothing: the names of files, never paths."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig, ImagesConfig, SourceConfig

__all__ = ["said_of_data"]


def said_of_data(config: TrainingConfig, instead: str | Path | None = None) -> str:
    """What was trained on, in a line.

    Parameters
    ----------
    instead
        A path that was taken instead of the configuration's.
    """
    data = config.data
    if isinstance(data, DisksConfig):
        return f"synthetic {'disks' if len(config.input.axes) == 2 else 'balls'}"
    if isinstance(data, ImagesConfig):
        kept = data.keep_back
        back = f", of which every {kept}th by name was kept back" if kept is not None else ""
        return f"the images of {_name(instead or data.path)}{back}"
    axes = config.input.axes
    return "; ".join(_of_source(source, axes, instead) for source in data.all_sources)


def _of_source(source: SourceConfig, axes: str, instead: str | Path | None) -> str:
    if source.path is None:
        named = f"{_name(source.image)} with labels {_name(source.labels)}"
    else:
        inside = " and ".join(name for name in (source.image, source.labels) if name)
        named = f"{_name(instead or source.path)} ({inside})"
    bounds = zip(axes, source.region or (), strict=False)
    region = ", ".join(f"{axis} {begin}:{end}" for axis, (begin, end) in bounds)
    return f"{named}, {region}" if region else named


def _name(path: str | Path) -> str:
    """The last part of a path or URL, and what is named inside of it after a colon."""
    place, colon, inside = str(path).rpartition(":")
    if not colon or inside.startswith(("/", "\\")):  # of s3://… and C:\…
        place, inside = str(path), ""
    name = PurePosixPath(place.replace("\\", "/")).name
    return f"{name}:{inside}" if inside else name
