"""Voxel sizes, their units, and the contract that a network and a volume must agree on them.

A network knows objects of one size in voxels, so the voxel size is part of what it was trained on.
:func:`require_voxel_size` refuses a volume whose voxels differ by more than a tolerance, and says
what would mend it: a level of the same pyramid whose voxels fit, or the true size where the file is
silent or wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stitchsafe.errors import VoxelSizeError

__all__ = ["Level", "VoxelSize", "known_unit", "require_voxel_size"]

_POWER_OF_TEN = {
    "picometer": -12,
    "angstrom": -10,
    "nanometer": -9,
    "micrometer": -6,
    "millimeter": -3,
    "centimeter": -2,
    "decimeter": -1,
    "meter": 0,
}
_ALIASES = {
    "pm": "picometer",
    "å": "angstrom",
    "a": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
}
TOLERANCE = 0.05
"""Relative difference up to which two voxel sizes count as the same: what instruments round away,
and less than any step between pyramid levels."""


def known_unit(name: str | None) -> str | None:
    """The unit's full name (``"nm"`` gives ``"nanometer"``), or None for one we do not know."""
    if name is None:
        return None
    text = name.strip().lower()
    for candidate in (
        text,
        text.removesuffix("s"),
        text.removesuffix("s").replace("metre", "meter"),
    ):
        candidate = _ALIASES.get(candidate, candidate)
        if candidate in _POWER_OF_TEN:
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class VoxelSize:
    """Length of a voxel along each spatial axis.

    Parameters
    ----------
    values
        One positive length per spatial axis, in the order of the volume's axes.
    unit
        Name or abbreviation of a unit of length; stored as its full name.

    Raises
    ------
    VoxelSizeError
        A length is not positive and finite, or the unit is unknown.
    """

    values: tuple[float, ...]
    unit: str = "micrometer"

    def __post_init__(self) -> None:
        unit = known_unit(self.unit)
        if unit is None:
            raise VoxelSizeError(
                f"the unit {self.unit!r} is not a known unit of length; use one of "
                f"{', '.join(_POWER_OF_TEN)} or nm, um, mm"
            )
        values = tuple(float(value) for value in self.values)
        if not values or not all(math.isfinite(value) and value > 0 for value in values):
            raise VoxelSizeError(
                f"the voxel size {values} is not usable, as lengths are positive numbers; "
                "give one per spatial axis, for example --voxel-size 0.3,0.1,0.1"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "unit", unit)

    @classmethod
    def parse(cls, text: str, *, unit: str = "micrometer") -> VoxelSize:
        """Read ``"0.3,0.1,0.1"`` or ``"10,10,10 nm"``; `unit` is meant where the text has none."""
        match = re.fullmatch(r"([\d.,eE+\-\s]*[\d.])\s*([^\d\s.,]*)", text.strip())
        try:
            values = tuple(float(part) for part in match.group(1).split(",")) if match else ()
        except ValueError:
            values = ()
        if match is None or not values:
            raise VoxelSizeError(
                f"the voxel size {text!r} cannot be read; give one number per spatial axis and a "
                "unit, for example 0.3,0.1,0.1um"
            )
        return cls(values, match.group(2) or unit)

    def to(self, unit: str) -> VoxelSize:
        """The same size in another unit."""
        full = known_unit(unit)
        if full is None:
            return VoxelSize(self.values, unit)  # raises, naming the unit
        power = _POWER_OF_TEN[self.unit] - _POWER_OF_TEN[full]
        scaled = (v * 10**power if power >= 0 else v / 10**-power for v in self.values)
        return VoxelSize(tuple(scaled), full)

    def ratio(self, other: VoxelSize) -> tuple[float, ...]:
        """Quotient of the two sizes, per axis."""
        if len(self.values) != len(other.values):
            raise VoxelSizeError(
                f"the voxel sizes {self} and {other} cannot be compared, as they have "
                f"{len(self.values)} and {len(other.values)} axes; give one length per spatial axis"
            )
        pairs = zip(self.values, other.to(self.unit).values, strict=True)
        return tuple(mine / theirs for mine, theirs in pairs)

    def agrees(self, other: VoxelSize, tolerance: float = TOLERANCE) -> bool:
        """Whether every axis differs by no more than the relative `tolerance`."""
        return len(self.values) == len(other.values) and all(
            abs(math.log(ratio)) <= math.log1p(tolerance) + 1e-12 for ratio in self.ratio(other)
        )

    def scale(self, factors: Sequence[float]) -> VoxelSize:
        """The size of voxels that are larger by `factors`."""
        return VoxelSize(tuple(v * f for v, f in zip(self.values, factors, strict=True)), self.unit)

    def option(self) -> str:
        """The size as the command line takes it."""
        short = {"nanometer": "nm", "micrometer": "um", "millimeter": "mm"}
        return ",".join(f"{v:.6g}" for v in self.values) + short.get(self.unit, self.unit)

    def to_json(self) -> dict[str, Any]:
        return {"values": list(self.values), "unit": self.unit}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VoxelSize:
        return cls(tuple(data["values"]), data["unit"])

    def __str__(self) -> str:
        return " x ".join(f"{value:.6g}" for value in self.values) + f" {self.unit}"


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a volume: its place in the pyramid, spatial shape and voxel size."""

    index: int
    shape: tuple[int, ...]
    voxel_size: VoxelSize | None

    def __str__(self) -> str:
        size = f", {self.voxel_size}" if self.voxel_size else ""
        return f"{self.index} ({' x '.join(map(str, self.shape))}{size})"


class _Sized(Protocol):
    @property
    def path(self) -> str | None: ...
    @property
    def voxel_size(self) -> VoxelSize | None: ...
    @property
    def levels(self) -> tuple[Level, ...]: ...


def require_voxel_size(
    volume: _Sized,
    expected: VoxelSize | None,
    *,
    levels: Sequence[Level] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Refuse a volume whose voxels are not those that a network was trained on.

    Parameters
    ----------
    volume
        Anything with `path`, `voxel_size` and `levels`.
    expected
        What the network was trained on; None accepts any size.
    levels
        Levels that could be opened instead; those of the volume by default.
    tolerance
        Relative difference per axis that is let pass.

    Raises
    ------
    VoxelSizeError
        The size is unknown or another; the message names the ``--level`` that fits, if there is
        one, or how to state the true size.
    """
    if expected is None:
        return
    name = volume.path or "the array"
    state = f"--voxel-size {expected.option()}"
    if volume.voxel_size is None:
        raise VoxelSizeError(
            f"the voxel size of {name} is unknown, and the network was trained on {expected}; "
            f"if that is what the volume has, say so with {state}"
        )
    if volume.voxel_size.agrees(expected, tolerance):
        return
    known = volume.levels if levels is None else levels
    fitting = [x for x in known if x.voxel_size and x.voxel_size.agrees(expected, tolerance)]
    if fitting:
        remedy = f"level {fitting[0]} fits: use --level {fitting[0].index}"
    elif len(known) > 1:
        remedy = (
            f"no level fits ({'; '.join(map(str, known))}); resample the volume, or correct a "
            f"wrong size with {state}"
        )
    else:
        remedy = f"resample the volume, or correct a wrong size with {state}"
    raise VoxelSizeError(
        f"the voxels of {name} are {volume.voxel_size}, and the network was trained on "
        f"{expected}; {remedy}"
    )
