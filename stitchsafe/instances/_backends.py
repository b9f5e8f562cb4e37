"""Where the heavy parts of mean shift are computed: NumPy, or torch on a processor or a device.

A backend bins points, sums over cells about positions, and finds nearest modes; all else is small
and done once, in NumPy (:mod:`._meanshift`). With the flat kernel everything that a backend
computes is whole numbers below 2**53 in int64 or float64, so all backends agree bit for bit. With
the Gaussian kernel they may differ in the last bits of ``exp``, before rounding to whole units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import ClusteringError
from stitchsafe.instances._meanshift import (
    GAUSSIAN_REACH,
    Kernel,
    Modes,
    Sums,
    nearest_mode,
    numpy_sums,
)
from stitchsafe.instances._sketch import (
    UNITS,
    Sketch,
    SketchUnion,
    cell_bits,
    check_dimensions,
    check_reach,
    to_units,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "NumpyBackend", "TorchBackend", "make_backend"]

Float64 = NDArray[np.float64]
Points = NDArray[Any]

_BATCH = 1 << 18
_PAIRS = 1 << 24  # distances that torch holds at a time


class Backend(Protocol):
    """The heavy parts of mean shift."""

    def sketch(self, points: Points, bandwidth: float) -> Sketch:
        """The sketch of points ``(points, dimensions)``."""

    def sums(self, cells: Float64, values: Float64, kernel: Kernel) -> Sums:
        """See :class:`._meanshift.Sums`."""

    def nearest(self, points: Points, modes: Modes) -> NDArray[np.int32]:
        """Index of each point's nearest mode; of equally near ones the first."""


class NumpyBackend:
    """The reference."""

    def sketch(self, points: Points, bandwidth: float) -> Sketch:
        return _united(Sketch.of_units(to_units(part, bandwidth)) for part in _batches(points))

    def sums(self, cells: Float64, values: Float64, kernel: Kernel) -> Sums:
        return numpy_sums(cells, values, kernel)

    def nearest(self, points: Points, modes: Modes) -> NDArray[np.int32]:
        parts = (nearest_mode(to_units(part, modes.bandwidth), modes) for part in _batches(points))
        return np.concatenate(list(parts))


class TorchBackend:
    """The same in torch.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    ClusteringError
        For a device that is not there, or that has no float64.
    """

    def __init__(self, device: str = "cpu") -> None:
        import torch

        try:
            self._device = torch.device(device)
            torch.zeros(1, dtype=torch.float64, device=self._device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ClusteringError(
                f"the device {device!r} cannot be used, as torch says {str(error).splitlines()[0]}"
                "; give 'cpu', or a CUDA device that torch sees"
            ) from None

    def sketch(self, points: Points, bandwidth: float) -> Sketch:
        return _united(self._sketch(self._units(part, bandwidth)) for part in _batches(points))

    def sums(self, cells: Float64, values: Float64, kernel: Kernel) -> Sums:
        import torch

        held = torch.from_numpy(cells).to(self._device)
        columns = torch.from_numpy(values).to(self._device)
        squares = (held**2).sum(dim=1)

        def sums(near: Float64, begin: int, end: int) -> Float64:
            here = torch.from_numpy(near).to(self._device)
            distances = (-2.0 * here) @ held[begin:end].T
            distances += squares[begin:end]
            lengths = (here**2).sum(dim=1, keepdim=True)
            if kernel == "flat":
                weights = (distances <= UNITS**2 - lengths).to(torch.float64)
            else:
                distances += lengths
                weights = torch.exp(distances * (-0.5 / UNITS**2))
                weights[distances > (GAUSSIAN_REACH * UNITS) ** 2] = 0
            total: Float64 = (weights @ columns[begin:end]).cpu().numpy()
            return total

        return sums

    def nearest(self, points: Points, modes: Modes) -> NDArray[np.int32]:
        parts = [
            self._nearest(self._units(part, modes.bandwidth), modes) for part in _batches(points)
        ]
        return np.concatenate(parts)

    def _units(self, points: Points, bandwidth: float) -> torch.Tensor:
        """As :func:`._sketch.to_units`."""
        import torch

        check_dimensions(points.shape[1])
        here = torch.from_numpy(np.array(points, order="C")).to(self._device)
        scaled = here.to(torch.float64) * (UNITS / bandwidth)
        if scaled.numel():
            check_reach(float(scaled.min()), float(scaled.max()), bandwidth)
        return scaled.round().to(torch.int64)

    def _sketch(self, units: torch.Tensor) -> Sketch:
        import torch

        cells = units >> cell_bits(units.shape[1])
        low = cells.amin(dim=0)
        extent = (cells.amax(dim=0) - low + 1).tolist()
        if math.prod(extent) < 2**62:  # one integer per cell, which is much faster to sort
            keys = torch.zeros_like(cells[:, 0])
            for column, size in zip((cells - low).T, extent, strict=True):
                keys = keys * size + column
            found, place, counts = torch.unique(keys, return_inverse=True, return_counts=True)
        else:
            found, place, counts = torch.unique(
                cells, dim=0, return_inverse=True, return_counts=True
            )
        distinct = cells.new_zeros((len(found), cells.shape[1]))
        sums = torch.zeros_like(distinct).index_add_(0, place, units)
        distinct[place] = cells
        return Sketch(*(each.cpu().numpy() for each in (distinct, counts, sums)))

    def _nearest(self, units: torch.Tensor, modes: Modes) -> NDArray[np.int32]:
        import torch

        if len(modes.units) < 2:
            return np.zeros(len(units), np.int32)
        found = torch.from_numpy(modes.units).to(self._device)
        squares = (found**2).sum(dim=1)
        index = torch.arange(len(found), device=self._device)
        labels = []
        for part in torch.split(units, max(1, _PAIRS // len(found))):
            distances = part.to(torch.float64) @ (-2.0 * found.T)
            distances += squares
            # Which of equal ones argmin takes is not said; the first is the least index among them.
            least = distances.amin(dim=1, keepdim=True)
            labels.append(torch.where(distances == least, index, len(found)).amin(dim=1))
        result: NDArray[np.int32] = torch.cat(labels).to(torch.int32).cpu().numpy()
        return result


_BACKENDS: dict[str, Callable[[str], Backend]] = {
    "numpy": lambda device: NumpyBackend(),
    "torch": TorchBackend,
}


def make_backend(name: str, device: str) -> Backend:
    """The backend of this name.

    Raises
    ------
    ClusteringError
        If there is none, or not on this device.
    """
    if name not in _BACKENDS:
        raise ClusteringError(f"the backend {name!r} is unknown; it is one of numpy, torch")
    if name == "numpy" and device != "cpu":
        raise ClusteringError(
            f"NumPy computes on the processor only, not on {device!r}; set backend='torch' or "
            "device='cpu'"
        )
    return _BACKENDS[name](device)


def _united(sketches: Iterable[Sketch]) -> Sketch:
    """The union of one or more, of which a few exist at a time."""
    union = None
    for sketch in sketches:
        union = union or SketchUnion(sketch.cells.shape[1])
        union.add(sketch)
    assert union is not None
    return union.whole()


def _batches(points: Points) -> Iterator[Points]:
    """Some points at a time; in units they take several times their memory."""
    for begin in range(0, max(1, len(points)), _BATCH):
        yield points[begin : begin + _BATCH]
