"""The torch tracer: ATen calls recorded while the module runs on a fake tensor.

The module runs in eval mode under :class:`FakeTensorMode`, so that nothing is computed or
allocated and Python control flow does not matter unless it looks at data, which is refused. Hooks
keep the path of the module that runs. A module with a method ``lattice_geometry()`` is recorded as
one opaque node, by what it declares of itself (see :mod:`stitchsafe.geometry._declared`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from stitchsafe.geometry._analyse import analyse
from stitchsafe.geometry._graph import Graph, Port
from stitchsafe.geometry._torch_module import fresh, prepared, quiet
from stitchsafe.geometry._torch_recorder import Recorder
from stitchsafe.geometry._types import NetworkGeometry
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["analyse_module", "trace"]


def trace(
    module: nn.Module,
    shape: tuple[int, ...],
    channels: int | Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    laid_out: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Graph:
    """The graph of a network for one spatial shape of its input.

    Parameters
    ----------
    module
        The network; analysed in eval mode, left as it was.
    shape
        Spatial shape of the input, in voxels.
    channels
        Of the input, or of each of several inputs.
    dtype
        Of the input; the parameters' own by default.
    laid_out
        Brings the input into the memory layout of a run; contiguous by default.

    Raises
    ------
    SizeRefusal
        If the network does not run at this size.
    """
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(quiet)
    module = fresh(module)
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = torch.device("cpu") if first is None else first.device
    dtype = dtype or (torch.float32 if first is None else first.dtype)
    recorder = Recorder(module, shape)
    counts = (channels,) if isinstance(channels, int) else tuple(channels)
    try:

        def image(count: int) -> torch.Tensor:
            made = torch.empty((1, count, *shape), dtype=dtype, device=device)
            return made if laid_out is None else laid_out(made)

        inputs, outputs = _recorded(recorder, module, [partial(image, n) for n in counts])
        stored = [*module.parameters(), *module.buffers()]
        held = sum(t.numel() * t.element_size() for t in stored)
        return recorder.flow.graph(inputs, outputs, held)
    except SizeRefusal as refusal:
        refusal.periods = recorder.flow.periods
        raise


def _recorded(
    recorder: Recorder,
    module: nn.Module,
    images: Sequence[Callable[[], torch.Tensor]],
) -> tuple[list[Port], tuple[Port, ...]]:
    """Inputs and outputs of a module that ran under the recorder."""
    # Outside of inference mode, in which torch does not take operators apart.
    plain, fake = torch.inference_mode(False), FakeTensorMode(allow_non_fake_inputs=True)
    with prepared(module, recorder), plain, torch.no_grad(), fake:
        given = [image() for image in images]
        inputs = [recorder.input(tensor, place) for place, tensor in enumerate(given)]
        returned: Any = None
        finished = False
        try:
            with recorder:
                returned = module(*given)
            finished = True
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            recorder.flow.op = str(getattr(error, "func", "data"))
            recorder.refuse(
                "control flow or shapes depend on the data: not analysed",
                "decide by sizes or settings, not by the values of tensors",
            )
        except SizeRefusal as error:
            error.layer, error.op = recorder.flow.layer, recorder.flow.op
            raise
        except (Exception, SystemExit) as error:
            if "unallocated storage" in str(error):  # a constant's values, asked for by Python code
                recorder.flow.layer, recorder.flow.op = recorder.failing or "network", "forward"
                recorder.flow.refuse(
                    "Python code reads the values of a tensor: not analysed",
                    "decide by sizes or settings, not by the values of tensors",
                )
            elif not recorder.flow.breaks:
                recorder.flow.unfinished()
                refusal = SizeRefusal(" ".join(f"{type(error).__name__}: {error}".split()))
                refusal.layer, refusal.op = recorder.failing or "", "forward"
                raise refusal from error
        if not finished:
            recorder.flow.unfinished()
        return inputs, recorder.returned(returned)


def analyse_module(
    module: nn.Module,
    *,
    ndim: int,
    channels: int | Sequence[int],
    fixed: Sequence[int | None] | None = None,
) -> NetworkGeometry:
    """The geometry of a module; see :func:`trace` and :func:`analyse`."""
    return analyse(
        lambda shape: trace(module, shape, channels),
        ndim=ndim,
        name=type(module).__name__,
        fixed=fixed,
    )
