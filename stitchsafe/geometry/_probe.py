"""The probe: a network's geometry measured on the running network, and compared with the trace.

What is measured can fall short of the trace, since weights may cancel and maxima hide; it must
never go beyond it. Where it does, the trace is wrong: a *contradiction*. With generic positive
weights nothing cancels, so that there the two must be equal; a trace that is *wider* costs halo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from stitchsafe.geometry._bench import Bench, Refusal, Run, Sizes, space_of
from stitchsafe.geometry._trial import MeasuredAxis, Trial
from stitchsafe.geometry._types import NetworkGeometry

__all__ = ["Probe", "probe", "probe_shapes"]


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of :func:`probe`.

    Parameters
    ----------
    axes
        What was measured, per axis that was.
    contradictions
        What goes beyond the trace; each is a defect of the trace.
    wider
        Where the trace says more than was measured.
    skipped
        What was not measured, and why.
    """

    axes: tuple[MeasuredAxis, ...]
    contradictions: tuple[str, ...] = ()
    wider: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all was measured and is just what was traced."""
        return not (self.contradictions or self.wider or self.skipped)

    @property
    def passes(self) -> int:
        return sum(axis.passes for axis in self.axes)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for axis in data["axes"]:
            for output in axis["outputs"]:
                output["scale"] = str(output["scale"])
        return {**data, "equal": self.equal, "passes": self.passes}


def probe_shapes(geometry: NetworkGeometry) -> list[tuple[int, ...]]:
    """Per axis, the largest shape over space that :func:`probe` runs the network on."""
    return [
        space_of(
            geometry, number, Sizes.of(axis, [o.axes[number] for o in geometry.outputs]).longest
        )
        for number, axis in enumerate(geometry.axes)
    ]


def probe(
    run: Run,
    geometry: NetworkGeometry,
    *,
    dtype: DTypeLike = np.float64,
    positive: bool = False,
    thorough: bool = True,
    seed: int = 0,
    bytes_needed: Callable[[tuple[int, ...]], int] | None = None,
    max_bytes: int | None = None,
    say: Callable[[str], None] = lambda message: None,
    done: Callable[[], None] = lambda: None,
) -> Probe:
    """Measure what a running network depends on, and compare it with its geometry.

    Parameters
    ----------
    run
        One pass: an array (1, channels, *space) to one such array per output.
    geometry
        What was traced.
    dtype
        In which inputs are given; rounding is judged by it.
    positive
        Whether the network runs with generic positive weights and no biases.
    thorough
        Whether supports that fall short of the trace are measured to the voxel. Without, the
        probe only tells whether they keep within it, in about half the passes.
    seed
        Of the inputs.
    bytes_needed, max_bytes
        Memory that a pass over a spatial shape takes, and what it may take. An axis that needs
        more is skipped, which the answer tells.
    say, done
        Told what is being done, and called when an axis is.
    """
    measured: list[MeasuredAxis] = []
    contradictions: list[str] = []
    wider: list[str] = []
    skipped: list[str] = []
    letters = "zyx"[-geometry.ndim :] if geometry.ndim else ""
    for number, (letter, axis) in enumerate(zip(letters, geometry.axes, strict=True)):
        outputs = [output.axes[number] for output in geometry.outputs]
        sizes = Sizes.of(axis, outputs)
        if not sizes.periods(axis.context):
            skipped.append(
                f"along {letter}: the only size that the network takes, {sizes.short}, shows no "
                "period whose context lies inside"
            )
            continue
        bench = Bench(
            run,
            geometry,
            number,
            sizes,
            dtype=dtype,
            positive=positive,
            thorough=thorough,
            seed=seed,
        )
        shape = space_of(geometry, number, sizes.longest)
        needed = bytes_needed(shape) if bytes_needed and max_bytes and sizes.long else 0
        if max_bytes and needed > max_bytes:
            skipped.append(
                f"along {letter}: an input of {' × '.join(map(str, shape))} voxels needs "
                f"{needed / 1e9:.1f} GB, and {max_bytes / 1e9:.1f} GB are allowed"
            )
            continue
        say(f"probing along {letter} with inputs of {' × '.join(map(str, shape))} voxels")
        trial = Trial(bench, letter, [f"output {each.name}" for each in geometry.outputs])
        try:
            if (found := trial.measure()) is not None:
                measured.append(found)
        except Refusal as refusal:
            contradictions.append(
                f"along {letter}: the network refuses an input that the trace calls valid, "
                f"{refusal}"
            )
        except MemoryError as error:
            skipped.append(f"along {letter}: the memory did not suffice ({error})")
        contradictions += trial.contradictions
        wider += trial.wider
        skipped += trial.skipped
        done()
    return Probe(tuple(measured), tuple(contradictions), tuple(wider), tuple(skipped))
