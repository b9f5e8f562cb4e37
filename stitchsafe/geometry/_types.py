"""What is known of a network once it has been analysed: plain, frozen, and storable as JSON.

One :class:`AxisGeometry` per spatial axis says what tiles must look like; one
:class:`OutputAxis` per output and axis says where that output's elements lie. An input that begins
at the voxel ``b`` answers for voxels from ``b + output_offset`` on; there output ``k`` has its
element `start`, and every voxel has `scale` elements. The context is the margin around one whole
period of voxels on the lattice, which is what tiles are made of::

    input   |<- context before ->|  one period of voxels  |<- context after ->|
            ^ least lo            ^ output_offset                              ^ greatest hi
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from stitchsafe.coordinates import ceil_to
from stitchsafe.errors import ModelError, PlanError, UnsafeNetworkError

__all__ = [
    "AxisGeometry",
    "Break",
    "InputGeometry",
    "NetworkGeometry",
    "OutputAxis",
    "OutputGeometry",
    "Verdict",
]

Verdict = Literal["safe", "safe with consensus", "unsafe"]

FORMAT = "stitchsafe-geometry/1"


@dataclass(frozen=True, slots=True)
class Break:
    """One operator that breaks locality or could not be analysed.

    Parameters
    ----------
    layer
        Path of the module that called the operator, as in ``named_modules``.
    op
        The operator, such as ``aten.mean.dim``.
    reason, fix
        Why it cannot be tiled exactly, and what to do about it.
    """

    layer: str
    op: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"layer {self.layer} ({self.op}): {self.reason}; {self.fix}"


@dataclass(frozen=True, slots=True)
class InputGeometry:
    """One input of the network.

    Parameters
    ----------
    name
        As the network calls it.
    channels
        How many it takes.
    layout
        Its axes in order: ``b`` batch, ``c`` channels, and those of space, such as ``bczyx``.
    """

    name: str
    channels: int
    layout: str


@dataclass(frozen=True, slots=True)
class OutputAxis:
    """One spatial axis of one output; lengths in input voxels, `start` in its own elements.

    Parameters
    ----------
    scale
        Elements per input voxel.
    offset
        From the input's origin to the output's origin: half of what the network takes off, rounded
        towards 0; the same for every valid size, 0 for same-padded networks.
    start
        Element at which the input's voxel ``output_offset`` of the :class:`AxisGeometry` lies; 0
        where all outputs begin alike, and none before the input.
    shrinkage
        The most of ``input size - output size / scale`` at any size that leaves out no voxel.
    context
        Margin (before, after) that this output needs around whole periods of voxels.
    receptive_field
        Size of the largest region that one element depends on.
    support
        For each phase, in order, the input voxels (first, last) that an element depends on,
        relative to the input's origin; None for a phase that depends on nothing.
    surplus
        How much less than `shrinkage` goes, by the input size modulo the length of this tuple;
        negative for sizes that leave out voxels.
    """

    scale: Fraction
    offset: int
    start: int
    shrinkage: Fraction
    context: tuple[int, int]
    receptive_field: int
    support: tuple[tuple[int, int] | None, ...]
    surplus: tuple[Fraction, ...] = (Fraction(0),)

    @property
    def reach(self) -> tuple[tuple[int, int], ...]:
        """Per phase, how far (before, after) an element depends on voxels around its own."""
        found = []
        for phase, own in enumerate(self.support):
            first = self.offset + math.floor(phase / self.scale)
            last = max(first, self.offset + math.ceil((phase + 1) / self.scale) - 1)
            low, high = own or (first, last)
            found.append((max(0, first - low), max(0, high - last)))
        return tuple(found)

    def size(self, input_size: int) -> int:
        """Elements that a pass over an input of this (valid) size gives."""
        more = self.surplus[input_size % len(self.surplus)]
        return int((input_size - self.shrinkage + more) * self.scale)


@dataclass(frozen=True, slots=True)
class OutputGeometry:
    """One output of the network.

    Parameters
    ----------
    name
        As the network calls it; its position where it says nothing.
    channels
        How many it has; 1 where its tensor has no such axis.
    layout
        The axes of its tensor in order, as for :class:`InputGeometry`.
    axes
        One per spatial axis; empty where nothing could be derived.
    """

    name: str
    channels: int
    layout: str = ""
    axes: tuple[OutputAxis, ...] = ()

    @property
    def scale(self) -> tuple[Fraction, ...]:
        """Elements per input voxel, per axis."""
        return tuple(axis.scale for axis in self.axes)


@dataclass(frozen=True, slots=True)
class AxisGeometry:
    """What a network needs along one spatial axis, for all its outputs; lengths in input voxels.

    Parameters
    ----------
    period
        Shift of the input under which all outputs are shifted and otherwise the same.
    context
        Margin (before, after) that the network needs around whole periods of voxels on its
        lattice, maximum over phases and outputs.
    receptive_field
        Size of the largest region that one element of any output depends on.
    input_min, input_step
        Valid input sizes are ``input_min + k * input_step``; a step of 0 means just that one.
    output_offset
        From the input's origin to the first voxel that all outputs answer for; never negative, as
        what lies before the input answers for none of its voxels.
    shrinkage
        Input size less the voxels of it that all outputs answer for; the most at any size that
        leaves out no voxel.
    padded
        Whether some layer pads along this axis, so that tiles must be clipped at the volume's
        border instead of reaching over it.
    surplus
        How much less than `shrinkage` goes, by the input size modulo the length of this tuple;
        negative for sizes that leave out voxels.
    """

    period: int
    context: tuple[int, int]
    receptive_field: int
    input_min: int
    input_step: int
    output_offset: int
    shrinkage: int
    padded: bool
    surplus: tuple[int, ...] = (0,)

    @property
    def input_phase(self) -> int:
        """Where inputs begin, modulo the period, if outputs begin at multiples of the period."""
        return -self.output_offset % self.period

    def takes(self, input_size: int) -> bool:
        """Whether the network takes an input of this size."""
        excess = input_size - self.input_min
        return excess == 0 or (excess > 0 < self.input_step and excess % self.input_step == 0)

    def output_size(self, input_size: int) -> int:
        """Voxels of an input of a valid size that a pass over it answers for.

        Raises
        ------
        PlanError
            If `input_size` is not ``input_min + k * input_step``.
        """
        if not self.takes(input_size):
            raise PlanError(
                f"an input of {input_size} voxels does not fit the network, which takes "
                f"{self.input_min} + k·{self.input_step}; choose one of these sizes"
            )
        return input_size - self.shrinkage + self.surplus[input_size % len(self.surplus)]

    def covering(self, extent: int) -> int:
        """The smallest input size of which a pass answers for so many voxels.

        Where the network takes one size only, its layers would take that and so many periods.
        """
        step = self.input_step or self.period
        over = max(0, extent + self.shrinkage - max(self.surplus) - self.input_min)
        size = self.input_min + ceil_to(over, step)
        while self.input_step and self.output_size(size) < extent:
            size += step
        return size


@dataclass(frozen=True, slots=True)
class NetworkGeometry:
    """The verdict on a network and, per spatial axis, what its tiles must look like.

    An unsafe network may still have axes (what tiles would look like if the breaks were mended);
    where nothing could be derived, `axes` is empty.

    Parameters
    ----------
    axes
        One per spatial axis, (z, y, x) or (y, x).
    verdict
        "safe", "safe with consensus" (some layers need a decision taken once for the volume) or
        "unsafe".
    breaks
        Why it is unsafe; empty otherwise.
    inputs, outputs
        The network's, in order.
    consensus
        (layer, what must be decided once for the whole volume).
    program
        Digest of the sequence of operators and their constants, sizes left out.
    """

    axes: tuple[AxisGeometry, ...]
    verdict: Verdict
    breaks: tuple[Break, ...]
    inputs: tuple[InputGeometry, ...]
    outputs: tuple[OutputGeometry, ...]
    consensus: tuple[tuple[str, str], ...] = ()
    program: str = ""

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def period(self) -> tuple[int, ...]:
        return tuple(axis.period for axis in self.axes)

    @property
    def context(self) -> tuple[tuple[int, int], ...]:
        return tuple(axis.context for axis in self.axes)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        return tuple(axis.receptive_field for axis in self.axes)

    @property
    def output_offset(self) -> tuple[int, ...]:
        return tuple(axis.output_offset for axis in self.axes)

    @property
    def input_phase(self) -> tuple[int, ...]:
        return tuple(axis.input_phase for axis in self.axes)

    @property
    def input_min(self) -> tuple[int, ...]:
        return tuple(axis.input_min for axis in self.axes)

    @property
    def input_step(self) -> tuple[int, ...]:
        return tuple(axis.input_step for axis in self.axes)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The voxels that a pass over a valid spatial shape of the input answers for."""
        return tuple(
            axis.output_size(size) for axis, size in zip(self.axes, input_shape, strict=True)
        )

    def require_safe(self) -> None:
        """Pass if the network can be stitched exactly.

        Raises
        ------
        UnsafeNetworkError
            Naming the first layer to blame, the reason and the fix.
        """
        if self.verdict != "unsafe":
            return
        more = f" (and {len(self.breaks) - 1} more)" if len(self.breaks) > 1 else ""
        raise UnsafeNetworkError(f"the network cannot be stitched exactly: {self.breaks[0]}{more}")

    def to_json(self) -> dict[str, Any]:
        """The geometry as plain data for :func:`json.dump`, read back by :meth:`from_json`."""
        data = asdict(self)
        for output in data["outputs"]:
            for axis in output["axes"]:
                axis["scale"], axis["shrinkage"] = str(axis["scale"]), str(axis["shrinkage"])
                axis["surplus"] = [str(each) for each in axis["surplus"]]
        plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **data}))
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkGeometry:
        """What :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            If `data` is not of this format.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"the format {data['format']!r} is not {FORMAT!r}")
            verdict: Verdict = data["verdict"]
            if verdict not in ("safe", "safe with consensus", "unsafe"):
                raise ValueError(f"the verdict {verdict!r} is unknown")
            return cls(
                axes=tuple(_axis_from_json(axis) for axis in data["axes"]),
                verdict=verdict,
                breaks=tuple(Break(**each) for each in data["breaks"]),
                inputs=tuple(InputGeometry(**each) for each in data["inputs"]),
                outputs=tuple(
                    OutputGeometry(
                        **{**each, "axes": tuple(_output_axis_from_json(a) for a in each["axes"])}
                    )
                    for each in data["outputs"]
                ),
                consensus=tuple((layer, what) for layer, what in data["consensus"]),
                program=str(data["program"]),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(
                f"the stored geometry cannot be read ({error!r}); analyse the network again"
            ) from error


def _axis_from_json(data: dict[str, Any]) -> AxisGeometry:
    before, after = data["context"]
    surplus = tuple(data.get("surplus", (0,)))
    return AxisGeometry(**{**data, "context": (before, after), "surplus": surplus})


def _output_axis_from_json(data: dict[str, Any]) -> OutputAxis:
    before, after = data["context"]
    return OutputAxis(
        **{
            **data,
            "context": (before, after),
            "scale": Fraction(data["scale"]),
            "shrinkage": Fraction(data["shrinkage"]),
            "support": tuple(None if s is None else (s[0], s[1]) for s in data["support"]),
            "surplus": tuple(map(Fraction, data.get("surplus", ("0",)))),
        }
    )
