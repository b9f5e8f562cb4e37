"""Which input a training window needs, and whether a network may be trained with it.

A network with period p computes each of p^d phases of positions with other effective weights. A
window of at most one period never shows two positions of the same phase side by side across the
period's grid, so nothing in the loss ties them: the network may break its embeddings at every tile
(Rumberger et al. 2021, figure 3). So the window must be strictly larger than the period.

Same padding is refused: there, a window's outputs depend on where the window was cut, and what
holds across seams is only learnt from batches of directly neighbouring windows, which this loop
does not draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stitchsafe.errors import PlanError
from stitchsafe.geometry import AxisGeometry, NetworkGeometry

__all__ = ["TrainingWindow", "fit_window"]


@dataclass(frozen=True)
class TrainingWindow:
    """Shapes of one training example, in voxels.

    ::

        |<------------------- input ------------------->|
        |<- offset ->|<--- window --->|<- rest ->|

    The network's output may be larger than the window, which is then cut out of its centre.

    Attributes
    ----------
    offset
        From the input's first voxel to the window's.
    crop
        From the output's first voxel to the window's.
    """

    window: tuple[int, ...]
    input: tuple[int, ...]
    offset: tuple[int, ...]
    crop: tuple[int, ...]

    @property
    def centred(self) -> bool:
        """Whether the window lies in the middle of its input: only then may examples be flipped."""
        return all(
            2 * offset + window == whole
            for offset, window, whole in zip(self.offset, self.window, self.input, strict=True)
        )


def fit_window(geometry: NetworkGeometry, window: Sequence[int]) -> TrainingWindow:
    """The smallest valid input whose output covers the window.

    Raises
    ------
    PlanError
        If the window does not exceed the period along every axis, or the network pads.
    UnsafeNetworkError
        If the network cannot be stitched exactly.
    """
    geometry.require_safe()
    if len(window) != len(geometry.axes):
        raise PlanError(
            f"the training window {tuple(window)} has {len(window)} sizes, but the network has "
            f"{len(geometry.axes)} axes; give one size per axis"
        )
    period = tuple(axis.period for axis in geometry.axes)
    if any(axis.padded for axis in geometry.axes):
        raise PlanError(
            "the network pads its input (same padding), so what it learns depends on where windows "
            "are cut, and batches of directly neighbouring windows are not supported; train it "
            "with padding: valid"
        )
    if any(size <= p for size, p in zip(window, period, strict=True)):
        least = tuple(p + 1 for p in period)
        raise PlanError(
            f"the training window {tuple(window)} does not exceed the period {period} along every "
            "axis, so neighbouring tiles would not agree on embeddings; the least window that "
            f"would do is {least}"
        )
    pairs = list(zip(geometry.axes, window, strict=True))
    inputs = [_input_size(axis, size) for axis, size in pairs]
    crops = [
        (axis.output_size(whole) - size) // 2
        for (axis, size), whole in zip(pairs, inputs, strict=True)
    ]
    offsets = [axis.output_offset + crop for (axis, _), crop in zip(pairs, crops, strict=True)]
    return TrainingWindow(tuple(window), tuple(inputs), tuple(offsets), tuple(crops))


def _input_size(axis: AxisGeometry, window: int) -> int:
    size = axis.input_min
    while axis.output_size(size) < window:
        size += axis.input_step
    return size
