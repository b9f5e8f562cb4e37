"""What clustering needs of all fields: decided once, where the settings ask for a consensus.

::

    predict                 fields of every cell -> raw/<name>, or where the result keeps them
    cluster statistics 1 …  map: a sample of the points of each portion, or their sketch
    cluster settle 1 …      reduce: that of the whole
    clusters                clusters.json: the bandwidth, and the modes where they are the volume's
    segment                 map: fields of a cell -> provisional labels and evidence

The bandwidth comes first where it is to be estimated, as the sketch depends on it. Samples and
sketches of parts unite to those of the whole, bit for bit (see `PointSample` and `Sketch`); so
neither portions nor their order can matter. Points are the voxels that are clustered of what is
predicted: of the ROI, and without what a mask leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import (
    BlockInput,
    CellRecord,
    Fields,
    Ledger,
    load_json,
    save_json,
)
from stitchsafe.errors import InputError, IntegrityError
from stitchsafe.instances import (
    MERGING_BYTES,
    LabelSettings,
    Modes,
    PointSample,
    SegmentSink,
    Sketch,
    SketchUnion,
    clustered_points,
    modes_of,
    most_cells,
    to_units,
)
from stitchsafe.pipeline._deciding import Runs, Tallies, nth_pass, reach
from stitchsafe.pipeline._raw import FieldView, RawFields
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Field, Recipe
from stitchsafe.volumes import Pass, Tally, Volume

__all__ = [
    "Clustering",
    "SegmentWork",
    "cluster_pass",
    "cluster_tallies",
    "decide_clusters",
    "load_clustering",
    "needs_consensus",
    "segmenting",
]

_BATCH = 1 << 16


@dataclass(frozen=True)
class Clustering:
    """How a result's labels are made, all being decided.

    Parameters
    ----------
    settings
        With a bandwidth that is a number.
    modes
        Of the volume; None where each window has its own.
    """

    settings: LabelSettings
    modes: Modes | None = None

    @property
    def bandwidth(self) -> float | None:
        """The radius of the kernel; None where nothing is clustered."""
        return self.settings.radius if self.settings.source == "embeddings" else None


def needs_consensus(recipe: Recipe) -> bool:
    """Whether labels wait for something that is decided of all fields."""
    return recipe.labels is not None and LabelSettings.from_json(recipe.labels).needs_consensus


def segmenting(recipe: Recipe) -> str:
    """The stage that makes provisional labels and evidence."""
    return "segment" if needs_consensus(recipe) else "predict"


def cluster_tallies(store: ResultStore) -> Tallies:
    """Of points that are clustered."""
    return Tallies(store.cluster_statistics, "cluster ")


@dataclass(frozen=True)
class _Points:
    """Which points a piece of a view of fields holds."""

    layouts: tuple[Field, ...]
    settings: LabelSettings

    @property
    def dimensions(self) -> int:
        (layout,) = (f for f in self.layouts if f.name == self.settings.embedding_field)
        return layout.channels

    def of(self, values: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Embeddings, some at a time, since in units they take many times their memory."""
        fields, begin = {}, 0
        for layout in self.layouts:
            fields[layout.name] = values[begin : begin + layout.channels]
            begin += layout.channels
        points = clustered_points(fields, self.settings)
        for begin in range(0, len(points), _BATCH):
            yield points[begin : begin + _BATCH]


class _Sampled:
    """A collector of the sample of points."""

    def __init__(self, points: _Points) -> None:
        self._points = points
        self.sample = PointSample.of_points(np.zeros((0, points.dimensions)))

    def add(self, values: NDArray[Any]) -> None:
        for part in self._points.of(values):
            self.sample = PointSample.union([self.sample, PointSample.of_points(part)])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        sample = self.sample
        return {
            "hashes": sample.hashes,
            "points": sample.points,
            "counts": sample.counts,
            "largest": np.asarray(sample.largest),
        }

    def take(self, arrays: dict[str, NDArray[Any]]) -> None:
        hashes, points, counts = (arrays[name] for name in ("hashes", "points", "counts"))
        other = PointSample(hashes, points, counts, float(arrays["largest"]))
        self.sample = PointSample.union([self.sample, other])


