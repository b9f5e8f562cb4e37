"""What is decided once for the whole volume, before any tile: intensity statistics."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from stitchsafe.engine import Intensity, load_json
from stitchsafe.errors import IntegrityError, VolumeError
from stitchsafe.networks import Pointwise
from stitchsafe.pipeline._steps import deciding_steps, first_percentiles
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import Recipe
from stitchsafe.volumes import IntensityStatistics, Pass, Tally, Volume, passes

__all__ = ["Consensus", "deciding", "load_consensus"]


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


def deciding(volume: Volume, recipe: Recipe) -> Generator[Pass, Tally, Consensus]:
    """Ask for passes over the whole volume until all is known, and decide.

    The whole volume speaks, also where only an ROI is predicted: so that an ROI's result is a part
    of the whole one. What is decided depends on the tallies alone: whoever sends the same ones goes
    the same way.

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
    found = yield from passes(volume, percentiles=asked)
    if recipe.nan == "refuse":
        _refuse_unusual(volume, found)
    if rule.kind == "none":
        intensity = _unscaled(volume.channels, recipe.kept, nan_to_zero)
    elif rule.kind == "percentile":
        low, high = (found.percentile(q) for q in rule.percentiles)
        intensity = Intensity.between(low, high, dtype=recipe.kept, nan_to_zero=nan_to_zero)
    elif rule.kind == "steps":
        then = yield from deciding_steps(volume, rule, found)
        zero, one = (0.0,) * volume.channels, (1.0,) * volume.channels
        intensity = Intensity(zero, one, recipe.kept, nan_to_zero, then)
    else:
        above = [mean + std for mean, std in zip(found.mean, found.std, strict=True)]
        intensity = Intensity.between(found.mean, above, dtype=recipe.kept, nan_to_zero=nan_to_zero)
    return Consensus(intensity, found.to_json())


def _refuse_unusual(volume: Volume, found: IntensityStatistics) -> None:
    for kind, count, first in (
        ("NaN", found.nan_count, found.first_nan),
        ("infinite", found.infinite_count, found.first_infinite),
    ):
        if count:
            raise VolumeError(
                f"{volume.path or 'the array'} holds {count} {kind} voxels, the first at "
                f"{','.join(map(str, first or ()))}; repair it, read them as zero with --nan zero, "
                "or let them through with --nan keep"
            )


def load_consensus(store: ResultStore, recipe: Recipe) -> Consensus:
    """What was decided.

    Raises
    ------
    IntegrityError
        If its record is gone or damaged.
    """
    try:
        content = load_json(store.consensus_file)
    except OSError as error:
        raise IntegrityError(
            f"{store.consensus_file} is gone; the same predict command with --repair decides again"
        ) from error
    steps = (tuple(map(Pointwise.from_json, each)) for each in content["then"])
    intensity = Intensity(
        tuple(content["offset"]),
        tuple(content["gain"]),
        recipe.kept,
        recipe.nan == "zero",
        tuple(steps),
    )
    return Consensus(intensity, content["statistics"])


def _unscaled(channels: int, dtype: str, nan_to_zero: bool) -> Intensity:
    return Intensity((0.0,) * channels, (1.0,) * channels, dtype, nan_to_zero)
