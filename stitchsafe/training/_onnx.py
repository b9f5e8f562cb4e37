"""A trained network as an ONNX graph that takes every valid size, and gives what torch gives.

Sizes stay open on the network's lattice: what an axis takes is ``step * n + rest`` for every n, and
the exporter proves that the graph holds for all of them. Activations are part of the graph, and the
model's card is an entry of its metadata, so that ``predict -m model.onnx`` does what it does with
the folder.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from stitchsafe.errors import MissingExtraError, ModelError
from stitchsafe.geometry import AxisGeometry
from stitchsafe.networks import ModelConfig, TorchNetwork, embed_card, load_onnx, quietly

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "OPSET",
    "TOLERANCE",
    "Parity",
    "input_name",
    "onnx_of",
    "require_exporters",
    "sizes_of",
]

OPSET = 18
_OLDEST = 0, 5, 14
"""Of bioimageio.spec: those before fail with pydantic 2.14."""
TOLERANCE = 1e-5
"""How much onnxruntime may differ from torch, of an output's largest value; of 1 for those that are
probabilities."""


@dataclass(frozen=True)
class Parity:
    """How far what onnxruntime computes is from what torch computes.

    Parameters
    ----------
    difference
        The largest one over all outputs and sizes, relative as `TOLERANCE` is.
    sizes
        Of the inputs that were compared, in voxels; in batches of one, then two.
    """

    difference: float
    sizes: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        sizes = [list(size) for size in self.sizes]
        return {"difference": self.difference, "tolerance": TOLERANCE, "sizes": sizes}

    def __str__(self) -> str:
        sizes = " and ".join(" × ".join(map(str, size)) for size in self.sizes)
        return (
            f"onnxruntime and torch differ by {self.difference:.1e} of the largest value, on "
            f"inputs of {sizes} voxels ({TOLERANCE:.0e} is allowed)"
        )


def require_exporters(*, packages: bool) -> None:
    """Import what exporting needs, and what judges packages where there are to be `packages`.

    Raises
    ------
    MissingExtraError
        If something of it is not installed, or is too old.
    """
    for name in ("onnx", "onnxruntime", "onnxscript", *(["bioimageio.spec"] if packages else [])):
        try:
            with quietly():
                importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(name, "export") from error
    if packages and _version("bioimageio.spec") < _OLDEST:
        least = ".".join(map(str, _OLDEST))
        raise MissingExtraError(f"bioimageio.spec from {least} on", "export")


def _version(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", importlib.metadata.version(name))[:3]))


def sizes_of(axes: Sequence[AxisGeometry], *more: int) -> tuple[int, ...]:
    """A valid input size: along each axis so many steps more than the least."""
    return tuple(
        axis.input_min + count * axis.input_step for axis, count in zip(axes, more, strict=True)
    )


def onnx_of(network: TorchNetwork) -> tuple[ModelProto, Parity]:
    """The network as a graph that was run and compared.

    Raises
    ------
    ModelError
        If the exporter does not know how, or the graph is not the network.
    """
    assert network.config is not None
    axes = network.geometry.axes
    if not axes:
        raise ModelError(
            f"{network.name} cannot be exported, as nothing is known of the sizes that it takes "
            f"({network.geometry.breaks[0]})"
        )
    model = _exported(network, network.config)
    _strip(model)
    embed_card(model, network.config)
    content = model.SerializeToString()
    parity = _compared(network, content)
    _refuse_other_geometry(network, content)
    return model, parity


class _Activated(nn.Module):
    """A network and the activations of its outputs."""

    def __init__(self, network: TorchNetwork, config: ModelConfig) -> None:
        super().__init__()
        self.network = copy.deepcopy(network.module).float()
        self._activations = [output.activation for output in config.outputs]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        results = [leaf for leaf in tree_leaves(self.network(image)) if isinstance(leaf, Tensor)]
        return tuple(
            result.sigmoid()
            if activation == "sigmoid"
            else result.softmax(dim=1)
            if activation == "softmax"
            else result
            for result, activation in zip(results, self._activations, strict=True)
        )


def _exported(network: TorchNetwork, config: ModelConfig) -> ModelProto:
    axes = network.geometry.axes
    image = torch.zeros(2, network.channels, *sizes_of(axes, *range(2, 2 + len(axes))))
    try:
        with quietly(), torch.no_grad():
            program = torch.onnx.export(
                _Activated(network, config).eval(),
                (image,),
                dynamo=True,
                dynamic_shapes=(_open_sizes(axes),),
                input_names=[input_name(config)],
                output_names=[output.name for output in config.outputs],
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            model: ModelProto = program.model_proto
    except Exception as error:  # of any kind, from any depth of the exporter
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()) or "no reason is given"
        raise ModelError(
            f"{network.name} cannot be exported as ONNX ({type(cause).__name__}: "
            f"{reason[:200]}); predict takes its folder"
        ) from error
    return model


def input_name(config: ModelConfig) -> str:
    """What the input is called: another name than all outputs."""
    names = {output.name for output in config.outputs}
    return next(name for name in ("input", "image", "volume", "raw") if name not in names)


def _open_sizes(axes: Sequence[AxisGeometry]) -> dict[int, Any]:
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    for place, axis in enumerate(axes):
        if axis.input_step == 0:
            continue
        count: Any = torch.export.Dim("n" + "zyx"[-len(axes) :][place], min=1)
        size = count if axis.input_step == 1 else axis.input_step * count
        rest = axis.input_min - axis.input_step
        sizes[2 + place] = size + rest if rest else size
    return sizes


def _strip(model: ModelProto) -> None:
    """Leave out where in whose files each operator was called."""
    graph = model.graph
    for each in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        each.doc_string = ""
        del each.metadata_props[:]


def _compared(network: TorchNetwork, content: bytes) -> Parity:
    import onnxruntime

    assert network.config is not None
    axes, outputs = network.geometry.axes, network.config.outputs
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    sizes = sizes_of(axes, *[0] * len(axes)), sizes_of(axes, *range(3, 3 + len(axes)))
    largest = 0.0
    for count, size in enumerate(dict.fromkeys(sizes), start=1):
        image = rng.standard_normal((count, network.channels, *size), np.float32)
        try:
            found = session.run(None, {session.get_inputs()[0].name: image})
        except Exception as error:  # of its own kinds, as for a size that is not open after all
            reason = " ".join(str(error).split())[:200]
            raise _differs(network, f"an error ({reason})", size) from error
        for output, ours, its in zip(outputs, network.run(image), found, strict=True):
            if ours.shape != its.shape:
                raise _differs(network, f"an output of {its.shape} instead of {ours.shape}", size)
            values = np.abs(ours).max() if output.activation == "none" else 1
            difference = float(np.abs(its - ours).max() / (values or 1))
            if not difference <= TOLERANCE:
                raise _differs(network, f"values that differ by {difference:.1e}", size)
            largest = max(largest, difference)
    return Parity(largest, tuple(dict.fromkeys(sizes)))


def _differs(network: TorchNetwork, what: str, size: tuple[int, ...]) -> ModelError:
    return ModelError(
        f"{network.name} cannot be exported: for an input of {' × '.join(map(str, size))} voxels "
        f"onnxruntime gives {what}, and {TOLERANCE:.0e} of the largest value is allowed; predict "
        "takes its folder"
    )


def _refuse_other_geometry(network: TorchNetwork, content: bytes) -> None:
    """Analyse the graph as predict will, and compare."""
    with tempfile.TemporaryDirectory(prefix="stitchsafe-export-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        found = load_onnx(path).geometry
    own = network.geometry
    if (found.axes, found.verdict) != (own.axes, own.verdict):
        raise ModelError(
            f"{network.name} cannot be exported: its ONNX graph is found to be {found.verdict} "
            f"with the period {found.period} and the context {found.context}, and the network "
            f"{own.verdict} with {own.period} and {own.context}; predict takes its folder"
        )
