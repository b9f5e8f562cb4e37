"""Random turns and changes of size, as displacements like any other.

A voxel at p shows what lies at c + A (p - c), with c the middle of the box and A a rotation times a
factor. Turns are in planes whose voxels are square: anything else would shear what is seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stitchsafe.training._deformation import Displacement

__all__ = ["Turning"]


@dataclass(frozen=True)
class Turning:
    """A random rotation and change of size.

    Parameters
    ----------
    voxel
        Lengths of a voxel along each axis; a plane is turned where both of its own are equal.
    degrees
        The largest angle in each plane, either way.
    scale
        The largest change of size: by a factor between 1 / (1 + scale) and 1 + scale.
    """

    voxel: tuple[float, ...]
    degrees: float = 0.0
    scale: float = 0.0

    def draw(self, shape: Sequence[int], generator: np.random.Generator) -> Displacement:
        """Displacements ``(ndim, *shape)`` in voxels."""
        ndim = len(shape)
        middle = (np.asarray(shape) - 1) / 2
        along = np.indices(shape) - middle.reshape(ndim, *(1,) * ndim)
        change = self.matrix(generator) - np.eye(ndim)
        return np.asarray(np.tensordot(change, along, 1), dtype=np.float64)

    def matrix(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """The linear map ``(ndim, ndim)`` of a draw."""
        ndim = len(self.voxel)
        size = (1 + self.scale) ** generator.uniform(-1, 1)
        matrix: npt.NDArray[np.float64] = (
            np.eye(ndim) / size
        )  # what looks larger is seen from less of the volume
        for plane in itertools.combinations(range(ndim), 2):
            angle = np.deg2rad(generator.uniform(-self.degrees, self.degrees))
            if self.voxel[plane[0]] == self.voxel[plane[1]]:
                turn = np.eye(ndim)
                cos, sin = np.cos(angle), np.sin(angle)
                turn[np.ix_(plane, plane)] = [[cos, -sin], [sin, cos]]
                matrix = np.dot(turn, matrix)
        return matrix
