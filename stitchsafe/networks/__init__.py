"""Where networks come from and how they run."""

from stitchsafe.networks._config import (
    DeclaredConfig,
    InputConfig,
    LabelsConfig,
    ModelConfig,
    NetworkConfig,
    OutputConfig,
    SkippedConfig,
    TensorConfig,
    TilingConfig,
    load_config,
)
from stitchsafe.networks._cuda import Accelerator, cuda_devices
from stitchsafe.networks._device import Devices, find_devices, is_device
from stitchsafe.networks._factory import build_from, is_factory
from stitchsafe.networks._folder import (
    build_module,
    load_folder,
    network_of,
    save_config,
    save_folder,
    write_whole,
)
from stitchsafe.networks._onnx import OnnxNetwork, load_onnx
from stitchsafe.networks._onnx_card import embed_card
from stitchsafe.networks._pointwise import Pointwise, pointwise
from stitchsafe.networks._protocol import Network, Output, Runtime
from stitchsafe.networks._quiet import quietly
from stitchsafe.networks._resolve import bundled_models, load_network, models_root
from stitchsafe.networks._steps import Before, ClipPercentiles, Finishing, Percentiles, Zscore
from stitchsafe.networks._threads import own_threads
from stitchsafe.networks._torch import TorchNetwork
from stitchsafe.networks._weights import load_weights

__all__ = [
    "Accelerator",
    "Before",
    "ClipPercentiles",
    "DeclaredConfig",
    "Devices",
    "Finishing",
    "InputConfig",
    "LabelsConfig",
    "ModelConfig",
    "Network",
    "NetworkConfig",
    "OnnxNetwork",
    "Output",
    "OutputConfig",
    "Percentiles",
    "Pointwise",
    "Runtime",
    "SkippedConfig",
    "TensorConfig",
    "TilingConfig",
    "TorchNetwork",
    "Zscore",
    "build_from",
    "build_module",
    "bundled_models",
    "cuda_devices",
    "embed_card",
    "find_devices",
    "is_device",
    "is_factory",
    "load_config",
    "load_folder",
    "load_network",
    "load_onnx",
    "load_weights",
    "models_root",
    "own_threads",
    "network_of",
    "pointwise",
    "quietly",
    "save_config",
    "save_folder",
    "write_whole",
]
