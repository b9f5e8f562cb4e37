"""Every error that stitchsafe raises on purpose.

::

    StitchsafeError
    ├── InputError                 what the user gave is wrong; nothing was written      exit 2
    │   ├── VolumeError            a volume that cannot be read as asked
    │   │   └── VoxelSizeError     its voxels are not those that the network was trained on
    │   ├── ModelError             a network that cannot be found, loaded or trusted
    │   │   └── UnsafeNetworkError a network that cannot be stitched exactly
    │   ├── ClusteringError        points or parameters that the estimator cannot take; a ValueError
    │   ├── PlanError              sizes that do not fit the network, the volume or the memory
    │   └── StoreError             an output that exists, or cannot be written where it was asked
    ├── MissingExtraError          an optional part is not installed                     exit 2
    ├── IntegrityError             stored bytes are not what was written                 exit 1
    ├── NonFiniteError             the network gives no number for finite input          exit 3
    └── InterruptedRunError        a run stopped part-way; the same command resumes it   exit 3
        └── MemoryShortageError    because memory ran out

A message is one sentence in three parts: what is wrong and with which value, why, and what to do.
"""

from __future__ import annotations

__all__ = [
    "ClusteringError",
    "InputError",
    "IntegrityError",
    "InterruptedRunError",
    "MemoryShortageError",
    "MissingExtraError",
    "ModelError",
    "NonFiniteError",
    "PlanError",
    "StitchsafeError",
    "StoreError",
    "UnsafeNetworkError",
    "VolumeError",
    "VoxelSizeError",
]


class StitchsafeError(Exception):
    """Base of all errors that stitchsafe raises on purpose."""

    exit_code = 2


class InputError(StitchsafeError):
    """What the user gave is wrong. Raised before anything is written."""


class VolumeError(InputError):
    """A volume that does not exist, is not one, or cannot be read as asked."""


class VoxelSizeError(VolumeError):
    """The volume's voxel size is unknown or is not what the network was trained on."""


class ModelError(InputError):
    """A network that cannot be found, loaded or trusted."""


class UnsafeNetworkError(ModelError):
    """A network whose tiles cannot be stitched exactly."""


class ClusteringError(InputError, ValueError):
    """Points or parameters that the mean shift estimator cannot take.

    A ``ValueError`` too, which is what scikit-learn's tools expect of an estimator.
    """


class PlanError(InputError):
    """Shapes or budgets that the network, the volume or the memory do not allow."""


class StoreError(InputError):
    """An output location that is taken, is the input itself, or cannot be written."""


class MissingExtraError(StitchsafeError):
    """An optional dependency is missing.

    Parameters
    ----------
    package
        What could not be imported.
    extra
        The extra of stitchsafe that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'stitchsafe[{extra}]'"
        )


class IntegrityError(StitchsafeError):
    """Stored bytes do not match what was written."""

    exit_code = 1


class NonFiniteError(StitchsafeError):
    """A network's sums leave the range of its number type."""

    exit_code = 3


class InterruptedRunError(StitchsafeError):
    """A run stopped part-way. What is committed stays; the same command goes on from there."""

    exit_code = 3


class MemoryShortageError(InterruptedRunError):
    """Memory ran out, of this machine or of a device."""
