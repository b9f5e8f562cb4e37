"""Steps with statistics, decided for the whole volume: what is left of them is pointwise.

Each such step takes the statistics of the volume as the steps before it leave it, which are known
by then. The volume is streamed for it once more through these steps; a first step has no other
before it and takes the statistics of the volume as it lies, found in the pass that looks for NaN.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Intensity
from stitchsafe.networks import (
    Before,
    ClipPercentiles,
    Finishing,
    Percentiles,
    Pointwise,
    TensorConfig,
    Zscore,
    pointwise,
)
from stitchsafe.tiling import Normalization
from stitchsafe.volumes import IntensityStatistics, Pass, Tally, Volume, passes

__all__ = ["deciding_chain", "deciding_steps", "first_percentiles"]

Chains = tuple[tuple[Pointwise, ...], ...]
Statistical = Zscore | Percentiles | ClipPercentiles


def first_percentiles(rule: Normalization) -> tuple[float, ...]:
    """Percentiles of the volume as it lies that some first step asks for."""
    first = [tensor.preprocessing[0] for tensor in _tensors(rule) if tensor.preprocessing]
    return tuple(dict.fromkeys(q for step in first for q in _asked(step)))


def deciding_steps(
    volume: Volume, rule: Normalization, found: IntensityStatistics
) -> Generator[Pass, Tally, Chains]:
    """Ask for the further passes that steps take; returns the maps of every channel.

    Parameters
    ----------
    found
        Statistics of the volume as it lies, with :func:`first_percentiles`.
    """
    chains: list[tuple[Pointwise, ...]] = []
    for tensor in _tensors(rule):
        begin = len(chains)
        chains += yield from deciding_chain(
            volume, tensor.preprocessing, range(begin, begin + tensor.channels), found
        )
    return tuple(chains)


def deciding_chain(
    volume: Volume,
    steps: Sequence[Before | Finishing],
    channels: range,
    found: IntensityStatistics | None = None,
    roi: Roi | None = None,
) -> Generator[Pass, Tally, Chains]:
    """Ask for the passes that some steps take; returns the maps of each channel.

    Parameters
    ----------
    channels
        Of the volume: those that the steps are done to.
    found
        Statistics of the volume as it lies, where they are known.
    roi
        Whose statistics are meant; the whole volume by default.
    """
    count = len(channels)
    own: list[tuple[Pointwise, ...]] = [()] * count
    for step in steps:
        if not isinstance(step, Statistical):
            maps = pointwise(step, count)
        else:
            together = step.together and count > 1
            if any(own) or together or found is None:
                view = _View(volume, channels.start, tuple(own), together)
                part = Roi((0, *roi.offset), (count, *roi.shape)) if roi and together else roi
                known = yield from passes(view, part, percentiles=_asked(step))
                maps = _decided(step, known, range(1 if together else count))
            else:
                maps = _decided(step, found, channels)
            maps = maps * count if together else maps
        own = [(*chain, each) for chain, each in zip(own, maps, strict=True)]
    return tuple(own)


def _tensors(rule: Normalization) -> list[TensorConfig]:
    return [TensorConfig.model_validate(tensor) for tensor in rule.tensors]


def _asked(step: object) -> tuple[float, ...]:
    if isinstance(step, Percentiles):
        return (step.low, step.high)
    if isinstance(step, ClipPercentiles):
        return tuple(bound for bound in (step.low, step.high) if bound is not None)
    return ()


def _decided(
    step: Statistical, found: IntensityStatistics, channels: Sequence[int]
) -> tuple[Pointwise, ...]:
    """The step as a map for each of some channels; one without contrast becomes 0."""
    if isinstance(step, Zscore):
        return tuple(
            Pointwise("affine", (found.mean[c], _inverse(found.std[c] + step.eps), 0.0))
            for c in channels
        )
    if isinstance(step, Percentiles):
        low, high = found.percentile(step.low), found.percentile(step.high)
        return tuple(
            Pointwise("affine", (low[c], _inverse(high[c] - low[c] + step.eps), 0.0))
            for c in channels
        )
    return tuple(
        Pointwise(
            "clip",
            (
                -np.inf if step.low is None else found.percentile(step.low)[c],
                np.inf if step.high is None else found.percentile(step.high)[c],
            ),
        )
        for c in channels
    )


def _inverse(width: float) -> float:
    return 1.0 / width if width > 0 else 0.0


@dataclass(frozen=True)
class _View:
    """Some channels of a volume after some steps; together, as one channel over a further axis."""

    volume: Volume
    begin: int
    chains: Chains
    together: bool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.volume, name)

    @property
    def channels(self) -> int:
        return 1 if self.together else len(self.chains)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._extended(self.volume.shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return self._extended(self.volume.chunk_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64) if any(self.chains) else self.volume.dtype

    def read(self, roi: Roi) -> NDArray[Any]:
        chosen = range(len(self.chains))
        if self.together:
            chosen = chosen[roi.slices[0]]
            roi = Roi(roi.offset[1:], roi.shape[1:])
        raw = self.volume.read(roi)[[self.begin + c for c in chosen]]
        if any(self.chains):
            then = tuple(self.chains[c] for c in chosen)
            zero, one = (0.0,) * len(then), (1.0,) * len(then)
            raw = Intensity(zero, one, "float64", then=then).apply(raw)
        return raw[np.newaxis] if self.together else raw

    def _extended(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (len(self.chains), *shape) if self.together else shape
