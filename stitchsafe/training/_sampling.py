"""Where windows lie: in which volume, and at which place of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stitchsafe.training._census import Census, take_census
from stitchsafe.training._data_config import SamplingConfig
from stitchsafe.training._labelled import Labelled

__all__ = ["Sampler"]

Place = tuple[Labelled, tuple[int, ...]]


class Sampler:
    """Draws a source and the corner of a window in its region.

    A source is drawn by its weight, then a place: anywhere, or around a voxel that a census knows
    to be of an instance. A window around it lies in the region, and so holds that voxel though it
    may not be its middle.

    Parameters
    ----------
    sources
        At least one, none smaller than the window.
    window
        In voxels.
    shares
        Of windows around instances; with any, all labels are read once now.
    take
        Takes the census of a source.
    """

    def __init__(
        self,
        sources: Sequence[Labelled],
        window: Sequence[int],
        shares: SamplingConfig,
        take: Callable[[Labelled], Census] = take_census,
    ) -> None:
        self.window = tuple(window)
        self.shares = shares
        self.everywhere = _Weighted(sources)
        self.peopled: _Weighted | None = None
        self.censuses: list[Census] = []
        if shares.instances or shares.foreground:
            counted = [census for census in map(take, sources) if census.instances]
            self.censuses = counted
            self.peopled = _Weighted([census.source for census in counted])

    def draw(self, generator: np.random.Generator) -> Place:
        """The source, and the first voxel of a window in voxels of its region."""
        if self.peopled is not None:
            lot = generator.uniform()
            if lot < self.shares.instances + self.shares.foreground:
                return self._around(generator, evenly=lot < self.shares.instances)
        source = self.everywhere.sources[self.everywhere.draw(generator)]
        extent = source.region.shape
        return source, tuple(
            int(generator.integers(0, n - w + 1)) for n, w in zip(extent, self.window, strict=True)
        )

    def _around(self, generator: np.random.Generator, *, evenly: bool) -> Place:
        assert self.peopled is not None
        census = self.censuses[self.peopled.draw(generator)]
        voxel = census.draw_of_instances(generator) if evenly else census.draw_of_voxels(generator)
        extent = census.source.region.shape
        return census.source, tuple(
            min(max(0, v - w // 2), n - w)
            for v, n, w in zip(voxel, extent, self.window, strict=True)
        )


class _Weighted:
    """Sources, and the draw of one of them by its weight."""

    def __init__(self, sources: Sequence[Labelled]) -> None:
        self.sources = tuple(sources)
        weights = np.array([source.weight for source in sources])
        self.until = weights.cumsum()
        self.even = bool((weights == weights[0]).all())

    def draw(self, generator: np.random.Generator) -> int:
        if self.even:  # as draws have always been, so that old trainings stay what they are
            return int(generator.integers(len(self.sources)))
        place = generator.uniform() * self.until[-1]
        return min(int(np.searchsorted(self.until, place, side="right")), len(self.until) - 1)
