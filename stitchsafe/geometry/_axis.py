"""One-axis arithmetic: which input voxels an element depends on. Pure integers, no torch.

Along one axis a tensor is an infinite row of elements of which a concrete pass holds `size`. With
`n` elements per `period` input voxels, element ``q*n + j`` depends on the input voxels
``q*period + lo_j`` to ``q*period + hi_j``. Every local operator is a :class:`Taps`: its output
element ``q*n' + j`` reads the elements ``q*stride + t``, ``t`` in ``taps[j]``::

    convolution, pooling   stride s, one phase:  t = d*u - padding
    crop, padding          the same with one tap (padding is a crop that begins before 0)
    nearest resize by f    stride 1, f phases, each reading 0
    transposed convolution stride 1, s phases:   t = (j + padding - d*u) / s where that is whole

A map also counts the elements at both ends that a border has touched: those that read an own
padding, or that would read more in a larger input. All others equal the infinite row's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["AxisMap", "Interval", "LatticeMismatch", "Taps", "join"]

Interval = tuple[int, int] | None


class LatticeMismatch(ValueError):  # noqa: N818
    """Two tensors that do not lie on the same lattice meet in one operator."""


@dataclass(frozen=True, slots=True)
class Taps:
    """What each output phase of a local operator reads, relative to ``q * stride``."""

    stride: int
    taps: tuple[tuple[int, ...], ...]

    @classmethod
    def window(cls, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Taps:
        return cls(stride, (tuple(dilation * u - padding for u in range(kernel)),))

    @classmethod
    def repeat(cls, factor: int) -> Taps:
        return cls(1, ((0,),) * factor)

    @classmethod
    def transposed(cls, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
        rows = []
        for j in range(stride):
            reach = (j + padding - dilation * u for u in range(kernel))
            rows.append(tuple(sorted(r // stride for r in reach if r % stride == 0)))
        return cls(1, tuple(rows))

    @property
    def is_identity(self) -> bool:
        return self.stride == 1 and self.taps == ((0,),)


def _hull(intervals: list[Interval]) -> Interval:
    held = [each for each in intervals if each is not None]
    if not held:
        return None
    return min(lo for lo, _ in held), max(hi for _, hi in held)


@dataclass(frozen=True, slots=True)
class AxisMap:
    """One axis of one tensor in a concrete pass.

    Parameters
    ----------
    period
        Input voxels after which the dependence repeats, as the structure guarantees.
    support
        (first, last) input voxel per phase.
    size
        Elements in this pass.
    before
        Leading elements that a border has touched.
    clean
        Index of the first trailing element that a border has touched.
    lossy
        Whether some layer dropped a remainder of its input.
    mixed
        Whether a padding at one end read elements that the other end's border had touched.
    """

    period: int
    support: tuple[Interval, ...]
    size: int
    before: int
    clean: int
    lossy: bool = False
    mixed: bool = False

    @classmethod
    def of_input(cls, size: int) -> AxisMap:
        return cls(1, ((0, 0),), size, 0, size)

    @property
    def touched(self) -> bool:
        """Whether a border has touched any element."""
        return self.before > 0 or self.clean < self.size

    @property
    def rate(self) -> Fraction:
        """Elements per input voxel."""
        return Fraction(len(self.support), self.period)

    def element(self, index: int) -> Interval:
        """Input voxels (first, last) that an element depends on."""
        q, j = divmod(index, len(self.support))
        own = self.support[j]
        return None if own is None else (own[0] + q * self.period, own[1] + q * self.period)

    def apply(self, op: Taps, size: int, *, lossy: bool = False, depth: int = 0) -> AxisMap:
        """The map behind an operator whose output holds `size` elements.

        `depth` is how far from its end a non-constant padding reads.
        """
        n = len(self.support)
        grow = op.stride // math.gcd(n, op.stride)
        support = tuple(
            _hull([self.element(u * op.stride + t) for t in row])
            for u in range(grow * n // op.stride)
            for row in op.taps
        )
        before, clean, phases = 0, size, len(op.taps)
        for j, row in enumerate(op.taps):
            if row:
                last = -((row[0] - self.before) // op.stride) - 1
                before = max(before, last * phases + j + 1)
                first = -((row[-1] - self.clean) // op.stride)
                clean = min(clean, first * phases + j)
        mixed = depth > 0 and (
            (self.before > 0 and self.size - 1 - depth < self.before)
            or (self.clean < self.size and depth >= self.clean)
        )
        return AxisMap(
            self.period * grow,
            support,
            size,
            before,
            clean,
            self.lossy or lossy,
            self.mixed or mixed,
        )

    def extend(self, period: int) -> AxisMap:
        """The same map written for a multiple of its period."""
        count = period // self.period * len(self.support)
        return AxisMap(
            period,
            tuple(self.element(i) for i in range(count)),
            self.size,
            self.before,
            self.clean,
            self.lossy,
            self.mixed,
        )


def drops_remainder(size: int, out: int, kernel: int, stride: int, padding: int, d: int) -> bool:
    """Whether a strided window leaves out trailing elements that a longer row would have read."""
    last = (out - 1) * stride - padding + d * (kernel - 1)
    return any(
        (x + padding - d * u) % stride == 0
        for x in range(max(0, last + 1), size)
        for u in range(kernel)
    )


def join(maps: list[AxisMap]) -> AxisMap:
    """The map of an operator that reads the same element of several tensors.

    Raises
    ------
    LatticeMismatch
        If they differ in size or in elements per input voxel.
    """
    first = maps[0]
    for other in maps[1:]:
        if other.size != first.size or other.rate != first.rate:
            raise LatticeMismatch(
                f"tensors of {first.size} and {other.size} elements, with {first.rate} and "
                f"{other.rate} elements per input voxel, meet"
            )
    if len(maps) == 1:
        return first
    period = math.lcm(*(each.period for each in maps))
    wide = [each.extend(period) for each in maps]
    return AxisMap(
        period,
        tuple(_hull(list(phase)) for phase in zip(*(each.support for each in wide), strict=True)),
        first.size,
        max(each.before for each in maps),
        min(each.clean for each in maps),
        any(each.lossy for each in maps),
        any(each.mixed for each in maps),
    )
