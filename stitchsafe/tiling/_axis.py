"""One axis of a tiling: where a tile's input begins and ends.

Outputs are cut at multiples of the tile's size, itself a multiple of the period, counted from the
volume's origin. A tile reads its output plus a halo. Two conditions make its crop equal to the pass
over the whole volume:

* the halo is at least the network's context, so that no voxel of the crop sees an artificial end;
* the input's origin is congruent, modulo the period, to that of the whole pass, so that pooling
  windows and upsampling phases fall on the same voxels. A larger halo that misses this lattice is
  wrong, however large it is.

The whole pass reads the *domain*: the volume extended by the border rule to the smallest valid
input whose output covers it. A network that pads by itself must do so at the domain's ends only; so
its tiles are clipped there, and each layer pads just where it would in the whole pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from stitchsafe.coordinates import ceil_to, floor_to
from stitchsafe.errors import PlanError
from stitchsafe.geometry import AxisGeometry

__all__ = ["AxisTiling", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """One tile along one axis, in voxels of the volume.

    ::

        input     |-----------------------|        begin .. end
        output         |------------|              start .. start + tile
        crop           ^ index of `start` in the network's output
    """

    begin: int
    end: int
    crop: int


@dataclass(frozen=True, slots=True)
class AxisTiling:
    """Tiles of one axis, bound to the extent of the volume.

    Parameters
    ----------
    extent
        Size of the volume along the axis.
    tile
        Size of a tile's output; a multiple of the period.
    halo
        What a tile reads before and after its output.
    geometry
        The network along this axis.

    Raises
    ------
    PlanError
        If the tile is misaligned, or the halo is off the lattice, shorter than the context, or
        gives an input size that the network does not take.
    """

    extent: int
    tile: int
    halo: tuple[int, int]
    geometry: AxisGeometry

    def __post_init__(self) -> None:
        net, (before, after) = self.geometry, self.halo
        if self.extent < 1:
            raise PlanError(f"an axis of {self.extent} voxels holds nothing to predict")
        if self.tile < 1 or self.tile % net.period:
            raise PlanError(
                f"a tile of {self.tile} voxels is not a multiple of the network's period "
                f"{net.period}; take {max(net.period, floor_to(self.tile, net.period))} or "
                f"{ceil_to(max(self.tile, 1), net.period)}"
            )
        if before < net.context[0] or after < net.context[1]:
            raise PlanError(
                f"a halo of {before} voxels before and {after} after is shorter than the network's "
                f"context of {net.context[0]} and {net.context[1]}"
            )
        if (before - net.output_offset) % net.period:
            raise PlanError(
                f"a halo of {before} voxels before is off the network's lattice, however large: it "
                f"must be {net.output_offset % net.period} modulo the period {net.period}; take "
                f"{self._aligned(before)}"
            )
        if not self._is_valid(before + self.tile + after):
            raise PlanError(
                f"an input of {before} + {self.tile} + {after} voxels is none that the network "
                f"takes ({net.input_min} + k * {net.input_step})"
            )

    @classmethod
    def least(cls, geometry: AxisGeometry, extent: int, tile: int) -> AxisTiling:
        """The tiling with the smallest halo that is exact."""
        step, context = geometry.period, geometry.context
        before = context[0] + (geometry.output_offset - context[0]) % step
        size = before + tile + context[1]
        after = _next_valid(geometry, size) - tile - before
        return cls(extent, tile, (before, after), geometry)

    @property
    def starts(self) -> range:
        """Where the tiles of the axis start."""
        return range(0, self.extent, self.tile)

    @property
    def domain(self) -> tuple[int, int]:
        """Input of the whole pass: the volume, extended by the border rule."""
        net = self.geometry
        begin = -net.output_offset
        return begin, begin + _next_valid(net, self.extent + net.shrinkage)

    def span(self, start: int) -> Span:
        """The tile whose output starts at `start`."""
        net = self.geometry
        begin, end = start - self.halo[0], start + self.tile + self.halo[1]
        if net.padded:
            first, last = self.domain
            end = min(end, last)
            begin = max(begin, first)
            while end - begin < net.input_min and begin > first:
                begin = max(first, begin - net.period)
            if not self._is_valid(end - begin):
                raise PlanError(
                    f"the tile at {start} would read {end - begin} voxels, which the network does "
                    f"not take ({net.input_min} + k * {net.input_step})"
                )
        return Span(begin, end, start - begin - net.output_offset)

    def whole(self) -> Span:
        """The whole axis as one tile."""
        begin, end = self.domain
        return Span(begin, end, 0)

    def input_sizes(self, starts: range | None = None) -> Counter[int]:
        """How many tiles have which input size."""
        spans = (self.span(start) for start in (self.starts if starts is None else starts))
        return Counter(span.end - span.begin for span in spans)

    def _is_valid(self, size: int) -> bool:
        return size >= self.geometry.input_min and _next_valid(self.geometry, size) == size

    def _aligned(self, before: int) -> int:
        return before + (self.geometry.output_offset - before) % self.geometry.period


def _next_valid(geometry: AxisGeometry, size: int) -> int:
    """Smallest input size that the network takes and that is at least `size`."""
    over = max(0, size - geometry.input_min)
    return geometry.input_min + ceil_to(over, geometry.input_step)
