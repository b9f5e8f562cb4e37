"""What is known of a network once it has been analysed: plain, frozen, and storable as JSON.

One :class:`AxisGeometry` per spatial axis. With scale ``s`` (output voxels per input voxel) and
output offset ``o``, output voxel ``i`` stands for the input voxels from ``o + i/s`` up to, not
including, ``o + (i + 1)/s``; for ``s = 1`` that is the one voxel ``o + i``. The context
is the margin around one whole period of output on the lattice, which is what tiles are made of::

    input   |<- context before ->|  one period of output  |<- context after ->|
            ^ least lo            ^ o                                          ^ greatest hi
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from stitchsafe.errors import ModelError, PlanError, UnsafeNetworkError

__all__ = ["AxisGeometry", "Break", "NetworkGeometry", "OutputGeometry", "Verdict"]

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
class OutputGeometry:
    """One output of the network."""

    name: str
    channels: int


@dataclass(frozen=True, slots=True)
class AxisGeometry:
    """What a network needs and guarantees along one spatial axis; lengths in input voxels.

    Parameters
    ----------
    period
        Shift of the input under which the output is shifted and otherwise the same.
    context
        Margin (before, after) that the network needs around output of whole periods on its
        lattice, maximum over phases.
    receptive_field
        Size of the largest region that one output voxel depends on.
    input_min, input_step
        Valid input sizes are ``input_min + k * input_step``.
    output_offset
        From the input's origin to the output's origin: half of what the network takes off, rounded
        down; the same for every valid size, 0 for same-padded networks.
    output_scale
        Output voxels per input voxel.
    padded
        Whether some layer pads along this axis, so that tiles must be clipped at the volume's
        border instead of reaching over it.
    shrinkage
        ``input size - output size / output_scale``, the same for every valid size.
    support
        For each output phase, in order, the input voxels (first, last) that it depends on,
        relative to the input's origin; None for a phase that depends on nothing.
    """

    period: int
    context: tuple[int, int]
    receptive_field: int
    input_min: int
    input_step: int
    output_offset: int
    output_scale: Fraction
    padded: bool
    shrinkage: Fraction
    support: tuple[tuple[int, int] | None, ...]

    @property
    def input_phase(self) -> int:
        """Where inputs begin, modulo the period, if outputs begin at multiples of the period."""
        return -self.output_offset % self.period

    def output_size(self, input_size: int) -> int:
        """Size of the output for a valid size of the input.

        Raises
        ------
        PlanError
            If `input_size` is not ``input_min + k * input_step``.
        """
        excess = input_size - self.input_min
        if excess < 0 or excess % self.input_step:
            raise PlanError(
                f"an input of {input_size} voxels does not fit the network, which takes "
                f"{self.input_min} + k·{self.input_step}; choose one of these sizes"
            )
        return int((input_size - self.shrinkage) * self.output_scale)


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
    outputs
        The network's outputs in order.
    consensus
        (layer, what must be decided once for the whole volume).
    program
        Digest of the sequence of operators and their constants, sizes left out.
    """

    axes: tuple[AxisGeometry, ...]
    verdict: Verdict
    breaks: tuple[Break, ...]
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
    def output_scale(self) -> tuple[Fraction, ...]:
        return tuple(axis.output_scale for axis in self.axes)

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
        """Spatial shape of the output for a valid spatial shape of the input."""
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
        for axis in data["axes"]:
            axis["output_scale"] = str(axis["output_scale"])
            axis["shrinkage"] = str(axis["shrinkage"])
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
                outputs=tuple(OutputGeometry(**each) for each in data["outputs"]),
                consensus=tuple((layer, what) for layer, what in data["consensus"]),
                program=str(data["program"]),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(
                f"the stored geometry cannot be read ({error!r}); analyse the network again"
            ) from error


def _axis_from_json(data: dict[str, Any]) -> AxisGeometry:
    before, after = data["context"]
    support = tuple(None if each is None else (each[0], each[1]) for each in data["support"])
    return AxisGeometry(
        **{
            **data,
            "context": (before, after),
            "output_scale": Fraction(data["output_scale"]),
            "shrinkage": Fraction(data["shrinkage"]),
            "support": support,
        }
    )
