"""The probe of a network: with its own weights, and with generic positive ones where it can."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stitchsafe.engine import Events
from stitchsafe.errors import PlanError
from stitchsafe.geometry import Break, Graph, NetworkGeometry, Probe, probe, probe_shapes
from stitchsafe.networks import Network, Runtime
from stitchsafe.pipeline._machine import allotted_memory, usable_cores

__all__ = ["ProbeReport", "probe_network"]

# Of the memory allotted; the rest is for weights, arrays that are compared, and the process itself.
SHARE = 0.6

# Operations of one pass from which on float64 would take minutes per axis.
HEAVY = 2e10


@dataclass(frozen=True)
class ProbeReport:
    """What was measured on a running network.

    Parameters
    ----------
    own
        With the weights that it has.
    positive
        With generic positive weights, where its form allows that they are replaced.
    precision
        In which it ran with its own weights.
    """

    own: Probe
    positive: Probe | None
    precision: str

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What goes beyond the trace, each once."""
        more = self.positive.contradictions if self.positive else ()
        return tuple(dict.fromkeys((*self.own.contradictions, *more)))

    @property
    def skipped(self) -> tuple[str, ...]:
        more = self.positive.skipped if self.positive else ()
        return tuple(dict.fromkeys((*self.own.skipped, *more)))

    @property
    def equal(self) -> bool | None:
        """Whether trace and measurement agree with generic positive weights; None without them."""
        return self.positive.equal if self.positive else None

    @property
    def passes(self) -> int:
        return self.own.passes + (self.positive.passes if self.positive else 0)

    def judge(self, geometry: NetworkGeometry, name: str) -> NetworkGeometry:
        """The geometry, unsafe where it is contradicted."""
        if not self.contradictions:
            return geometry
        breaks = tuple(
            Break(
                name,
                "probe",
                f"the running network contradicts what was traced ({each})",
                "this is a defect of stitchsafe, or of a lattice_geometry() that a layer declares: "
                "please report it with the network, and do not tile it",
            )
            for each in self.contradictions
        )
        return replace(geometry, verdict="unsafe", breaks=(*geometry.breaks, *breaks))

    def to_json(self) -> dict[str, Any]:
        return {
            "contradictions": list(self.contradictions),
            "skipped": list(self.skipped),
            "equal": self.equal,
            "passes": self.passes,
            "precision": self.precision,
            "own_weights": self.own.to_json(),
            "positive_weights": self.positive.to_json() if self.positive else None,
        }


def probe_network(network: Network, events: Events) -> ProbeReport:
    """Run the network to see whether it depends on no more than was traced.

    Parameters
    ----------
    network
        Its geometry is what is compared with.
    events
        Told which axis is being probed.
    """
    geometry = network.geometry
    twin: Network | None = None
    if geometry.verdict == "safe" and (positive := getattr(network, "positive", None)):
        twin = positive()
    if geometry.verdict != "safe":
        reason = (
            "the network is unsafe as it was traced"
            if geometry.verdict == "unsafe"
            else "the network runs only with decisions taken for a volume"
        )
        skipped = Probe((), skipped=(f"not probed: {reason}",))
        return ProbeReport(skipped, None, network.precision)
    # Half precision would hide what is small, and no prediction is made in it.
    precision = network.precision if network.precision in ("float32", "float64") else "float32"
    threads = 1
    work = max(_graph(network, shape, Graph.flops) for shape in probe_shapes(geometry))
    if work >= HEAVY:
        threads = usable_cores()
        events.say(f"a pass takes {work / 1e9:.0f}·10⁹ operations: probing in {precision}")
    elif twin is not None and twin.precision == "float64":
        precision = twin.precision
    itemsize = np.dtype(precision).itemsize
    limit = int(SHARE * allotted_memory().memory)

    def measure(each: Network, *, positive: bool) -> Probe:
        runtime = Runtime(precision=precision, layout="contiguous", threads=threads)
        runs = copy.copy(each)  # so that the network itself stays prepared as it is
        runs.prepare(runtime)
        return probe(
            runs.run,
            geometry,
            dtype=f"float{8 * itemsize}",
            positive=positive,
            thorough=positive or twin is None,
            bytes_needed=lambda shape: _graph(
                network, shape, lambda graph: graph.activation_bytes(itemsize)
            ),
            max_bytes=limit,
            say=lambda text: events.say(
                f"{text}{', generic positive weights' if positive else ''}"
            ),
            done=events.advance,
        )

    events.stage("probing", geometry.ndim * (1 if twin is None else 2), "axes")
    own = measure(network, positive=False)
    generic = None if twin is None else measure(twin, positive=True)
    return ProbeReport(own, generic, precision)


def _graph(network: Network, shape: tuple[int, ...], ask: Callable[[Graph], int]) -> int:
    """An answer of the graph at a shape; 0 where there is none, which the probe will find out."""
    try:
        return ask(network.trace(shape))
    except PlanError:
        return 0
