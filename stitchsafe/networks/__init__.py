"""Where networks come from and how they run."""

from stitchsafe.networks._config import (
    InputConfig,
    LabelsConfig,
    ModelConfig,
    NetworkConfig,
    OutputConfig,
    TilingConfig,
    load_config,
)
from stitchsafe.networks._folder import build_module, load_folder, save_folder
from stitchsafe.networks._onnx import OnnxNetwork, load_onnx
from stitchsafe.networks._protocol import Network, Output, Runtime
from stitchsafe.networks._resolve import bundled_models, load_network, models_root
from stitchsafe.networks._torch import TorchNetwork

__all__ = [
    "InputConfig",
    "LabelsConfig",
    "ModelConfig",
    "Network",
    "NetworkConfig",
    "OnnxNetwork",
    "Output",
    "OutputConfig",
    "Runtime",
    "TilingConfig",
    "TorchNetwork",
    "build_module",
    "bundled_models",
    "load_config",
    "load_folder",
    "load_network",
    "load_onnx",
    "models_root",
    "save_folder",
]
