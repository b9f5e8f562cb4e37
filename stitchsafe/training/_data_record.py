"""What a run remembers of its data: which they are, and what was found by reading all of them.

A training that goes on must go on with what it has seen so far, wherever that lies by now. So the
run's folder keeps, for each labelled volume in the order of the configuration, what tells it from
others, and nothing of where it lay::

    RUN/.stitchsafe/data.json     shape, types, voxel size and region; digests of up to 3^d boxes
                                  spread evenly over the region; statistics of the image
    RUN/.stitchsafe/census.npz    where the instances lie, if windows are laid around them

The boxes are read and compared at every start. All of a volume is read once more, and what is found
compared, if the times of its files say that they were written, moved or copied since, or nothing
tells. What this does not see are labels outside of the boxes, where no census is taken; and changes
of an image outside of the boxes that leave count, extremes, mean, deviation and percentiles as they
are, to the bit.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events, Silent
from stitchsafe.errors import StoreError
from stitchsafe.networks import InputConfig, write_whole
from stitchsafe.training._census import Census, Watch, has_instance, take_census
from stitchsafe.training._labelled import Labelled, measured, refuse_unusual, scaled_by
from stitchsafe.volumes import IntensityStatistics, StatisticsProgress, Volume

__all__ = ["DataRecord"]

_ENTRIES, _CENSUSES = "data.json", "census.npz"
_SIDE = {2: 64, 3: 24}
_ROWS = ("ids", "cells", "voxels", "first")
_LARGE_BYTES = 2**26
"""Reading as much takes a while, and is told of."""


@dataclass
class _Entry:
    """What is remembered of one volume.

    Attributes
    ----------
    facts
        What can be told without reading voxels.
    image, labels
        Digests of the boxes.
    stamp
        Changes when the files are written; None where nothing tells.
    statistics
        Of the image; None where they are not needed.
    peopled
        Whether there is an instance; None where nobody has looked.
    census
        Digest of the census; None where none was taken.
    """

    facts: dict[str, Any]
    image: str
    labels: str
    stamp: str | None = None
    statistics: dict[str, Any] | None = None
    peopled: bool | None = None
    census: str | None = None


@dataclass
class DataRecord:
    """The labelled volumes of a training, as they are opened, held against those of a run.

    Parameters
    ----------
    run
        The run's folder; None for a training that is none.
    events
        Told of reading.
    known
        What the run's folder has; None where there is nothing yet.
    folder
        Where it keeps that.
    """

    run: Path | None = None
    events: Events = field(default_factory=Silent)
    known: list[_Entry] | None = None
    folder: Path = Path()
    _found: list[_Entry] = field(default_factory=list)
    _censuses: dict[int, Census] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path, folder: Path, events: Events, *, anew: bool = False) -> DataRecord:
        """That of a run that may have begun, unless it is to start anew.

        `folder` is where it keeps its records.

        Raises
        ------
        StoreError
            If the record is damaged.
        """
        path = folder / _ENTRIES
        if anew or not path.is_file():
            return cls(run, events, None, folder)
        try:
            known = [_Entry(**entry) for entry in json.loads(path.read_bytes())]
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{path}, which tells what {run} was trained on, is damaged; remove it to go on "
                "with the data as they are now, or start anew with --overwrite"
            ) from error
        return cls(run, events, known, folder)

    def enter(self, source: Labelled) -> Labelled:
        """The source with its number.

        Raises
        ------
        StoreError
            If the run has another volume of this number.
        """
        image, labels = _samples(source)
        entry = _Entry(_facts(source), image, labels, _stamp(source))
        number = len(self._found)
        self._found.append(entry)
        if self.known is not None:
            if number >= len(self.known):
                self._refuse_others(number + 1)
            was = self.known[number]
            for name, value in entry.facts.items():
                if was.facts.get(name) != value:
                    self._refuse(source, f"{name} is {value}, and was {was.facts.get(name)}")
            for name in ("image", "labels"):
                if getattr(was, name) != getattr(entry, name):
                    self._refuse(source, f"the voxels of the {name} are others")
            if entry.stamp is not None and entry.stamp == was.stamp:
                entry.statistics, entry.peopled = was.statistics, was.peopled
        return replace(source, number=number)

    def complete(self) -> None:
        """See that none of the run's volumes is missing.

        Raises
        ------
        StoreError
            If one is.
        """
        if self.known is not None and len(self._found) != len(self.known):
            self._refuse_others(len(self._found))

    def scaled(self, source: Labelled, rule: InputConfig) -> Labelled:
        """The source with its intensities scaled by the statistics of its region.

        Raises
        ------
        VolumeError
            If some of its voxels are no numbers.
        StoreError
            If the run has other statistics of it.
        """
        entry = self._found[source.number]
        found = None
        if entry.statistics is not None:
            found = IntensityStatistics.from_json(entry.statistics)
        else:
            found = measured(source.image, source.region, rule, self._watch_image(source))
        if found is not None:
            refuse_unusual(source.image.path or f"of {source.name}", found)
            entry.statistics = json.loads(json.dumps(found.to_json()))
        was = self._was(source)
        if was is not None and was.statistics != entry.statistics:
            self._refuse(source, "the intensities of the image are others")
        return replace(source, intensity=scaled_by(found, source.image.channels, rule))

    def has_instance(self, source: Labelled) -> bool:
        """See `stitchsafe.training._census.has_instance`."""
        entry = self._found[source.number]
        if entry.peopled is None:
            entry.peopled = has_instance(source, self._watch_labels(source))
        return entry.peopled

    def census(self, source: Labelled) -> Census:
        """See `take_census`.

        Raises
        ------
        StoreError
            If the run has another one of it.
        """
        entry, was = self._found[source.number], self._was(source)
        same = was is not None and entry.stamp is not None and entry.stamp == was.stamp
        census = self._kept_census(source, was.census) if was is not None and same else None
        if census is None:
            census = take_census(source, self._watch_labels(source))
        entry.census = _census_digest(census)
        if was is not None and was.census not in (None, entry.census):
            self._refuse(source, "the instances of the labels lie elsewhere")
        self._censuses[source.number] = census
        return census

    def keep(self) -> None:
        """Write it into the run's folder."""
        rows = {
            f"{number}.{name}": getattr(census, name)
            for number, census in self._censuses.items()
            for name in _ROWS
        }
        if rows:
            content = io.BytesIO()
            np.savez(content, **rows)
            write_whole(self.folder / _CENSUSES, content.getvalue())
        entries = json.dumps([vars(entry) for entry in self._found], indent=1) + "\n"
        write_whole(self.folder / _ENTRIES, entries.encode())

    @staticmethod
    def clear(folder: Path) -> None:
        """Forget what is kept in a folder."""
        for name in (_ENTRIES, _CENSUSES):
            (folder / name).unlink(missing_ok=True)

    def _was(self, source: Labelled) -> _Entry | None:
        return None if self.known is None else self.known[source.number]

    def _kept_census(self, source: Labelled, wanted: str | None) -> Census | None:
        path = self.folder / _CENSUSES
        if wanted is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as content:
                rows = {name: content[f"{source.number}.{name}"] for name in _ROWS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # taken once more
        census = Census(source, **rows)
        return census if _census_digest(census) == wanted else None

    def _watch_image(self, source: Labelled) -> Callable[[StatisticsProgress], None]:
        reading = _Reading(self.events, source, source.image, "for its intensities")

        def watch(progress: StatisticsProgress) -> None:
            reading.until(progress.voxels_done, progress.voxels_total)

        return watch

    def _watch_labels(self, source: Labelled) -> Watch:
        reading = _Reading(self.events, source, source.labels, "for its instances")

        def watch(voxels: int) -> None:
            reading.until(reading.done + voxels, source.region.size)

        return watch

    def _refuse(self, source: Labelled, why: str) -> NoReturn:
        raise StoreError(
            f"the volume with the labels {source.name} is not the one that {self.run} was trained "
            f"on so far ({why}); give that one, or start anew with --overwrite or in another "
            "folder with -o"
        )

    def _refuse_others(self, count: int) -> NoReturn:
        assert self.known is not None
        more = "at least " if count > len(self.known) else ""
        raise StoreError(
            f"there are {more}{count} labelled volumes, and {self.run} was trained on "
            f"{len(self.known)} so far; give those, or start anew with --overwrite or in another "
            "folder with -o"
        )


@dataclass
class _Reading:
    """Tells of a volume's being read, if that takes a while."""

    events: Events
    source: Labelled
    volume: Volume
    why: str
    done: int = 0

    def until(self, done: int, total: int) -> None:
        """So many voxels of the total are read by now, over all times that they are."""
        voxel = self.volume.channels * self.volume.dtype.itemsize
        size = self.source.region.size * voxel
        if size >= _LARGE_BYTES:
            if not self.done:
                name = self.volume.path or self.source.name
                self.events.say(f"reading {size / 1e9:.2g} GB of {name} {self.why}, once for a run")
                self.events.stage(f"reading {self.why}", total, "voxels")
            self.events.advance(done - self.done)
        self.done = done


def _facts(source: Labelled) -> dict[str, Any]:
    size = source.image.voxel_size
    return {
        "shape": list(source.image.shape),
        "region": str(source.region),
        "channels": source.image.channels,
        "image's type": source.image.dtype.name,
        "labels' type": source.labels.dtype.name,
        "voxel size": None if size is None else [*size.values, size.unit],
    }


def _stamp(source: Labelled) -> str | None:
    stamps = [volume.stamp(source.region) for volume in (source.image, source.labels)]
    return None if None in stamps else " ".join(map(str, stamps))


def _samples(source: Labelled) -> tuple[str, str]:
    """Digests of image and labels in some boxes."""
    boxes = list(_boxes(source.region))
    image, labels = (
        _digest(*(volume.read(box) for box in boxes)) for volume in (source.image, source.labels)
    )
    return image, labels


def _boxes(region: Roi) -> Iterator[Roi]:
    """At begin, middle and end of each axis; all of an axis that is short."""
    side = _SIDE[region.ndim]
    bounds = []
    for begin, size in zip(region.offset, region.shape, strict=True):
        if size <= 3 * side:
            bounds.append([(begin, begin + size)])
        else:
            starts = (begin, begin + (size - side) // 2, begin + size - side)
            bounds.append([(start, start + side) for start in starts])
    for each in itertools.product(*bounds):
        yield Roi.from_bounds(*zip(*each, strict=True))


def _digest(*arrays: npt.NDArray[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _census_digest(census: Census) -> str:
    return _digest(*(getattr(census, name) for name in _ROWS))
