"""The answer of check, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import SkippedConfig
from stitchsafe.pipeline._probing import ProbeReport
from stitchsafe.pipeline._report import WIDTH, report

__all__ = ["Verdict"]


@dataclass(frozen=True)
class Verdict:
    """The answer of check.

    Parameters
    ----------
    model
        Name of the network.
    axes
        Its spatial axes.
    geometry
        The facts, and the layers that break locality.
    warnings
        What is exact and may still be inaccurate.
    probe
        What was measured on the running network, if that was asked for.
    skipped
        Steps after the network that are not done: `predict` refuses it for them, unless told to
        leave them out.
    """

    model: str
    axes: str
    geometry: NetworkGeometry
    warnings: tuple[str, ...] = ()
    probe: ProbeReport | None = None
    skipped: tuple[SkippedConfig, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether tiles can be stitched exactly, if need be after decisions for the volume."""
        return self.geometry.verdict != "unsafe"

    def to_json(self) -> dict[str, Any]:
        geometry, axes = self.geometry, self.geometry.axes
        return {
            "model": self.model,
            "axes": self.axes,
            "verdict": geometry.verdict,
            "period": [axis.period for axis in axes],
            "context": [list(axis.context) for axis in axes],
            "voxel_context": _voxel_context(geometry),
            "receptive_field": [axis.receptive_field for axis in axes],
            "input_size": [{"min": axis.input_min, "step": axis.input_step} for axis in axes],
            "output_offset": [axis.output_offset for axis in axes],
            "inputs": [
                {"name": each.name, "channels": each.channels, "layout": each.layout}
                for each in geometry.inputs
            ],
            "outputs": [
                {
                    "name": each.name,
                    "channels": each.channels,
                    "layout": each.layout,
                    "scale": [str(axis.scale) for axis in each.axes],
                    "offset": [axis.offset for axis in each.axes],
                    "context": [list(axis.context) for axis in each.axes],
                    "reach": [[list(sides) for sides in axis.reach] for axis in each.axes],
                    "receptive_field": [axis.receptive_field for axis in each.axes],
                }
                for each in geometry.outputs
            ],
            "consensus": [{"layer": layer, "decide": what} for layer, what in geometry.consensus],
            "breaks": [
                {"layer": b.layer, "op": b.op, "reason": b.reason, "fix": b.fix}
                for b in geometry.breaks
            ],
            "skipped_postprocessing": [each.model_dump(mode="json") for each in self.skipped],
            "warnings": list(self.warnings),
            "probe": self.probe.to_json() if self.probe else None,
        }

    def describe(self, *, width: int = WIDTH, color: bool = False) -> str:
        """The answer for people, at most `width` columns wide."""
        return report(
            self.model, self.axes, self.geometry, self.warnings, self.probe,
            tuple(map(str, self.skipped)), width=width, color=color,
        )  # fmt: skip


def _voxel_context(geometry: NetworkGeometry) -> list[list[int]]:
    """Per axis, the farthest (before, after) that any element reads around its own voxel."""
    return [
        [
            max(sides[side] for output in geometry.outputs for sides in output.axes[number].reach)
            for side in (0, 1)
        ]
        for number in range(geometry.ndim)
    ]
