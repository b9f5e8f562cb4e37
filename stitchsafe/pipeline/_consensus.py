"""What is decided once for the whole volume, before any tile: intensity statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stitchsafe.engine import Events, Intensity
from stitchsafe.errors import IntegrityError, VolumeError
from stitchsafe.networks import Pointwise
from stitchsafe.pipeline._steps import decide_steps, first_percentiles
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import StatisticsProgress, Volume, statistics

__all__ = ["Consensus", "decide", "load_consensus"]


@dataclass(frozen=True)
class Consensus:
    """The intensity map that every tile uses, and the statistics that it came from."""

    intensity: Intensity
    statistics: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "offset": list(self.intensity.offset),
            "gain": list(self.intensity.gain),
            "then": [[step.to_json() for step in steps] for steps in self.intensity.then],
            "statistics": self.statistics,
        }


def decide(volume: Volume, recipe: Recipe, events: Events) -> Consensus:
    """Stream the whole volume once, and decide.

    The whole volume speaks, also where only an ROI is predicted: so that an ROI's result is a part
    of the whole one.

    Raises
    ------
    VolumeError
        If the volume holds NaN and the recipe does not say what becomes of it.
    """
    rule, floating = recipe.normalization, volume.dtype.kind == "f"
    nan_to_zero = recipe.nan == "zero"
    if rule.kind == "none" and not floating:
        return Consensus(_unscaled(volume.channels, recipe.kept, nan_to_zero), None)
    asked: tuple[float, ...] = rule.percentiles if rule.kind == "percentile" else ()
    if rule.kind == "steps":
        asked = first_percentiles(rule)
    listener = _Listener(events)
    found = statistics(volume, percentiles=asked, events=listener)
    for kind, count, first in (
        ("NaN", found.nan_count, found.first_nan),
        ("infinite", found.infinite_count, found.first_infinite),
    ):
        if count and not nan_to_zero:
            raise VolumeError(
                f"{volume.path or 'the array'} holds {count} {kind} voxels, the first at "
                f"{','.join(map(str, first or ()))}; repair it, or read them as zero with "
                "--nan zero"
            )
    if rule.kind == "none":
        intensity = _unscaled(volume.channels, recipe.kept, nan_to_zero)
    elif rule.kind == "percentile":
        low, high = (found.percentile(q) for q in rule.percentiles)
        intensity = Intensity.between(low, high, dtype=recipe.kept, nan_to_zero=nan_to_zero)
    elif rule.kind == "steps":
        then = decide_steps(volume, rule, found, listener)
        zero, one = (0.0,) * volume.channels, (1.0,) * volume.channels
        intensity = Intensity(zero, one, recipe.kept, nan_to_zero, then)
    else:
        above = [mean + std for mean, std in zip(found.mean, found.std, strict=True)]
        intensity = Intensity.between(found.mean, above, dtype=recipe.kept, nan_to_zero=nan_to_zero)
    return Consensus(intensity, found.to_json())


def load_consensus(store: ResultStore, recipe: Recipe) -> Consensus | None:
    """What an earlier run decided, if it got that far."""
    if not store.consensus_file.is_file():
        return None
    try:
        content = json.loads(store.consensus_file.read_text())
        intensity = Intensity(
            tuple(content["offset"]),
            tuple(content["gain"]),
            recipe.kept,
            recipe.nan == "zero",
            tuple(
                tuple(Pointwise.from_json(step) for step in steps)
                for steps in content.get("then", ())
            ),
        )
        return Consensus(intensity, content["statistics"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{store.consensus_file} is damaged; start again with --overwrite"
        ) from error


def _unscaled(channels: int, dtype: str, nan_to_zero: bool) -> Intensity:
    return Intensity((0.0,) * channels, (1.0,) * channels, dtype, nan_to_zero)


class _Listener:
    """Turns the statistics' own progress into a stage."""

    def __init__(self, events: Events) -> None:
        self.events, self.done = events, 0

    def __call__(self, progress: StatisticsProgress) -> None:
        if progress.voxels_done < self.done:  # of another step
            self.done = 0
        if not self.done:
            self.events.stage("statistics", progress.voxels_total, "voxels")
        self.events.advance(progress.voxels_done - self.done)
        self.done = progress.voxels_done
