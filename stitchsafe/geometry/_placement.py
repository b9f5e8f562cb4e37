"""Where the outputs of a network begin along one axis, when all that is known is their sizes.

An output that is smaller than the input is taken to lie in the middle of it. One that is larger
lies around it; but a voxel of the volume is all that a field can have an element for, so that the
outputs together begin at the input's first voxel then, and leave out what lies before::

    output      |--|-----------------|--|      larger by 2 before and 2 after
    input          |-----------------|
    field          ^ start: element 2 of the output
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Origins of the outputs along one axis.

    Parameters
    ----------
    offset
        The first voxel of the input that all outputs answer for.
    offsets
        The voxel at which each begins; negative where it begins before the input.
    starts
        The element of each that lies at `offset`.
    """

    offset: int
    offsets: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, rates: Sequence[Fraction], shrinkages: Sequence[Fraction]) -> Placement:
        """Of outputs with so many elements per voxel, and so many voxels less than the input."""
        pairs = list(zip(rates, shrinkages, strict=True))
        alone = [_origin(rate, shrinkage) for rate, shrinkage in pairs]
        offset = max(0, *alone)
        offsets = []
        for rate, own in zip(rates, alone, strict=True):
            lead = offset - own
            while (lead * rate).denominator > 1:
                lead += 1
            offsets.append(offset - lead)
        starts = tuple(int((offset - own) * rate) for rate, own in zip(rates, offsets, strict=True))
        return cls(offset, tuple(offsets), starts)

    def shrinkage(self, shrinkages: Sequence[Fraction]) -> int:
        """Input size less the voxels of it that all outputs answer for."""
        pairs = zip(shrinkages, self.offsets, strict=True)
        return self.offset + max(0, *(math.ceil(each - own) for each, own in pairs))


def _origin(rate: Fraction, shrinkage: Fraction) -> int:
    """Half of what an output is smaller by; of what it is larger by, in whole elements."""
    if shrinkage >= 0:
        return math.floor(shrinkage / 2)
    half = math.floor(-shrinkage / 2)
    return -(half - half % rate.denominator)
