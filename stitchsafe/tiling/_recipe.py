"""Recipe and schedule: what may change bits, and what may not.

Floating point sums depend on their order, and a convolution's order of summation on the shape of
its input, the number of threads and the memory layout. All of that is the :class:`Recipe`: fixed
once, stored with the result, compared on resume. The :class:`Schedule` says in which portions the
work is done; by construction nothing in it reaches the arithmetic.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal

from pydantic import TypeAdapter

from stitchsafe.coordinates import CellGrid, Roi, ceil_to
from stitchsafe.errors import PlanError
from stitchsafe.precision import PRECISIONS, Precision
from stitchsafe.tiling._fields import Field
from stitchsafe.tiling._skipping import Skipping

__all__ = ["BorderRule", "Normalization", "Recipe", "Schedule"]

BorderRule = Literal["reflect", "edge", "zero", "crop"]


@dataclass(frozen=True, slots=True)
class Normalization:
    """Intensity rule, with statistics of the whole volume, per channel.

    ``percentile`` maps the two percentiles to 0 and 1, ``zscore`` mean and standard deviation to 0
    and 1, ``none`` only converts the type. ``steps`` does what `tensors` list, one entry for each
    input of the network: its channels, and its steps in order.
    """

    kind: Literal["none", "zscore", "percentile", "steps"] = "none"
    percentiles: tuple[float, float] = (1.0, 99.0)
    tensors: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """All that may change bits of a result.

    Parameters
    ----------
    network, weights
        Name of the network and digest of its architecture and weights.
    extent, roi
        Shape of the volume and the part of it that is predicted.
    tile_shape, halo
        Output of one forward pass and what it reads beyond, (before, after) per axis.
    cell_shape
        Whole tiles that are computed, written and committed together: the clustering window where
        labels are made. Chunks of the output are cells.
    outputs
        Name and channels of each field of the network.
    labels
        Settings of the instances, or None where only fields are made.
    border, normalization, nan
        How the volume is extended, scaled, and what becomes of NaN.
    device, precision, layout, threads
        How a forward pass is carried out. Which of several devices of one model is no matter.
    build, processor
        The library that runs the network with its version, and the model of the processor, or of
        the device where passes run on one, since kernels differ.
    exact
        Whether stitching is exact for this network.
    scales
        Elements per voxel of each field, per axis, as ``"1/2"``; empty where all are 1.
    skipping
        Which cells a mask leaves out; None without a mask.
    finishing
        For each output the steps that its field goes through once all of it is known; empty where
        there are none.
    spilled
        Fields that lie in scratch until what labels need of all of them is decided; empty where
        labels need nothing, or the result keeps these fields as they are computed.
    field_type
        What fields that are kept are rounded to; None where they are kept as they are computed.
    """

    network: str
    weights: str
    extent: tuple[int, ...]
    roi: Roi
    tile_shape: tuple[int, ...]
    halo: tuple[tuple[int, int], ...]
    cell_shape: tuple[int, ...]
    outputs: tuple[tuple[str, int], ...]
    save_fields: bool
    labels: dict[str, Any] | None
    border: BorderRule
    normalization: Normalization
    nan: Literal["refuse", "zero", "keep"]
    device: str
    precision: str
    layout: str
    threads: int
    build: str
    processor: str
    seed: int
    exact: bool = True
    scales: tuple[tuple[str, ...], ...] = ()
    skipping: Skipping | None = None
    finishing: tuple[tuple[dict[str, Any], ...], ...] = ()
    spilled: tuple[str, ...] = ()
    field_type: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PlanError(
                f"the precision {self.precision!r} is not known; it is one of "
                f"{', '.join(PRECISIONS)}"
            )
        for cell, tile in zip(self.cell_shape, self.tile_shape, strict=True):
            if cell < tile or cell % tile:
                raise PlanError(
                    f"a cell of shape {self.cell_shape} does not hold whole tiles of shape "
                    f"{self.tile_shape}; take multiples of the tile"
                )
        if not Roi.whole(self.extent).contains(self.roi) or self.roi.size == 0:
            raise PlanError(
                f"the region {self.roi} is empty or leaves the volume of shape {self.extent}"
            )

    def to_json(self) -> dict[str, Any]:
        dumped: dict[str, Any] = _recipes().dump_python(self, mode="json")
        return dumped

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Recipe:
        return _recipes().validate_python(content)

    @property
    def fingerprint(self) -> str:
        """Digest of the recipe."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Recipe) -> list[str]:
        """What differs, each as ``name: mine, not theirs``; of mappings their entries."""
        found: list[str] = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine == theirs:
                continue
            if isinstance(mine, dict) and isinstance(theirs, dict):
                found += [
                    f"{field.name}.{key}: {mine.get(key)!r}, not {theirs.get(key)!r}"
                    for key in sorted({*mine, *theirs})
                    if mine.get(key) != theirs.get(key)
                ]
            else:
                found.append(f"{field.name}: {_shown(mine)}, not {_shown(theirs)}")
        return found

    @property
    def fields(self) -> tuple[Field, ...]:
        """Where the elements of each output lie."""
        scales = self.scales or (("1",) * len(self.extent),) * len(self.outputs)
        return tuple(
            Field(name, channels, tuple(map(Fraction, scale)))
            for (name, channels), scale in zip(self.outputs, scales, strict=True)
        )

    @property
    def finished(self) -> dict[str, tuple[Field, tuple[dict[str, Any], ...]]]:
        """The fields that steps with statistics of the whole follow, with these steps."""
        if not self.finishing:
            return {}
        return {
            field.name: (field, steps)
            for field, steps in zip(self.fields, self.finishing, strict=True)
            if steps
        }

    @property
    def raw(self) -> tuple[Field, ...]:
        """The fields that lie in scratch until something is decided of the whole of them."""
        return tuple(each for each in self.fields if each.name in {*self.finished, *self.spilled})

    @property
    def classes(self) -> int:
        """How many classes there are, where labels are classes; 0 where they are instances."""
        labels = self.labels or {}
        if labels.get("source") != "argmax" or labels.get("parts", True):
            return 0
        return dict(self.outputs)[labels["class_field"]]

    def skips(self, cell: Roi) -> bool:
        """Whether a mask leaves this cell out: it is 0 in labels and fields."""
        return self.skipping is not None and self.skipping.skips(self.cells.index(cell))

    @property
    def arithmetic(self) -> Precision:
        """The type of the arithmetic."""
        return PRECISIONS[self.precision]

    @property
    def kept(self) -> str:
        """Type of the fields, and of what goes into the network."""
        return self.arithmetic.kept

    @property
    def saved_type(self) -> str:
        """Type of the fields in the result."""
        return self.field_type or self.kept

    @property
    def cells(self) -> CellGrid:
        """The cells of the ROI."""
        return CellGrid(self.roi, self.cell_shape)


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Skipping) else repr(value)


