"""CUDA: which devices there are, and passes on one of them. All that is particular to it is here.

::

    host, pinned      input k+1 ──┐             ┌── fields k-1
    stream "up"                   └─> copy      │
    stream "compute"       forward k            │
    stream "down"                    copy k-1 ──┘

A pass is launched and not waited for: while the device computes it, the next one is gathered and
copied to it, and the fields of the one before are copied back and taken. One pass is under way, and
one is queued; no more, so that memory stays bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stitchsafe.errors import ModelError

__all__ = ["Accelerator", "CudaPasses", "cuda_devices", "drivers_devices"]

Arrays = tuple[NDArray[np.floating], ...]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device that passes can run on.

    Parameters
    ----------
    model
        Its name, which decides which kernels run.
    memory
        Its bytes; None where nothing tells.
    """

    model: str
    memory: int | None


def cuda_devices() -> tuple[Accelerator, ...]:
    """The CUDA devices that torch can run on, in its order."""
    if not torch.cuda.is_available():
        return ()
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(Accelerator(each.name, each.total_memory) for each in found)


def drivers_devices() -> tuple[Accelerator, ...]:
    """The CUDA devices that the driver of this machine lists, for libraries other than torch."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = dict(line.partition(":")[::2] for line in file.read_text().splitlines())
        found.append(Accelerator(lines.get("Model", "unknown").strip(), None))
    return tuple(found)


class CudaPasses:
    """Forward passes on one device.

    Parameters
    ----------
    forward
        From an input on the device to the tensors to be copied back.
    device
        As ``cuda:1``.
    prepare
        Brings a float32 tensor on the device to the type and layout of the network.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
        device: str,
        prepare: Callable[[Tensor], Tensor],
    ) -> None:
        self._forward, self._prepare = forward, prepare
        self._device = torch.device(device)
        self._up: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._down: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._compute = torch.cuda.current_stream(self._device)

    def stream(self, batches: Iterable[NDArray[np.floating]]) -> Iterator[Arrays]:
        """The results of passes over `batches`, in order."""
        under_way: _UnderWay | None = None
        for batch in batches:
            launched = self._launch(batch)
            del batch
            if under_way is not None:
                yield under_way.take()
            under_way = launched
        if under_way is not None:
            yield under_way.take()

    def _launch(self, batch: NDArray[np.floating]) -> _UnderWay:
        try:
            return self._launched(batch)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"of {self._device}: {str(error).partition('.')[0]}") from error

    @torch.no_grad()  # as on a processor
    def _launched(self, batch: NDArray[np.floating]) -> _UnderWay:
        host = torch.empty(batch.shape, dtype=torch.from_numpy(batch).dtype, pin_memory=True)
        host.numpy()[...] = batch
        with torch.cuda.device(self._device):
            with torch.cuda.stream(self._up):
                given = host.to(self._device, non_blocking=True)
            self._compute.wait_stream(self._up)
            given.record_stream(self._compute)
            with torch.cuda.stream(self._compute), _Deterministic():
                results = self._forward(self._prepare(given))
            self._down.wait_stream(self._compute)
            with torch.cuda.stream(self._down):
                held = []
                for result in results:
                    result.record_stream(self._down)
                    back = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
                    held.append(back.copy_(result, non_blocking=True))
                done = self._down.record_event()
        return _UnderWay(tuple(held), done)


@dataclass(frozen=True)
class _UnderWay:
    """A pass that was launched: where its results will lie, and what tells that they do."""

    results: tuple[Tensor, ...]
    done: torch.cuda.Event

    def take(self) -> Arrays:
        self.done.synchronize()
        return tuple(result.numpy() for result in self.results)


class _Deterministic:
    """While it is entered, the same input gives the same bits, in full precision.

    Settings of the whole process are set and put back: they are the caller's elsewhere.
    """

    def __enter__(self) -> None:
        # Read when CUDA's linear algebra is first used: a fixed workspace is a fixed order of sums.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._held = (
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
        )
        self._set(False, False, False, False, True, False, True)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._set(*self._held)
        if isinstance(error, RuntimeError) and "deterministic" in str(error):
            raise ModelError(
                f"the network has an operator without a deterministic form on CUDA "
                f"({str(error).partition('.')[0]}); give --device cpu"
            ) from error

    @staticmethod
    def _set(
        tf32: bool, tf32_sums: bool, fp16_sums: bool, bf16_sums: bool,
        fixed: bool, timed: bool, algorithms: bool,
    ) -> None:  # fmt: skip
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32_sums
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = fp16_sums
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = bf16_sums
        torch.backends.cudnn.deterministic = fixed
        torch.backends.cudnn.benchmark = timed
        torch.use_deterministic_algorithms(algorithms)
