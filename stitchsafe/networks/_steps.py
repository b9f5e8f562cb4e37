"""What is done to intensities before a network, and to its outputs after it, as configuration.

Steps are done in order, each to what the one before it gave. Those with statistics (`Zscore`,
`Percentiles`, `ClipPercentiles`) take them of the whole volume as the steps before left it,
per channel or over all channels of the tensor together. A step before the network may have them.
After it, those of `After` are done tile by tile; from the first one with statistics on, steps are
done once the whole field is known (`Finishing`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "After",
    "Before",
    "Binarize",
    "Clip",
    "ClipPercentiles",
    "Finishing",
    "Integer",
    "Linear",
    "Percentiles",
    "Sigmoid",
    "Softmax",
    "Zscore",
]

Percentile = Annotated[float, Field(ge=0, le=100)]
PerChannel = Annotated[tuple[float, ...], Field(min_length=1)]
"""One number for all channels, or one per channel."""


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Zscore(_Step):
    """``(value - mean) / (std + eps)``."""

    kind: Literal["zscore"] = "zscore"
    together: bool = False
    eps: float = Field(0.0, ge=0)


class Percentiles(_Step):
    """``(value - a) / (b - a + eps)``, `a` and `b` the values of two percentiles."""

    kind: Literal["percentiles"] = "percentiles"
    low: Percentile = 0.0
    high: Percentile = 100.0
    together: bool = False
    eps: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Percentiles:
        if not self.low < self.high:
            raise ValueError(f"percentile {self.low} is not below {self.high}")
        return self


class Linear(_Step):
    """``value * gain + offset``."""

    kind: Literal["linear"] = "linear"
    gain: PerChannel = (1.0,)
    offset: PerChannel = (0.0,)


class Clip(_Step):
    """Values below `low` become `low`, values above `high` become `high`."""

    kind: Literal["clip"] = "clip"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Clip:
        _refuse_no_bounds(self.low, self.high)
        return self


class ClipPercentiles(_Step):
    """As `Clip`, with bounds that are the values of percentiles."""

    kind: Literal["clip_percentiles"] = "clip_percentiles"
    low: Percentile | None = None
    high: Percentile | None = None
    together: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> ClipPercentiles:
        _refuse_no_bounds(self.low, self.high)
        return self


def _refuse_no_bounds(low: float | None, high: float | None) -> None:
    given = [bound for bound in (low, high) if bound is not None]
    if not given or given != sorted(given):
        raise ValueError(f"the bounds {low} and {high} bound nothing")


class Binarize(_Step):
    """1 above the threshold, else 0."""

    kind: Literal["binarize"] = "binarize"
    threshold: PerChannel


class Sigmoid(_Step):
    """``1 / (1 + exp(-value))``."""

    kind: Literal["sigmoid"] = "sigmoid"


class Softmax(_Step):
    """Softmax over the channels."""

    kind: Literal["softmax"] = "softmax"


class Integer(_Step):
    """Conversion to a type of whole numbers and back: what follows the point is cut off."""

    kind: Literal["integer"] = "integer"
    dtype: Literal["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


Before = Annotated[
    Zscore | Percentiles | ClipPercentiles | Linear | Clip | Binarize | Sigmoid | Integer,
    Field(discriminator="kind"),
]
After = Annotated[
    Linear | Clip | Binarize | Sigmoid | Softmax | Integer, Field(discriminator="kind")
]
Finishing = Annotated[
    Zscore | Percentiles | ClipPercentiles | Linear | Clip | Binarize | Sigmoid | Integer,
    Field(discriminator="kind"),
]
