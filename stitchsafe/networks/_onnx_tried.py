"""Whether onnxruntime does what was traced: one pass over the smallest input that a tile may have.

A graph can be valid, load, and still not run: its kernels do not take every setting that the
operators have, and some of them give arrays of other sizes than the operator's definition says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import MissingExtraError, ModelError, PlanError
from stitchsafe.geometry import Break, Graph, NetworkGeometry
from stitchsafe.networks._onnx_arrays import arranged
from stitchsafe.networks._onnx_layout import OnnxTensor
from stitchsafe.networks._onnx_session import OnnxSession

__all__ = ["tried"]

MOST_OPERATIONS, MOST_BYTES = 5e10, 1e9
"""Of a pass beyond which it is not tried, as seconds are too long: it shows when it runs."""


def tried(
    geometry: NetworkGeometry,
    trace: Callable[[tuple[int, ...]], Graph],
    source: str | bytes,
    inputs: Sequence[OnnxTensor],
    name: str,
) -> NetworkGeometry:
    """The geometry, unsafe where onnxruntime does not run the graph, or gives other sizes.

    Parameters
    ----------
    geometry
        As it was traced.
    trace
        The graph at a size.
    source, inputs, name
        What runs, what it takes, and what to call it.
    """
    found: Break | None = None
    for shape in dict.fromkeys((_least(geometry), _roomy(geometry))):
        try:
            graph = trace(shape)
        except PlanError:  # a size of one axis that another does not go with
            continue
        if graph.flops() > MOST_OPERATIONS or graph.activation_bytes(4) > MOST_BYTES:
            break
        feeds, outputs = _zeros(inputs, shape), [each.name for each in geometry.outputs]
        try:
            arrays = OnnxSession(source, name=name, device="cpu", threads=1).run(feeds, outputs)
        except (MissingExtraError, MemoryError):
            return geometry
        except ModelError as error:
            reason, _, fix = str(error).rpartition("; ")
            layer = _blamed(source, feeds, outputs, name) or name
            found = Break(layer, "run", reason, fix)
            continue  # too small an input may be all that is wrong
        found = _other_sizes(geometry, arrays, shape)
        if found is None:
            return geometry
    if found is None:
        return geometry
    return replace(geometry, verdict="unsafe", breaks=(*geometry.breaks, found))


def _least(geometry: NetworkGeometry) -> tuple[int, ...]:
    return tuple(axis.input_min for axis in geometry.axes)


def _roomy(geometry: NetworkGeometry) -> tuple[int, ...]:
    """The smallest input with a period of voxels beside its context; the only one where it is."""
    sizes = []
    for axis in geometry.axes:
        lacking = sum(axis.context) + 2 * axis.period
        steps = -(-lacking // axis.input_step) if axis.input_step else 0
        sizes.append(axis.input_min + steps * axis.input_step)
    return tuple(sizes)


def _zeros(inputs: Sequence[OnnxTensor], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    return {
        each.name: arranged(np.zeros((each.channels or 1, *shape), np.float32), each, each.dtype)
        for each in inputs
    }


def _blamed(
    source: str | bytes, feeds: dict[str, NDArray[Any]], outputs: list[str], name: str
) -> str:
    """The node that onnxruntime blames, if it does with the nodes that the graph has."""
    try:
        OnnxSession(source, name=name, device="cpu", threads=1, optimize=False).run(feeds, outputs)
    except ModelError as error:
        named = re.search(r"Name:'([^']+)'", str(error.__cause__))
        return named[1] if named else ""
    return ""


def _other_sizes(
    geometry: NetworkGeometry, arrays: Sequence[NDArray[Any]], shape: tuple[int, ...]
) -> Break | None:
    letters = "zyx"[-geometry.ndim :]
    for output, array in zip(geometry.outputs, arrays, strict=True):
        space = {
            letter: axis.size(size)
            for letter, axis, size in zip(letters, output.axes, shape, strict=True)
        }
        traced = tuple(space.get(at, n) for at, n in zip(output.layout, array.shape, strict=False))
        if traced != array.shape:
            return Break(
                output.name,
                "run",
                f"of {' x '.join(map(str, shape))} voxels onnxruntime makes an output of the shape "
                f"{array.shape}, and by the definition of its operators it has {traced}",
                "export the network with explicit pads instead of auto_pad",
            )
    return None
