"""What must be said of a model for good: that the rules of the theory were not kept."""

from __future__ import annotations

from stitchsafe.geometry import NetworkGeometry
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._window import TrainingWindow, broken_rule

__all__ = ["stamps_of"]


def stamps_of(
    geometry: NetworkGeometry, window: TrainingWindow, config: TrainingConfig
) -> tuple[str, ...]:
    """Notes that go with the model, into its configuration and its card."""
    if not config.allow_breaking_window or len(window.places) > 1:
        return ()
    if broken_rule(geometry, window.window) is None:
        return ()
    size = " x ".join(map(str, window.window))
    period = " x ".join(map(str, geometry.period))
    what = "padded " if any(axis.padded for axis in geometry.axes) else ""
    return (
        f"this network's embeddings may break at seams, since it learns from single {what}windows "
        f"of {size} voxels, and its period is {period} (allow_breaking_window: true)",
    )
