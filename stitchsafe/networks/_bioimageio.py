"""bioimage.io packages: from what a description says to a network.

ONNX comes first and needs no trust. A state dict needs the architecture that belongs to it, which
is code, of the package or of an installed one that the description and not the user names: it is
taken with ``--trust-model`` only. TorchScript hides its layers, and is not taken.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError
from torch import nn

from stitchsafe.errors import MissingExtraError, ModelError, VoxelSizeError
from stitchsafe.networks._adapted import adapted
from stitchsafe.networks._config import (
    DeclaredConfig,
    InputConfig,
    ModelConfig,
    OutputConfig,
    TensorConfig,
    first_problem,
)
from stitchsafe.networks._description import (
    Architecture,
    Axis,
    Description,
    Size,
    Tensor,
    Weights,
    read_description,
)
from stitchsafe.networks._factory import build_from, made_by
from stitchsafe.networks._onnx import load_onnx
from stitchsafe.networks._package import Package
from stitchsafe.networks._postprocessed import Postprocessed
from stitchsafe.networks._processing import steps_after, steps_before
from stitchsafe.networks._protocol import Network
from stitchsafe.networks._shared import refuse_other_channels
from stitchsafe.networks._torch import TorchNetwork
from stitchsafe.networks._weights import load_weights
from stitchsafe.volumes import VoxelSize

__all__ = ["load_package", "model_config"]


def load_package(package: Package, *, trust: bool) -> Network:
    """Load the network of a package.

    Parameters
    ----------
    trust
        Whether code that comes with the package, or that it names, may run.

    Raises
    ------
    ModelError
        If the description cannot be followed, or no set of weights can be loaded; says why not.
    """
    description = read_description(package.description, package.origin)
    config = model_config(description, package.origin)
    weights = description.weights
    if "onnx" in weights:
        try:
            network = _of_onnx(package, description, config)
            refuse_other_channels(network, config, package.origin)
            return network
        except (ModelError, MissingExtraError) as error:
            if not trust or "pytorch_state_dict" not in weights:
                raise
            note = f"its state dict is taken, since its ONNX weights cannot be: {error}"
            config = config.model_copy(update={"notes": (*config.notes, note)})
    if "pytorch_state_dict" not in weights:
        raise ModelError(
            f"{package.origin} has its weights as {', '.join(weights)} only, of "
            "which none can be analysed layer by layer; convert them to ONNX"
        )
    if not trust:
        raise ModelError(
            f"{package.origin} has its weights as a state dict only, whose architecture is code "
            "that the package brings along or names; add --trust-model if you trust its authors"
        )
    module = adapted(
        _module(package, weights["pytorch_state_dict"]),
        [tensor.layout for tensor in description.inputs],
        [tensor.layout for tensor in description.outputs],
    )
    made = TorchNetwork(module, config=config)
    refuse_other_channels(made, config, package.origin)
    return made


def _of_onnx(package: Package, description: Description, config: ModelConfig) -> Network:
    entry = description.weights["onnx"]
    path = package.file(entry.source, "the ONNX weights", entry.sha256)
    layouts = {tensor.id: tensor.layout for tensor in description.inputs}
    same = len(set(layouts.values())) == 1
    axes = description.inputs[0].layout if same else layouts
    network = load_onnx(path, config=config, axes=axes)
    stepped = any(output.postprocessing for output in config.outputs)
    return Postprocessed(network, config) if stepped else network


def model_config(description: Description, origin: Path) -> ModelConfig:
    """What a description says, in our terms.

    Raises
    ------
    ModelError
        If it needs what there is not here, such as an axis of time.
    """
    inputs, outputs = description.inputs, description.outputs
    space = [letter for letter in inputs[0].layout if letter in "zyx"]
    for tensor in (*inputs, *outputs):
        _refuse_other_axes(tensor, space, origin)
    notes, fields, skipped = [], [], []
    try:
        for output in outputs:
            after = steps_after(output, origin)
            skipped += [after.skipped] if after.skipped else []
            fields.append(
                OutputConfig(
                    name=output.id,
                    channels=output.channels,
                    postprocessing=after.pointwise,
                    finishing=after.finishing,
                )
            )
        tensors = tuple(
            TensorConfig(
                name=each.id, channels=each.channels, preprocessing=steps_before(each, origin)
            )
            for each in inputs
        )
        if description.run_mode is not None:
            notes.append(
                f"the description asks to be run by {description.run_mode.get('name')!r}, which is "
                "left aside"
            )
        own = description.config.stitchsafe
        size = _voxel_size(inputs[0], space)
        return ModelConfig(
            format="stitchsafe-model/1",
            name=description.name,
            description=description.description,
            input=InputConfig(
                axes="yx" if len(space) == 2 else "zyx",
                channels=sum(tensor.channels for tensor in tensors),
                voxel_size=None if size is None else size.values,
                unit=size.unit if size else "nanometer",
                tensors=tensors,
            ),
            outputs=tuple(fields),
            license=description.license or "",
            labels=own.labels,
            tiling=own.tiling,
            training=own.training,
            declared=_declared(description, sorted(space, reverse=True)),
            skipped=tuple(skipped),
            notes=tuple(notes),
        )
    except ValidationError as error:
        raise ModelError(
            f"{origin} is not a model's description: {first_problem(error, [])}; repair it"
        ) from error


def _refuse_other_axes(tensor: Tensor, space: list[str], origin: Path) -> None:
    layout = tensor.layout
    known = "".join(sorted(layout)) in ("".join(sorted(a + "".join(space))) for a in _LEADING)
    if tensor.optional or not known or sorted(space) not in (["x", "y"], ["x", "y", "z"]):
        what = "is optional" if tensor.optional else f"has the axes {[a.name for a in tensor.axes]}"
        raise ModelError(
            f"{origin}: the tensor {tensor.id!r} {what}, and networks here take and give tensors "
            "with a batch, channels and the axes (z,) y and x, all of the same; it cannot be run"
        )


_LEADING = ("b", "bc", "c", "")


def _voxel_size(tensor: Tensor, space: list[str]) -> VoxelSize | None:
    """Of the axes of space, where all state a unit."""
    axes = {axis.letter: axis for axis in tensor.axes if axis.letter in space}
    ordered = [axes[letter] for letter in sorted(space, reverse=True)]
    if not all(axis.unit for axis in ordered):
        return None
    try:
        sizes = [VoxelSize((axis.scale,), str(axis.unit)) for axis in ordered]
        unit = sizes[0].unit
        return VoxelSize(tuple(size.to(unit).values[0] for size in sizes), unit)
    except VoxelSizeError as error:
        raise ModelError(f"the voxel size of {tensor.id!r} cannot be used: {error}") from error


def _declared(description: Description, space: list[str]) -> DeclaredConfig | None:
    sizes = [_size(description, description.inputs[0], letter, 0) for letter in space]
    if any(size is None or size.min is None for size in sizes):
        return None
    halo = [
        max((a.halo for o in description.outputs for a in o.axes if a.letter == letter), default=0)
        for letter in space
    ]
    return DeclaredConfig(
        input_min=tuple(size.min for size in sizes if size and size.min is not None),
        input_step=tuple(size.step for size in sizes if size),
        halo=tuple(halo) if any(halo) else None,
    )


def _size(description: Description, tensor: Tensor, name: str, depth: int) -> Size | None:
    """The size of an input's axis, through references to other axes."""
    axis: Axis | None = next((a for a in tensor.axes if name in (a.letter, a.name)), None)
    if axis is None or depth > len(description.inputs) * 5:
        return None
    if isinstance(axis.size, int):
        return Size(min=axis.size)
    if axis.size is None or axis.size.axis_id is None:
        return axis.size
    other = next((t for t in description.inputs if t.id == axis.size.tensor_id), None)
    return None if other is None else _size(description, other, axis.size.axis_id, depth + 1)


def _module(package: Package, weights: Weights) -> nn.Module:
    if weights.architecture is None:
        raise ModelError(
            f"{package.origin}: the state dict comes without an architecture; give one with "
            "-m package.module:factory --weights FILE"
        )
    module = _architecture(package, weights.architecture)
    load_weights(module, package.file(weights.source, "the state dict", weights.sha256))
    return module


def _architecture(package: Package, architecture: Architecture) -> nn.Module:
    if architecture.source is None:
        named = f"{architecture.import_from}:{architecture.callable}"
        return build_from(named, architecture.kwargs)
    path = package.file(architecture.source, "the architecture's source", architecture.sha256)
    return made_by(_source_module(path), architecture.callable, architecture.kwargs)


def _source_module(path: Path) -> ModuleType:
    """A file of source as a module; nothing is written beside it, nothing imports it by name."""
    text = path.read_bytes()
    module = ModuleType(f"stitchsafe_architecture_{hashlib.sha256(text).hexdigest()[:16]}")
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"the architecture {path.name} failed: {reason}; repair it") from error
    return module