class _Sketched:
    """A collector of the sketch of points."""

    def __init__(self, points: _Points) -> None:
        self._points = points
        self.sketch = SketchUnion(points.dimensions, most_cells(points.dimensions, MERGING_BYTES))

    def add(self, values: NDArray[Any]) -> None:
        for part in self._points.of(values):
            self.sketch.add(Sketch.of_units(to_units(part, self._points.settings.radius)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        whole = self.sketch.whole()
        return {"cells": whole.cells, "counts": whole.counts, "sums": whole.sums}

    def take(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.sketch.add(Sketch(**arrays))


def _deciding(raw: RawFields) -> Generator[Pass, Tally, Clustering]:
    """Ask for passes over the fields until bandwidth and modes are known."""
    assert raw.recipe.labels is not None
    settings = LabelSettings.from_json(raw.recipe.labels)
    layouts = tuple(each for each in raw.recipe.fields if each.name in settings.fields)
    view = cast(Volume, FieldView(raw, layouts, raw.mask))  # as much of one as a pass asks for
    if settings.bandwidth == "auto":
        known = yield Pass(view, raw.recipe.roi, _beginning(_Sampled, layouts, settings), 0, 1)
        (sampled,) = cast(Sequence[_Sampled], known.together)
        estimate = sampled.sample.bandwidth(settings.bandwidth_quantile)
        settings = replace(settings, bandwidth=estimate)
    if settings.clusters == "window":
        return Clustering(settings)
    known = yield Pass(view, raw.recipe.roi, _beginning(_Sketched, layouts, settings), 0, 1)
    (sketched,) = cast(Sequence[_Sketched], known.together)
    return Clustering(settings, modes_of(sketched.sketch.whole(), settings))


def _beginning(
    kind: type[_Sampled | _Sketched], layouts: tuple[Field, ...], settings: LabelSettings
) -> Callable[[], Tally]:
    return lambda: Tally(None, (), (kind(_Points(layouts, settings)),))


def cluster_pass(raw: RawFields, ledger: Ledger, number: int) -> Pass:
    """A pass over the fields, from 1, given that the earlier ones are settled."""
    return nth_pass(_deciding(raw), cluster_tallies(raw.store), ledger, number)


def decide_clusters(run: Runs, raw: RawFields, ledger: Ledger) -> Clustering:
    """Do what is left until bandwidth and modes are known."""
    tallies = cluster_tallies(raw.store)
    if not ledger.finished("clusters"):
        try:
            decided = reach(run, tallies, ledger, _deciding(raw))
        except InputError as error:
            raise InputError(
                f"{error}; other settings are another recipe: give them with --overwrite"
            ) from error

        def save() -> CellRecord:
            written = save_json(raw.store.clusters_file, _to_json(decided))
            return {"checksums": {"clusters": written}}

        run.once("clusters", save)
    tallies.remove(ledger)
    return load_clustering(raw.store, raw.recipe)


def _to_json(clustering: Clustering) -> dict[str, Any]:
    modes, found = clustering.modes, None
    if modes is not None:
        found = {"units": modes.units.tolist(), "support": modes.support.tolist()}
    return {"bandwidth": clustering.settings.radius, "modes": found}


def load_clustering(store: ResultStore, recipe: Recipe) -> Clustering:
    """How labels are made, with what was decided.

    Raises
    ------
    IntegrityError
        If the record of that is gone or damaged.
    """
    assert recipe.labels is not None
    settings = LabelSettings.from_json(recipe.labels)
    if not settings.needs_consensus:
        return Clustering(settings)
    try:
        content = load_json(store.clusters_file)
    except OSError as error:
        raise IntegrityError(
            f"{store.clusters_file} is gone; the same predict command with --repair decides again"
        ) from error
    settings = replace(settings, bandwidth=content["bandwidth"])
    if content["modes"] is None:
        return Clustering(settings)
    units = np.asarray(content["modes"]["units"], np.float64)
    (layout,) = (field for field in recipe.fields if field.name == settings.embedding_field)
    support = np.asarray(content["modes"]["support"], np.int64)
    modes = Modes(units.reshape(-1, layout.channels), support, settings.radius)
    return Clustering(settings, modes)


@dataclass(frozen=True)
class SegmentWork:
    """The stage that segments windows, when what it needs of all fields is decided."""

    raw: RawFields
    sink: SegmentSink

    def read(self, block: Roi, cells: Sequence[Roi]) -> BlockInput | None:
        if all(map(self.raw.recipe.skips, cells)):
            return None
        return self.raw.again(block)

    def compute(self, cells: Sequence[Roi], source: BlockInput | None) -> Iterator[Fields | None]:
        names = self.sink.settings.fields
        for cell in cells:
            skipped = self.raw.recipe.skips(cell)
            yield None if skipped else self.raw.read(cell, names, source)

    def write(self, cell: Roi, result: Fields | None) -> CellRecord:
        if result is None:
            return {**self.sink.skip(cell), "skipped": True}
        return self.sink.take(cell, result)
