"""A network with the pointwise steps that a description puts after it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry import Graph, NetworkGeometry
from stitchsafe.networks._config import ModelConfig
from stitchsafe.networks._cuda import Accelerator
from stitchsafe.networks._pointwise import apply_after
from stitchsafe.networks._protocol import Network, Output, Runtime

__all__ = ["Postprocessed"]


class Postprocessed:
    """A network whose outputs go through the pointwise steps that its configuration lists.

    Parameters
    ----------
    network
        Gives the outputs as they are before.
    config
        With one output for each of the network's.
    """

    def __init__(self, network: Network, config: ModelConfig) -> None:
        self._network, self.config = network, config

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the network and of the steps."""
        digest = hashlib.sha256(self._network.fingerprint.encode())
        for output in self.config.outputs:
            digest.update(
                "".join(step.model_dump_json() for step in output.postprocessing).encode()
            )
        return digest.hexdigest()

    @property
    def name(self) -> str:
        return self._network.name

    @property
    def ndim(self) -> int:
        return self._network.ndim

    @property
    def channels(self) -> int:
        return self._network.channels

    @property
    def outputs(self) -> tuple[Output, ...]:
        return self._network.outputs

    @property
    def precision(self) -> str:
        return self._network.precision

    @property
    def precisions(self) -> tuple[str, ...]:
        return self._network.precisions

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        return self._network.accelerators

    @property
    def parameter_bytes(self) -> int:
        return self._network.parameter_bytes

    @property
    def geometry(self) -> NetworkGeometry:
        return self._network.geometry

    def trace(self, shape: Sequence[int]) -> Graph:
        return self._network.trace(shape)

    def prepare(self, runtime: Runtime) -> None:
        self._network.prepare(runtime)

    def run(self, batch: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        return next(self.stream([batch]))

    def stream(
        self, batches: Iterable[NDArray[np.floating]]
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        steps = [output.postprocessing for output in self.config.outputs]
        for results in self._network.stream(batches):
            yield tuple(map(apply_after, steps, results))
            del results

    def __getattr__(self, name: str) -> Any:
        """What else the network offers."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._network, name)