@functools.cache  # to make one takes longer than all that it is then asked for
def _recipes() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


@dataclass(frozen=True)
class Schedule:
    """In which portions the work is done; changes no bit of the result.

    Parameters
    ----------
    block_shape
        Voxels that are read, computed and committed together; whole cells.
    """

    block_shape: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, block_shape: Sequence[int] | None = None) -> Schedule:
        """A schedule for a recipe.

        A block that is longer than the volume covers the axis, whatever its length.

        Raises
        ------
        PlanError
            If a block does not hold whole cells.
        """
        shape = tuple(recipe.cell_shape if block_shape is None else block_shape)
        if len(shape) == len(recipe.cell_shape):
            shape = tuple(
                ceil_to(e, c) if b >= e else b
                for b, c, e in zip(shape, recipe.cell_shape, recipe.extent, strict=True)
            )
        if len(shape) != len(recipe.cell_shape) or any(
            b < c or b % c for b, c in zip(shape, recipe.cell_shape, strict=False)
        ):
            raise PlanError(
                f"blocks of shape {shape} do not hold whole cells of shape {recipe.cell_shape} "
                "(clustering windows, or chunks of the output); take multiples of it"
            )
        return cls(shape)

    def to_json(self) -> dict[str, Any]:
        return {"block_shape": list(self.block_shape)}
