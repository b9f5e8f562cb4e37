"""An ONNX graph as a network, run by onnxruntime."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import ModelError, PlanError
from stitchsafe.geometry import (
    Graph,
    InputGeometry,
    NetworkGeometry,
    OnnxProgram,
    SizeRefusal,
    analyse,
    trace_onnx,
)
from stitchsafe.networks._config import ModelConfig
from stitchsafe.networks._cuda import Accelerator
from stitchsafe.networks._onnx_arrays import arranged
from stitchsafe.networks._onnx_card import embedded_card
from stitchsafe.networks._onnx_file import OnnxFile, read_onnx
from stitchsafe.networks._onnx_half import widened
from stitchsafe.networks._onnx_layout import OnnxTensor, inputs_of, outputs_of
from stitchsafe.networks._onnx_positive import positive_graph
from stitchsafe.networks._onnx_session import (
    OPTIONS,
    OnnxSession,
    onnx_accelerators,
    runtime_build,
)
from stitchsafe.networks._onnx_tried import tried
from stitchsafe.networks._protocol import Output, Runtime
from stitchsafe.networks._shared import (
    channels_first,
    declared_outputs,
    plain_name,
    refuse_other_channels,
    refusing_sizes,
)
from stitchsafe.precision import PRECISIONS

__all__ = ["ONNX_SUFFIXES", "OnnxNetwork", "load_onnx"]

ONNX_SUFFIXES = (".onnx", ".czann")
"""Of the files that :func:`load_onnx` reads."""


def load_onnx(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    axes: str | Mapping[str, str] | None = None,
) -> OnnxNetwork:
    """Load an ONNX file (or a ``.czann`` archive, which holds one) as a network.

    Parameters
    ----------
    path
        Of the file. Weights in further files must lie in its folder.
    config
        What a card or package says of the network; by default what the file says itself, as those
        that `stitchsafe export` writes do.
    axes
        Layout of all inputs, such as ``"bcyx"`` or ``"byxc"``, or of single inputs and outputs by
        name; by default they are read from the graph.

    Raises
    ------
    ModelError
        If the file is damaged, reaches out of its folder, or is no dense network.
    MissingExtraError
        If onnx or onnxruntime is not installed.
    """
    file = read_onnx(Path(path))
    own = embedded_card(file.model, path) if config is None else None
    config = config or own
    name = config.name if config else Path(path).stem
    # Whether this build knows all operators and opsets is learnt before any work starts.
    OnnxSession(file.source, name=name, device="cpu", threads=1, optimize=False)
    network = OnnxNetwork(file, name=name, config=config, axes=axes)
    if own is not None:
        refuse_other_channels(network, own, path)
    return network


class OnnxNetwork:
    """An ONNX graph with (batch, channels, *space) at its face, whatever its own layouts.

    Parameters
    ----------
    file
        The graph and where its weights lie.
    name
        What to call it in plans and messages.
    config, axes
        See :func:`load_onnx`.
    """

    def __init__(
        self,
        file: OnnxFile,
        *,
        name: str,
        config: ModelConfig | None = None,
        axes: str | Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.config = name, config
        self._file = file
        self._inputs = inputs_of(file.model, name, axes)
        self._stated = outputs_of(file.model, name, axes)
        self.ndim = self._inputs[0].ndim
        self.channels = sum(each.channels or 1 for each in self._inputs)
        self._check()
        self._runtime: Runtime | None = None
        self._session: OnnxSession | None = None

    def _check(self) -> None:
        for each in self._inputs:
            if each.ndim != self.ndim:
                raise ModelError(
                    f"{self.name} takes inputs of {self.ndim} and of {each.ndim} spatial axes; "
                    "export it with inputs of the same axes"
                )
        if self.config is None:
            return
        declared = len(self.config.input.axes), self.config.input.channels
        if declared != (self.ndim, self.channels):
            raise ModelError(
                f"the configuration of {self.name!r} declares {declared[0]} axes and {declared[1]} "
                f"channels, and its graph takes {self.ndim} and {self.channels}; correct the "
                "configuration"
            )
        if len(self.config.outputs) != len(self._stated):
            raise ModelError(
                f"the configuration of {self.name!r} declares {len(self.config.outputs)} outputs, "
                f"and its graph has {len(self._stated)}; correct the configuration"
            )

    @cached_property
    def fixed(self) -> tuple[int | None, ...]:
        """Spatial size that the graph states, per axis, where it does.

        Raises
        ------
        ModelError
            If its inputs state different ones.
        """
        found = []
        for sizes in zip(*(each.space for each in self._inputs), strict=True):
            stated = {size for size in sizes if size is not None}
            if len(stated) > 1:
                raise ModelError(
                    f"the inputs of {self.name} have sizes {sorted(stated)} along one axis, and "
                    "here all inputs share one volume; export it with inputs of one size"
                )
            found.append(next(iter(stated), None))
        return tuple(found)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of graph, weights, layouts, activations, and how sessions are opened."""
        layouts = [(each.name, each.layout) for each in (*self._inputs, *self._stated)]
        text = repr((self._file.digest, layouts, self._activations, OPTIONS))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def build(self) -> str:
        """The onnxruntime that runs it."""
        return runtime_build()

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        if self.config is not None:
            return declared_outputs(self.config)
        count = len(self._results)
        return tuple(
            Output(plain_name(each.name, place, count), each.channels or 1)
            for place, each in enumerate(self._results)
        )

    @cached_property
    def _results(self) -> tuple[OnnxTensor, ...]:
        """What it returns, its layouts stated, or found by the tracer, or else the input's."""
        known = {each.name: each for each in self.geometry.outputs}
        like = self._inputs[0].layout
        found = []
        for each in self._stated:
            traced = known.get(each.name)
            guess = like if len(like) == len(each.sizes) else ""
            if traced and each.layout and traced.layout != each.layout:
                raise ModelError(
                    f"the axes of the output {each.name!r} of {self.name} were stated as "
                    f"{each.layout}, and follow from those of its inputs as {traced.layout}; leave "
                    f"them out, or state the inputs' otherwise, with --model-axes"
                )
            layout = each.layout or (traced.layout if traced else guess)
            channels = each.sizes[layout.index("c")] if "c" in layout else 1
            if channels is None and traced is not None:
                channels = traced.channels
            found.append(replace(each, layout=layout, channels=channels))
        return tuple(found)

    @property
    def _activations(self) -> list[str]:
        if self.config is not None:
            return [each.activation for each in self.config.outputs]
        return ["none"] * len(self._stated)

    @cached_property
    def precision(self) -> str:
        """Least floating point type of the weights, ``float32`` for a network without any."""
        from onnx import TensorProto

        held = {t.data_type for t in self._file.model.graph.initializer if len(t.dims) > 1}
        if held & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
            return "float16"
        if TensorProto.FLOAT in held or TensorProto.DOUBLE not in held:
            return "float32"
        return "float64"

    @property
    def precisions(self) -> tuple[str, ...]:
        """The graph's own type; and float32 for one of half a type."""
        return (self.precision, *(["float32"] if self.precision == "float16" else []))

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        return onnx_accelerators()

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of the weights as they run, without those that operators hold as constants."""
        from onnx.helper import tensor_dtype_to_np_dtype

        least = 4 if self.precision == "float16" else 1
        return sum(
            int(np.prod(t.dims))
            * max(least, np.dtype(tensor_dtype_to_np_dtype(t.data_type)).itemsize)
            for t in self._file.model.graph.initializer
        )

    @cached_property
    def _program(self) -> OnnxProgram:
        inputs = [
            InputGeometry(each.name, each.channels or 1, each.layout) for each in self._inputs
        ]
        return OnnxProgram(self._file.model, inputs, self._file.path.parent)

    @cached_property
    def geometry(self) -> NetworkGeometry:
        found = analyse(
            lambda shape: trace_onnx(self._program, self._admitted(shape)),
            ndim=self.ndim,
            name=self.name,
            fixed=self.fixed,
        )
        if found.verdict == "unsafe":
            return found
        source, inputs = self._file.source, self._inputs
        if self.precision == "float16":  # as it runs where there are no kernels for that
            try:
                source = widened(self._file.model, self._file.path.parent, self.name)
            except ModelError:  # too large for a copy
                return found
            wide = np.dtype(np.float32)
            inputs = tuple(
                replace(each, dtype=wide) if each.dtype == np.float16 else each for each in inputs
            )
        return tried(found, self.trace, source, inputs, self.name)

    def _admitted(self, shape: Sequence[int]) -> tuple[int, ...]:
        for own, size in zip(self.fixed, shape, strict=True):
            if own not in (None, size):
                raise SizeRefusal(f"the graph states an input of {own} voxels, not {size}")
        return tuple(shape)

    def trace(self, shape: Sequence[int]) -> Graph:
        """The graph at one spatial input size.

        Raises
        ------
        PlanError
            If the network does not take that size.
        """
        with refusing_sizes(self.name, shape):
            return trace_onnx(self._program, self._admitted(shape))

    def layout_for(self, precision: str) -> str:
        del precision  # which its graph decides, and onnxruntime the layout
        return "channels_last"

    def prepare(self, runtime: Runtime) -> None:
        """Open a session on the device of `runtime`.

        Raises
        ------
        PlanError
            If another precision is asked for than that of the graph, which is fixed; but a graph of
            float16 also runs in float32.
        """
        half = self.precision == "float16"
        if runtime.precision not in (self.precision, "float32" if half else self.precision):
            remedy = "give --precision float32" if half else "leave --precision out"
            raise PlanError(
                f"{self.name} computes in {self.precision}, as its graph says, and not in "
                f"{runtime.precision}; {remedy}"
            )
        if runtime == self._runtime and self._session is not None:
            return
        source = self._file.source
        if runtime.precision != self.precision:
            source = widened(self._file.model, self._file.path.parent, self.name)
        self._session = OnnxSession(
            source, name=self.name, device=runtime.device, threads=runtime.threads
        )
        self._runtime = runtime

    def run(self, batch: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        """One pass, element by element of the batch; a graph's own batch is 1."""
        if self._session is None:
            self.prepare(Runtime(precision=self.precision))
        passes = [self._run_one(each) for each in batch]
        return tuple(
            _activate(np.stack(results), activation)
            for results, activation in zip(
                zip(*passes, strict=True), self._activations, strict=True
            )
        )

    def stream(
        self, batches: Iterable[NDArray[np.floating]]
    ) -> Iterator[tuple[NDArray[np.floating], ...]]:
        return map(self.run, batches)

    def positive(self, seed: int = 0) -> OnnxNetwork | None:
        """The same network with generic positive weights; None where they lie in other files."""
        if not isinstance(self._file.source, bytes):
            return None
        model = positive_graph(self._file.model, seed)
        twin = copy.copy(self)
        twin._file = replace(self._file, model=model, source=model.SerializeToString())
        twin._runtime = twin._session = None
        for name in ("fingerprint", "_program"):
            vars(twin).pop(name, None)
        return twin

    def _run_one(self, image: NDArray[np.floating]) -> list[NDArray[np.floating]]:
        assert self._session is not None
        feeds, begin = {}, 0
        for each in self._inputs:
            count = each.channels or 1
            dtype = each.dtype
            if self._computes_in != self.precision and dtype == np.float16:
                dtype = np.dtype(self._computes_in)
            feeds[each.name] = arranged(image[begin : begin + count], each, dtype)
            begin += count
        names = [each.name for each in self._results]
        found = self._session.run(feeds, names)
        return [self._taken(array, each) for array, each in zip(found, self._results, strict=True)]

    def _taken(self, array: NDArray[Any], own: OnnxTensor) -> NDArray[np.floating]:
        """An output as (channels, *space)."""
        if not own.layout:
            raise ModelError(
                f"the output {own.name!r} of {self.name} has {array.ndim} axes and is no image; "
                f"state its axes with --model-axes, as in {own.name}=bcyx, or take a network whose "
                "outputs are images"
            )
        return np.ascontiguousarray(
            channels_first(array, own.layout, np.transpose)[0],
            dtype=PRECISIONS[self._computes_in].kept,
        )

    @property
    def _computes_in(self) -> str:
        return self.precision if self._runtime is None else self._runtime.precision


def _activate(array: NDArray[np.floating], activation: str) -> NDArray[np.floating]:
    if activation == "sigmoid":
        small = np.exp(-np.abs(array))
        risen: NDArray[np.floating] = np.where(array >= 0, 1 / (1 + small), small / (1 + small))
        risen[~np.isfinite(array)] = np.nan  # what overflowed must not pass for a probability of 1
        return risen
    if activation == "softmax":
        powers = np.exp(array - array.max(axis=1, keepdims=True))
        scaled: NDArray[np.floating] = powers / powers.sum(axis=1, keepdims=True)
        return scaled
    return array
