"""What a network needs and guarantees, so that its tiles can be stitched exactly."""

from stitchsafe.geometry._analyse import agrees, analyse
from stitchsafe.geometry._axis import AxisMap, LatticeMismatch
from stitchsafe.geometry._graph import Graph, Node
from stitchsafe.geometry._operators import SizeRefusal
from stitchsafe.geometry._probe import Probe, probe
from stitchsafe.geometry._tracer import trace
from stitchsafe.geometry._types import (
    AxisGeometry,
    Break,
    InputGeometry,
    NetworkGeometry,
    OutputAxis,
    OutputGeometry,
    Verdict,
)

__all__ = [
    "AxisGeometry", "AxisMap", "Break", "Graph", "InputGeometry", "LatticeMismatch",
    "NetworkGeometry", "Node", "OutputAxis", "OutputGeometry", "Probe", "SizeRefusal", "Verdict",
    "agrees", "analyse", "probe", "trace",
]  # fmt: skip
