"""All axes of a tiling together: tiles as frozen records."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stitchsafe.coordinates import Roi
from stitchsafe.errors import PlanError
from stitchsafe.geometry import NetworkGeometry, OutputAxis
from stitchsafe.tiling._axis import AxisTiling, Span

__all__ = ["Tile", "TileGrid"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One forward pass.

    Parameters
    ----------
    output
        The voxels that it answers for; may reach past the volume's end.
    input
        The voxels that it reads; where they lie outside the volume, the border rule speaks.
    crops
        Per output of the network: what it gives for `output`, in elements of the array that it
        returns.
    """

    output: Roi
    input: Roi
    crops: tuple[Roi, ...]

    @classmethod
    def of_spans(
        cls, output: Roi, spans: Sequence[Span], outputs: Sequence[Sequence[OutputAxis]]
    ) -> Tile:
        return cls(
            output=output,
            input=Roi.from_bounds([s.begin for s in spans], [s.end for s in spans]),
            crops=tuple(
                Roi(
                    # Voxels of a crop are whole periods, and so whole elements.
                    tuple(
                        a.start + int(s.crop * a.scale) for a, s in zip(axes, spans, strict=True)
                    ),
                    tuple(
                        math.ceil(size * a.scale)
                        for a, size in zip(axes, output.shape, strict=True)
                    ),
                )
                for axes in outputs
            ),
        )


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a volume.

    Parameters
    ----------
    axes
        One per spatial axis.
    outputs
        Per output of the network, where its elements lie along each axis.
    """

    axes: tuple[AxisTiling, ...]
    outputs: tuple[tuple[OutputAxis, ...], ...]

    @classmethod
    def of(
        cls,
        geometry: NetworkGeometry,
        extent: Sequence[int],
        tile_shape: Sequence[int],
        halo: Sequence[tuple[int, int]] | None = None,
        *,
        exact: bool = True,
    ) -> TileGrid:
        """The exact tiling of a volume with tiles of this shape.

        Parameters
        ----------
        geometry
            The network.
        extent
            Shape of the volume.
        tile_shape
            Output of one forward pass, in multiples of the period.
        halo
            Margins (before, after) per axis; the least exact ones by default.
        exact
            Whether halos must hold the context.

        Raises
        ------
        PlanError
            If the numbers of axes differ, or any axis is misaligned or short of context.
        """
        if not len(geometry.axes) == len(extent) == len(tile_shape):
            raise PlanError(
                f"a network of {len(geometry.axes)} spatial axes cannot tile a volume of shape "
                f"{tuple(extent)} by {tuple(tile_shape)}"
            )
        outputs = tuple(output.axes for output in geometry.outputs)
        triples = zip(geometry.axes, extent, tile_shape, strict=True)
        if halo is None:
            least = [AxisTiling.least(axis, e, t, exact=exact) for axis, e, t in triples]
            return cls(tuple(least), outputs)
        return cls(
            tuple(
                AxisTiling(e, t, (int(before), int(after)), axis, exact)
                for (axis, e, t), (before, after) in zip(triples, halo, strict=True)
            ),
            outputs,
        )

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(axis.extent for axis in self.axes)

    @property
    def tile_shape(self) -> tuple[int, ...]:
        return tuple(axis.tile for axis in self.axes)

    @property
    def halo(self) -> tuple[tuple[int, int], ...]:
        return tuple(axis.halo for axis in self.axes)

    def tile_at(self, start: Sequence[int]) -> Tile:
        """The tile whose output starts at `start`, a point of the tile grid."""
        spans = [axis.span(s) for axis, s in zip(self.axes, start, strict=True)]
        return Tile.of_spans(Roi(tuple(start), self.tile_shape), spans, self.outputs)

    def tiles(self, region: Roi) -> Iterator[Tile]:
        """Tiles that meet `region`, in raster order."""
        if region.size:
            for start in itertools.product(*self._starts(region)):
                yield self.tile_at(start)

    def bounds(self, region: Roi) -> Roi:
        """What the tiles that meet `region` read, as one box, which may leave the volume."""
        bounds = [
            axis.bounds(begin, end)
            for axis, begin, end in zip(self.axes, region.offset, region.end, strict=True)
        ]
        return Roi.from_bounds([low for low, _ in bounds], [high for _, high in bounds])

    def whole(self) -> Tile:
        """The whole volume as one tile: the pass that stitching must equal."""
        spans = [axis.whole() for axis in self.axes]
        return Tile.of_spans(Roi.whole(self.extent), spans, self.outputs)

    def input_shapes(self, region: Roi) -> Counter[tuple[int, ...]]:
        """How many tiles of `region` have which input shape."""
        per_axis = [
            axis.input_sizes(starts)
            for axis, starts in zip(self.axes, self._starts(region), strict=True)
        ]
        shapes: Counter[tuple[int, ...]] = Counter()
        for combination in itertools.product(*(sizes.items() for sizes in per_axis)):
            shapes[tuple(size for size, _ in combination)] = math.prod(n for _, n in combination)
        return shapes

    def _starts(self, region: Roi) -> list[range]:
        return [
            axis.starts_within(begin, end)
            for begin, end, axis in zip(region.offset, region.end, self.axes, strict=True)
        ]
