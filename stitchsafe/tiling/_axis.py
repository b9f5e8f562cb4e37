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
its tiles are clipped there, and each layer pads just where it would in the whole pass. Where that
leaves less than the network takes, they read further inward, up to the domain's other end.

A network that takes one size only (a step of 0) cannot have its tiles clipped; there they slide
inward instead, by whole periods, so that they begin or end where the domain does. Its whole pass is
that of the same layers over a domain of that size and so many periods.
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
    exact
        Whether the halo must hold the context; not where stitching is inexact anyway, and known to
        be.

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
    exact: bool = True

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
        one_pass = _is_one_pass(net, self.extent)
        needed = net.context
        if one_pass or not self.exact:
            needed = net.output_offset, 0 if one_pass else net.shrinkage - net.output_offset
        if before < needed[0] or after < needed[1]:
            raise PlanError(
                f"a halo of {before} voxels before and {after} after is shorter than the network's "
                f"context of {needed[0]} and {needed[1]}"
            )
        if (before - net.output_offset) % net.period:
            raise PlanError(
                f"a halo of {before} voxels before is off the network's lattice, however large: it "
                f"must be {net.output_offset % net.period} modulo the period {net.period}; take "
                f"{self._aligned(before)}"
            )
        if not one_pass and not net.takes(before + self.tile + after):
            raise PlanError(
                f"an input of {before} + {self.tile} + {after} voxels is none that the network "
                f"takes ({net.input_min} + k * {net.input_step})"
            )

    @classmethod
    def least(
        cls, geometry: AxisGeometry, extent: int, tile: int, *, exact: bool = True
    ) -> AxisTiling:
        """The tiling with the smallest halo that is exact.

        Of a network that takes one size only, what the tile leaves of it is the halo.

        Raises
        ------
        PlanError
            If a tile of this size does not fit the one size that the network takes.
        """
        before = _aligned_context(geometry)
        if geometry.input_step:
            size = before + tile + geometry.context[1]
            after = _next_valid(geometry, size) - tile - before
            return cls(extent, tile, (before, after), geometry, exact)
        if _is_one_pass(geometry, extent):
            before = geometry.output_offset
            after = max(0, geometry.input_min - before - tile)
            return cls(extent, tile, (before, after), geometry, exact)
        most = cls.largest_tile(geometry, extent, exact=exact)
        assert most is not None
        if tile > most:
            raise PlanError(
                f"a tile of {tile} voxels does not fit the network, which takes inputs of "
                f"{geometry.input_min} voxels only; take {most} along this axis"
            )
        if geometry.input_min - before - tile < geometry.context[1]:
            spare = geometry.input_min - geometry.shrinkage - tile
            before = geometry.output_offset + floor_to(spare // 2, geometry.period)
        return cls(extent, tile, (before, geometry.input_min - tile - before), geometry, exact)

    @staticmethod
    def largest_tile(geometry: AxisGeometry, extent: int, *, exact: bool = True) -> int | None:
        """The largest tile whose input the network takes; None where nothing limits it.

        Raises
        ------
        PlanError
            If the network takes one size only, and not even a tile of one period fits it.
        """
        if geometry.input_step or _is_one_pass(geometry, extent):
            return None
        only, period = geometry.input_min, geometry.period
        most = floor_to(only - _aligned_context(geometry) - geometry.context[1], period)
        if most < period and not exact:
            most = max(floor_to((only - geometry.shrinkage) // 2, period), period)
            most = min(most, floor_to(only - geometry.shrinkage, period))
        if most < period:
            raise PlanError(
                f"the network takes inputs of {only} voxels only, too few for one period of "
                f"{period} and its context of {geometry.context[0]} before and "
                f"{geometry.context[1]} after, and the volume has {extent}; give a volume of at "
                f"most {only - geometry.shrinkage}, a network that takes larger inputs, or "
                "--accept-inexact"
            )
        return most

    @property
    def starts(self) -> range:
        """Where the tiles of the axis start."""
        return range(0, self.extent, self.tile)

    def starts_within(self, begin: int, end: int) -> range:
        """Where the tiles that meet a part of the axis start."""
        return range(floor_to(begin, self.tile), end, self.tile)

    def bounds(self, begin: int, end: int) -> tuple[int, int]:
        """What the tiles that meet a part of the axis read, from where to where."""
        spans = [self.span(start) for start in self.starts_within(begin, end)]
        return min(span.begin for span in spans), max(span.end for span in spans)

    @property
    def domain(self) -> tuple[int, int]:
        """Input of the whole pass: the volume, extended by the border rule."""
        begin = -self.geometry.output_offset
        return begin, begin + self.geometry.covering(self.extent)

    def span(self, start: int) -> Span:
        """The tile whose output starts at `start`."""
        net = self.geometry
        begin, end = start - self.halo[0], start + self.tile + self.halo[1]
        first, last = self.domain
        if not net.input_step:
            begin = max(first, min(begin, last - net.input_min))
            end = begin + net.input_min
        elif not self.exact:
            # What is not exact is the better, the more is read: tiles slide inward here too.
            size = end - begin
            if end > last:
                begin, end = first + floor_to(last - size - first, net.period), last
            if begin < first:
                begin, end = first, min(last, first + size)
        elif net.padded:
            end = min(end, last)
            begin = max(begin, first)
            # What clipping took off is read on the other side, if the network takes no less.
            while not net.takes(end - begin) and begin > first:
                begin = max(first, begin - net.period)
            end = max(end, min(begin + net.input_min, last))
            if not net.takes(end - begin):
                end = first + _next_valid(net, end - first)
        return Span(begin, end, start - begin - net.output_offset)

    def whole(self) -> Span:
        """The whole axis as one tile."""
        begin, end = self.domain
        return Span(begin, end, 0)

    def input_sizes(self, starts: range | None = None) -> Counter[int]:
        """How many tiles have which input size."""
        spans = (self.span(start) for start in (self.starts if starts is None else starts))
        return Counter(span.end - span.begin for span in spans)

    def _aligned(self, before: int) -> int:
        return before + (self.geometry.output_offset - before) % self.geometry.period


def _next_valid(geometry: AxisGeometry, size: int) -> int:
    """Smallest input size that the network takes and that is at least `size`."""
    return geometry.input_min + ceil_to(max(0, size - geometry.input_min), geometry.input_step)


def _aligned_context(geometry: AxisGeometry) -> int:
    """The context before, and what puts the input on the lattice."""
    before = geometry.context[0]
    return before + (geometry.output_offset - before) % geometry.period


def _is_one_pass(geometry: AxisGeometry, extent: int) -> bool:
    """Whether every tile of the axis reads the whole domain, which is the one size there is."""
    return not geometry.input_step and extent + geometry.shrinkage <= geometry.input_min
