"""onnxruntime behind a small face: one session on one device, arrays in, arrays out.

All that may change bits is set here and nowhere else: threads, execution order, kernels chosen by
rule rather than by timing, and no reduced precision on the device.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import InputError, MissingExtraError, ModelError
from stitchsafe.networks._cuda import Accelerator, cuda_devices, drivers_devices

__all__ = ["OPTIONS", "OnnxSession", "onnx_accelerators", "runtime_build"]

OPTIONS = "all graph optimisations, sequential, deterministic, no TF32"
"""What sessions are opened with, beside threads and device; part of a network's fingerprint."""

_CUDA = "CUDAExecutionProvider"
_MEND = (
    "run pip uninstall onnxruntime onnxruntime-gpu, and then pip install 'stitchsafe[{}]' for the "
    "one that is wanted"
)


def runtime_build() -> str:
    """Name and version of the onnxruntime that is installed."""
    return f"{_distributions()[-1]} {_imported().__version__}"


def onnx_accelerators() -> tuple[Accelerator, ...]:
    """The CUDA devices that the onnxruntime that is installed can run on."""
    if _CUDA not in _imported().get_available_providers():
        return ()
    return cuda_devices() or drivers_devices()


def _imported() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime


def _distributions() -> list[str]:
    """Which of the two distributions are installed; the one for CUDA last."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found or ["onnxruntime"]


def _providers(runtime: Any, device: str) -> list[tuple[str, dict[str, Any]]]:
    kind, _, index = device.partition(":")
    both = len(_distributions()) > 1
    clash = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
    if kind == "cpu":
        if both:
            warnings.warn(f"{clash}; {_MEND.format('onnx')}", RuntimeWarning, stacklevel=2)
        return [("CPUExecutionProvider", {})]
    if kind != "cuda" or (index and not index.isdigit()):
        raise InputError(
            f"the device {device!r} is none that ONNX models run on; give cpu, cuda or cuda:1"
        )
    if _CUDA not in runtime.get_available_providers():
        why = clash if both else "the onnxruntime that is installed is built for processors only"
        raise InputError(
            f"the device {device!r} cannot run an ONNX model: {why}; {_MEND.format('onnx-gpu')}"
        )
    options = {
        "device_id": int(index or 0),
        "use_tf32": 0,
        "cudnn_conv_algo_search": "HEURISTIC",  # the default times the algorithms, anew each run
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(_CUDA, options), ("CPUExecutionProvider", {})]


class OnnxSession:
    """A session of onnxruntime.

    Parameters
    ----------
    source
        Path or bytes of the model.
    name
        What to call it in messages.
    device
        ``cpu``, ``cuda`` or ``cuda:1``.
    threads
        Of one pass.
    optimize
        Without it, the graph runs as it is written: enough to learn whether it loads.

    Raises
    ------
    ModelError
        If onnxruntime does not load the model.
    InputError
        If the device is not there.
    """

    def __init__(
        self, source: str | bytes, *, name: str, device: str, threads: int, optimize: bool = True
    ) -> None:
        runtime = _imported()
        runtime.set_default_logger_severity(3)  # errors alone; what is wrong is raised
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        levels = runtime.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        )
        providers = _providers(runtime, device)
        try:
            # Without the fallback, which prints, and which would leave a device in silence.
            self._session = runtime.InferenceSession(
                source, options, providers=providers, enable_fallback=0
            )
        except Exception as error:
            raise ModelError(
                f"onnxruntime {runtime.__version__} does not load {name} ({_line(error)}); export "
                "it with an opset and operators that this version knows"
            ) from error
        if providers[0][0] not in self._session.get_providers():
            raise InputError(
                f"the device {device!r} cannot run {name}: onnxruntime found no driver or "
                "libraries of CUDA that fit it; install those that its version asks for"
            )
        self._runtime, self._name = runtime, name
        self._place = ("cuda", providers[0][1]["device_id"]) if device != "cpu" else None
        self._bound: dict[tuple[str, tuple[int, ...]], Any] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """One pass.

        Raises
        ------
        ModelError
            If the graph does not take these arrays.
        MemoryError
            If there is not enough of it.
        """
        try:
            if self._place is None:
                return list(self._session.run(list(outputs), dict(feeds)))
            return self._on_device(feeds, outputs)
        except Exception as error:
            if "allocate memory" in str(error) or "out of memory" in str(error).lower():
                raise MemoryError(_line(error)) from error
            shapes = ", ".join(str(array.shape) for array in feeds.values())
            raise ModelError(
                f"onnxruntime does not run {self._name} on an input of shape {shapes} "
                f"({_line(error)}); give sizes that the network takes"
            ) from error

    def _on_device(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> list[NDArray[Any]]:
        """Inputs in buffers on the device that are kept from pass to pass, outputs beside them."""
        assert self._place is not None
        binding = self._session.io_binding()
        for name, array in feeds.items():
            held = self._bound.get((name, array.shape))
            if held is None:
                # One shape at a time: tiles of one shape follow each other.
                self._bound = {key: v for key, v in self._bound.items() if key[0] != name}
                held = self._runtime.OrtValue.ortvalue_from_numpy(array, *self._place)
                self._bound[name, array.shape] = held
            else:
                held.update_inplace(array)
            binding.bind_ortvalue_input(name, held)
        for name in outputs:
            binding.bind_output(name, *self._place)
        self._session.run_with_iobinding(binding)
        return [np.asarray(array) for array in binding.copy_outputs_to_cpu()]


def _line(error: BaseException) -> str:
    """What onnxruntime says, without where in its own source it says it."""
    text = " ".join(str(error).split())
    text = text.partition("Status Message: ")[2] or text
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ .*?\) (?=[A-Z])", "", text)
    return text[:200]
