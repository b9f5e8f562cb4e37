"""Pyramids: which levels a volume gets, and how a region of labels is made coarser.

Each level halves the axes that are worth it::

    voxels 30 x 4 x 4   ->  30 x 8 x 8   ->  30 x 16 x 16   ->  60 x 32 x 32  ...

An axis is halved while it is long enough and its voxels are less than twice as long as the finest,
so that anisotropic voxels become even before all axes shrink together.

Labels are made coarser by *stride*: voxel i of a level is voxel ``i * step`` of the finer one. An
average of ids means nothing; the most frequent id of a cell would need a rule for ties and smears
thin objects as well. Stride invents nothing, costs nothing, makes level n the plain slice
``level_0[::2**n]`` however the work is cut, and keeps positions: voxel 0 of all levels is centred
on the same point, so no translation is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stitchsafe.coordinates import Roi
from stitchsafe.volumes._volume import Array
from stitchsafe.volumes._voxel_size import VoxelSize

__all__ = ["PyramidLevel", "downsample_labels", "finer_region", "pyramid_levels"]


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """A level of a pyramid: its spatial shape, and how many voxels of level 0 one step spans."""

    shape: tuple[int, ...]
    factors: tuple[int, ...]

    def steps_from(self, finer: PyramidLevel) -> tuple[int, ...]:
        """Voxels of the finer level that one step spans, per axis."""
        return tuple(a // b for a, b in zip(self.factors, finer.factors, strict=True))


def pyramid_levels(
    shape: Sequence[int],
    *,
    voxel_size: VoxelSize | None = None,
    minimum: int = 128,
    most: int = 10,
) -> tuple[PyramidLevel, ...]:
    """The levels of a volume of this spatial shape, from level 0 on.

    Parameters
    ----------
    shape
        Spatial shape of level 0.
    voxel_size
        Its voxel size; isotropic where unknown.
    minimum
        An axis of up to this many voxels is not halved.
    most
        Number of levels at most.
    """
    lengths = [1.0] * len(shape) if voxel_size is None else list(voxel_size.values)
    sizes, factors = list(shape), [1] * len(shape)
    levels = [PyramidLevel(tuple(sizes), tuple(factors))]
    while len(levels) < most:
        long = [axis for axis, size in enumerate(sizes) if size > minimum]
        if not long:
            break
        finest = min(lengths[axis] for axis in long)
        for axis in long:
            if lengths[axis] < 2 * finest:
                sizes[axis] = -(-sizes[axis] // 2)
                factors[axis] *= 2
                lengths[axis] *= 2
        levels.append(PyramidLevel(tuple(sizes), tuple(factors)))
    return tuple(levels)


def finer_region(region: Roi, steps: Sequence[int]) -> Roi:
    """The region of the finer level that :func:`downsample_labels` needs for this one."""
    return Roi(
        tuple(o * step for o, step in zip(region.offset, steps, strict=True)),
        tuple(max(0, (s - 1) * step + 1) for s, step in zip(region.shape, steps, strict=True)),
    )


def downsample_labels(finer: Array, steps: Sequence[int]) -> Array:
    """Labels of a coarser level: every `steps`-th voxel, the first one included.

    Parameters
    ----------
    finer
        Labels of the finer level, whose corner is on the coarser one's grid.
    steps
        Per axis.
    """
    return finer[tuple(slice(None, None, step) for step in steps)].copy()
