"""Whether a network's geometry holds on the running network: tiles against one pass over all."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from stitching import field_maker, own_pass, stitched_fields

from stitchsafe.geometry import AxisGeometry, OutputAxis
from stitchsafe.networks import Network


def whole_size(axis: AxisGeometry, periods: int) -> int:
    """A valid size that holds the contexts and some periods."""
    size, least = axis.input_min, sum(axis.context) + periods * axis.period
    while size < least:
        size += axis.input_step
    return size


def placed(axis: AxisGeometry, size: int) -> list[tuple[int, int]]:
    """Inputs of tiles within `size` voxels, on the lattice: at both ends, inside, and the whole."""
    least = sum(axis.context) + 2 * axis.period
    found = [(0, size)]
    for begin in range(0, size, axis.period):
        for end in range(begin + axis.input_min, size + 1, axis.input_step):
            if end - begin >= least and (begin > 0 or end < size):
                found.append((begin, end))
    if len(found) > 5:
        found = [found[0], found[1], *found[len(found) // 2 :: len(found) // 4], found[-1]]
    return found


def answered(axis: AxisGeometry, own: OutputAxis, begin: int, end: int, size: int) -> slice:
    """Elements of a tile's output that must equal the whole's."""
    before, after = axis.context
    first = 0 if begin == 0 else -((axis.output_offset - before) // axis.period)
    last = (end - begin - after - axis.output_offset) // axis.period
    low = 0 if begin == 0 else own.start + int(first * axis.period * own.scale)
    high = own.start + int(last * axis.period * own.scale)
    if end == size:
        high = own.size(end - begin)
    return slice(low, high)


def tiles_differ_by(network: Network, *, periods: int = 5, seed: int = 0) -> float:
    """Largest difference of tiles from the whole pass, relative to the largest result."""
    geometry = network.geometry
    geometry.require_safe()
    shape = tuple(whole_size(axis, periods) for axis in geometry.axes)
    rng = np.random.default_rng(seed)
    image = rng.uniform(0.5, 2, (1, network.channels, *shape)).astype(network.precision)
    whole = network.run(image)
    worst, compared = 0.0, 0
    choices = [placed(axis, size) for axis, size in zip(geometry.axes, shape, strict=True)]
    for places in itertools.islice(itertools.product(*choices), 60):
        part = image[(..., *(slice(begin, end) for begin, end in places))]
        for found, expected, output in zip(network.run(part), whole, geometry.outputs, strict=True):
            own, other = [], []
            for axis, along, place, size in zip(
                geometry.axes, output.axes, places, shape, strict=True
            ):
                kept = answered(axis, along, *place, size)
                shift = Fraction(place[0]) * along.scale
                assert shift.denominator == 1
                own.append(kept)
                other.append(slice(kept.start + int(shift), kept.stop + int(shift)))
            one, two = found[(..., *own)], expected[(..., *other)]
            assert one.shape == two.shape
            compared += one.size
            largest = max(float(np.abs(expected).max()), 1e-30)
            worst = max(worst, float(np.abs(one - two).max(initial=0)) / largest)
    assert compared > 0
    return worst


def stitched_differs_by(network: Network, *, periods: int = 5, seed: int = 0) -> float:
    """Largest difference of stitched fields from the network's own pass over the plain volume.

    Volumes of the sizes that the network takes, the next ones too, in tiles and in one.
    """
    geometry = network.geometry
    rng, worst = np.random.default_rng(seed), 0.0
    for more in (0, 1):
        extent = tuple(
            max(1, whole_size(axis, periods) + more * axis.input_step - axis.shrinkage)
            for axis in geometry.axes
        )
        data = rng.uniform(0.5, 2, (network.channels, *extent)).astype(network.precision)
        for count in (2, 2 * periods + 99):
            tile = tuple(count * axis.period for axis in geometry.axes)
            maker = field_maker(network, data, tile, precision=network.precision)
            whole, extended = own_pass(maker)
            for axis, (_, after), size in zip(geometry.axes, extended, extent, strict=True):
                assert after == 0 or not axis.takes(size) or axis.output_size(size) < size
            for name, found in stitched_fields(maker).items():
                largest = max(float(np.abs(whole[name]).max()), 1e-30)
                worst = max(worst, float(np.abs(found - whole[name]).max()) / largest)
    return worst
