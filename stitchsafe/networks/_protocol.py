"""What the rest of the package asks of a network, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry import Graph, NetworkGeometry
from stitchsafe.networks._config import ModelConfig
from stitchsafe.networks._cuda import Accelerator

__all__ = ["Network", "Output", "Runtime"]


@dataclass(frozen=True, slots=True)
class Output:
    """One dense output: its name and number of channels."""

    name: str
    channels: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a forward pass is carried out; all of it may change the last bits.

    Parameters
    ----------
    device
        ``cpu``, or a device as ``cuda:1``; which of several that are alike changes nothing.
    precision
        Type of the arithmetic.
    layout
        ``channels_last``, with the fastest kernels that there are for it, or ``contiguous``.
    threads
        Of one pass on a processor.
    """

    device: str = "cpu"
    precision: str = "float32"
    layout: str = "channels_last"
    threads: int = 1


class Network(Protocol):
    """A network that can be analysed, costed and run."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Digest of architecture and weights."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""

    @property
    def channels(self) -> int:
        """Input channels."""

    @property
    def outputs(self) -> tuple[Output, ...]: ...

    @property
    def config(self) -> ModelConfig | None:
        """The card, where there is one."""

    @property
    def precision(self) -> str:
        """Floating point type of the weights."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Types that it can compute in."""

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        """CUDA devices of this machine that it can run on, in their order."""

    @property
    def build(self) -> str:
        """The library that runs it, with its version."""

    @property
    def parameter_bytes(self) -> int: ...

    @property
    def geometry(self) -> NetworkGeometry: ...

    def trace(self, shape: Sequence[int]) -> Graph:
        """The graph at one spatial input size."""

    def layout_for(self, precision: str) -> str:
        """The memory layout of its passes in a precision; refuses what it cannot compute so."""

    def prepare(self, runtime: Runtime) -> None:
        """Bring the weights to the device, precision and layout of `runtime`."""

    def run(self, batch: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        """One forward pass, `batch` of shape (n, channels, *spatial); one array per output."""

    def stream(
        self, batches: Iterable[NDArray[np.floating]]
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        """The same passes as by `run`, in order; a device may be one or two of them ahead."""
