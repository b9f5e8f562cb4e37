"""A torch module as a network."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from stitchsafe.errors import ModelError
from stitchsafe.geometry import (
    Graph,
    LatticeMismatch,
    NetworkGeometry,
    SizeRefusal,
    analyse_module,
    trace,
)
from stitchsafe.networks._config import ModelConfig, OutputConfig
from stitchsafe.networks._cuda import Accelerator, CudaPasses, cuda_devices
from stitchsafe.networks._kernels import FastConvolutions, Watch, channels_last
from stitchsafe.networks._pointwise import apply_after
from stitchsafe.networks._positive import positive_weights
from stitchsafe.networks._protocol import Output, Runtime
from stitchsafe.networks._shared import (
    channels_first,
    declared_outputs,
    plain_name,
    refusing_sizes,
)
from stitchsafe.networks._torch_inputs import inputs_of_module
from stitchsafe.networks._torch_ready import own_copy, refuse_without_values
from stitchsafe.precision import PRECISIONS

__all__ = ["TorchNetwork"]

_CHANNELS_LAST = "channels_last"


class TorchNetwork:
    """A module in evaluation mode, with names for its outputs.

    The module is copied: what the caller holds keeps its mode, layout and device.

    Parameters
    ----------
    module
        Takes (n, channels, *spatial), once or several times, and returns tensors.
    config
        The card of a model folder; without it, axes and channels are read from the convolutions,
        and outputs are called ``output``, or ``output0``, ``output1``, …, or as in
        the dictionary that the module returns.
    name
        What to call it in plans and messages.
    ndim, channels
        Spatial axes, and channels of each input, where the module's convolutions do not tell.
    fixed
        Per spatial axis, the only size that the module takes, or None; by default it may take any.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        config: ModelConfig | None = None,
        name: str | None = None,
        ndim: int | None = None,
        channels: int | Sequence[int] | None = None,
        fixed: Sequence[int | None] | None = None,
    ) -> None:
        self.config = config
        self.name = name or (config.name if config else type(module).__name__)
        self.module = own_copy(module, self.name)
        if config is not None:
            ndim = len(config.input.axes)
            split = tuple(tensor.channels for tensor in config.input.tensors)
            channels = split or (config.input.channels,)
        self.ndim, self._split = inputs_of_module(
            self.module, self.name, ndim=ndim, channels=channels
        )
        self.channels = sum(self._split)
        self._fixed = None if fixed is None else tuple(fixed)
        self._runtime: Runtime | None = None
        self._ready: nn.Module | None = None
        self._cuda: CudaPasses | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Digest of architecture, operators with their constants, what follows, and weights."""
        refuse_without_values(self.module, self.name)
        digest = hashlib.sha256(str(self.module).encode())
        digest.update(self.geometry.program.encode())
        if len(self._split) > 1:
            digest.update(repr(self._split).encode())
        digest.update(repr([o.activation for o in self._declared]).encode())
        for output in self._declared:
            digest.update(
                "".join(step.model_dump_json() for step in output.postprocessing).encode()
            )
        for key, tensor in sorted(self._state()):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{key} {str(tensor.dtype)[6:]} {tuple(tensor.shape)}".encode())
            # NumPy has no bfloat16.
            array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
            digest.update(array.tobytes())
        return digest.hexdigest()

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        if self.config is not None:
            return declared_outputs(self.config)
        found = self.geometry.outputs
        return tuple(
            Output(plain_name(o.name, place, len(found)), o.channels)
            for place, o in enumerate(found)
        )

    @cached_property
    def precision(self) -> str:
        """Floating point type of the weights, ``float32`` for a network without any."""
        for _, tensor in self._state():
            if tensor.is_floating_point():
                return str(tensor.dtype).removeprefix("torch.")
        return "float32"

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(PRECISIONS)

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        return cuda_devices()

    @property
    def build(self) -> str:
        return f"torch {torch.__version__}"

    @cached_property
    def parameter_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for _, t in self._state())

    @cached_property
    def geometry(self) -> NetworkGeometry:
        return analyse_module(self.module, ndim=self.ndim, channels=self._split, fixed=self._fixed)

    def trace(self, shape: Sequence[int]) -> Graph:
        """The graph at one spatial input size.

        Raises
        ------
        PlanError
            If the network does not take that size.
        """
        with refusing_sizes(self.name, shape):
            return trace(self.module, tuple(shape), self._split)

    def layout_for(self, precision: str) -> str:
        """The memory layout that passes in a precision take: channels last where the module can.

        Raises
        ------
        ModelError
            If in that precision it does not run, or does other things than were analysed.
        """
        axes = self.geometry.axes
        if self.geometry.verdict == "unsafe" or not axes:
            return _CHANNELS_LAST
        shape = tuple(axis.input_min for axis in axes)
        own, dtype, reason = self.trace(shape), getattr(torch, precision), ""
        for layout in (_CHANNELS_LAST, "contiguous"):
            ready = self._made_ready("cpu", precision, layout)
            laid_out = channels_last if layout == _CHANNELS_LAST else None
            try:
                graph = trace(ready, shape, self._split, dtype=dtype, laid_out=laid_out)
            except (SizeRefusal, LatticeMismatch) as error:
                reason = str(error)
                continue
            if not graph.breaks and graph.facts() == own.facts():
                return layout
            reason = "; ".join(map(str, graph.breaks)) or "its lattice is another one"
        raise ModelError(
            f"{self.name} does not do in {precision} what was analysed ({reason}); let its forward "
            "pass neither ask for types nor mix them, or give another --precision"
        )

    def _made_ready(self, device: str, precision: str, layout: str) -> nn.Module:
        """A copy to run, so that weights which are rounded for one run are whole for the next."""
        ready = copy.deepcopy(self.module).to(device=device, dtype=getattr(torch, precision))
        for parameter in ready.parameters():
            if parameter.ndim == self.ndim + 2:
                parameter.data = _laid_out(parameter.data, layout)
        return ready

    def prepare(self, runtime: Runtime) -> None:
        torch.set_num_threads(runtime.threads)
        if runtime == self._runtime:
            return
        self._runtime = runtime
        self._ready = self._made_ready(runtime.device, runtime.precision, runtime.layout)
        self._cuda = None
        if runtime.device != "cpu":
            self._cuda = CudaPasses(self._pass, runtime.device, self._taken_in)

    def run(self, batch: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        return next(self.stream([batch]))

    def stream(
        self, batches: Iterable[NDArray[np.floating]]
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        if self._runtime is None:
            self.prepare(Runtime(precision=PRECISIONS[self.precision].kept))
        passes = map(self._here, batches) if self._cuda is None else self._cuda.stream(batches)
        steps = [own.postprocessing for own in self._declared]
        for results in passes:
            yield tuple(map(apply_after, steps, results)) if any(steps) else results
            del results

    @torch.no_grad()  # as it was analysed; a module may ask for inference mode
    def _here(self, batch: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        """A pass on the processor."""
        assert self._runtime is not None
        if torch.get_num_threads() != self._runtime.threads:  # each calling thread has its own
            torch.set_num_threads(self._runtime.threads)
        tensor = self._taken_in(torch.from_numpy(batch))
        with FastConvolutions() if self._runtime.layout == _CHANNELS_LAST else nullcontext():
            results = self._pass(tensor)
        return tuple(result.numpy() for result in results)

    def _taken_in(self, tensor: Tensor) -> Tensor:
        """A tensor of what was read, in the type and layout that the network runs in."""
        assert self._runtime is not None
        typed = tensor.to(dtype=getattr(torch, self._runtime.precision))
        return _laid_out(typed, self._runtime.layout)

    def _pass(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The network and its activations: channels first, in a type that fields are kept in."""
        assert self._ready is not None
        half = tensor.dtype == torch.float16
        with (watch := Watch()) if half else nullcontext():
            result = self._ready(*torch.split(tensor, list(self._split), 1))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        # Of a module that could not be analysed, not even the number of its outputs is known.
        declared = self._declared or (None,) * len(tensors)
        layouts = self._layouts or ("",) * len(tensors)
        fields = [
            _widened(channels_first(t, layout, torch.permute) if layout else t)
            for t, layout in zip(tensors, layouts, strict=True)
        ]
        if half:
            fields = [watch.marked(field) for field in fields]
        return tuple(map(_activate, fields, declared))

    def positive(self, seed: int = 0) -> TorchNetwork:
        """The same network with generic positive weights, for the probe."""
        twin = copy.copy(self)
        twin.module = positive_weights(self.module, seed)
        twin._runtime = twin._ready = twin._cuda = None
        for name in ("fingerprint", "precision", "parameter_bytes"):
            vars(twin).pop(name, None)
        return twin

    @property
    def _declared(self) -> tuple[OutputConfig, ...]:
        """What is known of its outputs; nothing of a module that could not be analysed."""
        if self.config is not None:
            return self.config.outputs
        return tuple(OutputConfig(name=o.name, channels=o.channels) for o in self.outputs)

    @cached_property
    def _layouts(self) -> tuple[str, ...]:
        return tuple(output.layout for output in self.geometry.outputs)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.module.state_dict().items()


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of images in a memory layout."""
    return channels_last(tensor) if layout == _CHANNELS_LAST else tensor.contiguous()


def _widened(tensor: Tensor) -> Tensor:
    """Half types as float32, which holds them all; in it what follows is computed and kept."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 2 else tensor


def _activate(tensor: Tensor, declared: OutputConfig | None) -> Tensor:
    if declared is None:
        return tensor
    # What overflowed must not pass for a probability of 1.
    if declared.activation == "sigmoid":
        return tensor.sigmoid().masked_fill_(~tensor.isfinite(), math.nan)
    if declared.activation == "softmax":
        return tensor.softmax(dim=1)  # infinity less infinity is no number
    return tensor
