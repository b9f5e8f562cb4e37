"""What a network needs and guarantees, so that its tiles can be stitched exactly."""

from stitchsafe.geometry._analyse import agrees, analyse
from stitchsafe.geometry._axis import AxisMap, LatticeMismatch
from stitchsafe.geometry._graph import Graph, Node, Port
from stitchsafe.geometry._onnx import trace_onnx
from stitchsafe.geometry._onnx_program import OnnxProgram
from stitchsafe.geometry._placement import Placement
from stitchsafe.geometry._probe import Probe, probe, probe_shapes
from stitchsafe.geometry._torch import analyse_module, trace
from stitchsafe.geometry._types import (
    AxisGeometry,
    Break,
    InputGeometry,
    NetworkGeometry,
    OutputAxis,
    OutputGeometry,
    Verdict,
)
from stitchsafe.geometry._windows import SizeRefusal

__all__ = [
    "AxisGeometry", "AxisMap", "Break", "Graph", "InputGeometry", "LatticeMismatch",
    "NetworkGeometry", "Node", "OnnxProgram", "OutputAxis", "OutputGeometry", "Placement",
    "Port", "Probe", "SizeRefusal", "Verdict", "agrees", "analyse", "analyse_module", "probe",
    "probe_shapes", "trace", "trace_onnx",
]  # fmt: skip
