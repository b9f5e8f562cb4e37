"""Processing steps of a description as steps of ours: by name, all else refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stitchsafe.errors import ModelError
from stitchsafe.networks._config import SkippedConfig
from stitchsafe.networks._description import Processing, Tensor
from stitchsafe.networks._steps import (
    After,
    Before,
    Binarize,
    Clip,
    ClipPercentiles,
    Finishing,
    Integer,
    Linear,
    Percentiles,
    Sigmoid,
    Softmax,
    Zscore,
)

__all__ = ["StepsAfter", "steps_after", "steps_before"]

_KNOWN = frozenset(
    {
        "binarize", "clip", "ensure_dtype", "fixed_zero_mean_unit_variance", "scale_linear",
        "scale_mean_variance", "scale_range", "sigmoid", "softmax", "zero_mean_unit_variance",
    }
)  # fmt: skip
Numbers = float | tuple[float, ...]


class _Given(BaseModel):
    """All that any of the steps takes, by the names that descriptions use."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    axes: tuple[str, ...] | str | None = None
    axis: str | None = None
    mode: str | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    gain: Numbers = 1.0
    offset: Numbers = 0.0
    threshold: Numbers | None = None
    min: float | None = None
    max: float | None = None
    min_percentile: float | None = None
    max_percentile: float | None = None
    eps: float = Field(1e-6, ge=0)
    reference_tensor: str | None = None
    dtype: str = "float32"


def steps_before(tensor: Tensor, origin: object) -> tuple[Before, ...]:
    """Preprocessing of an input.

    Raises
    ------
    ModelError
        If a step is unknown, or cannot be done with statistics of the whole volume.
    """
    found: list[Before] = []
    for each in tensor.preprocessing:
        step = _step(each, tensor, origin)
        if isinstance(step, Softmax):
            raise _refused(each, tensor, origin, "mixes the channels of an input")
        if step is not None:
            found.append(step)
    return tuple(found)


@dataclass(frozen=True)
class StepsAfter:
    """Postprocessing of an output.

    Parameters
    ----------
    pointwise
        What is done tile by tile.
    finishing
        What follows when the whole field is known: the first of it takes statistics of that field.
    skipped
        What is left out, with the reason, where it cannot be done.
    """

    pointwise: tuple[After, ...] = ()
    finishing: tuple[Finishing, ...] = ()
    skipped: SkippedConfig | None = None


def steps_after(tensor: Tensor, origin: object) -> StepsAfter:
    """Postprocessing of an output, and what of it is left out.

    A step that cannot be done is left out with all that follow it, so that what remains is what the
    description gives up to there; and with those before it that need the whole field, since a
    field that is not what is described had better be the network's.
    """
    found: list[After | Finishing] = []
    whole, reason = None, ""
    for place, each in enumerate(tensor.postprocessing):
        try:
            step = _step(each, tensor, origin)
        except _UndoneStepError as error:
            step, reason = None, error.reason
        else:
            if step is None:
                continue
            if whole is not None and isinstance(step, Softmax):
                reason = "mixes the channels of a field after statistics of the whole of it"
            elif whole is None and isinstance(step, Zscore | Percentiles | ClipPercentiles):
                whole = (place, len(found))
        if step is None or reason:
            begin, kept = whole or (place, len(found))
            names = tuple(later.id for later in tensor.postprocessing[begin:])
            if whole is not None:
                reason = f"would come before {each.id}, which {reason}"
            skipped = SkippedConfig(output=tensor.id, steps=names, reason=reason)
            return StepsAfter(_pointwise(found[:kept]), skipped=skipped)
        found.append(step)
    kept = len(found) if whole is None else whole[1]
    return StepsAfter(_pointwise(found[:kept]), _finishing(found[kept:]))


def _pointwise(steps: Sequence[After | Finishing]) -> tuple[After, ...]:
    return tuple(
        step for step in steps if not isinstance(step, Zscore | Percentiles | ClipPercentiles)
    )


def _finishing(steps: Sequence[After | Finishing]) -> tuple[Finishing, ...]:
    return tuple(step for step in steps if not isinstance(step, Softmax))


class _UndoneStepError(ModelError):
    """A step that is sound, and not done here: refused before the network, left out after it."""

    def __init__(self, each: Processing, tensor: Tensor, origin: object, reason: str) -> None:
        super().__init__(
            f"{origin}: {each.id!r} of the tensor {tensor.id!r} {reason}; scale the volume "
            "beforehand, and leave the step out of the description"
        )
        self.reason = reason


def _step(each: Processing, tensor: Tensor, origin: object) -> Before | Softmax | None:
    """The step; None for one that changes nothing here."""
    if each.id not in _KNOWN:
        raise _UndoneStepError(each, tensor, origin, "is no processing step that is known here")
    try:
        given = _Given.model_validate(each.kwargs)
        return _made(each, given, tensor, origin)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise _refused(each, tensor, origin, f"has {place}: {problem['msg']}") from error


def _made(
    each: Processing, given: _Given, tensor: Tensor, origin: object
) -> Before | Softmax | None:
    name = each.id
    fixed = name == "zero_mean_unit_variance" and given.mode == "fixed"
    if name == "fixed_zero_mean_unit_variance" or fixed:
        _along_channels(each, given, tensor, origin)
        means, stds = _numbers(given.mean), _numbers(given.std)
        if not means or len(means) != len(stds) or min(stds) <= 0:
            raise _refused(each, tensor, origin, f"has the mean {given.mean} and std {given.std}")
        if fixed:  # which divides by std + eps
            stds = tuple(std + given.eps for std in stds)
        gains = tuple(1 / std for std in stds)
        return Linear(gain=gains, offset=tuple(-m * g for m, g in zip(means, gains, strict=True)))
    if name == "zero_mean_unit_variance":
        return Zscore(together=_together(each, given, tensor, origin), eps=given.eps)
    if name == "scale_range":
        if given.reference_tensor not in (None, tensor.id):
            reason = f"takes the percentiles of {given.reference_tensor!r}, another tensor"
            raise _UndoneStepError(each, tensor, origin, reason)
        return Percentiles(
            low=_or(given.min_percentile, 0.0),
            high=_or(given.max_percentile, 100.0),
            together=_together(each, given, tensor, origin),
            eps=given.eps,
        )
    if name == "scale_linear":
        _along_channels(each, given, tensor, origin)
        return Linear(gain=_numbers(given.gain), offset=_numbers(given.offset))
    if name == "clip":
        return _clip(each, given, tensor, origin)
    if name == "binarize":
        _along_channels(each, given, tensor, origin)
        return Binarize(threshold=_numbers(given.threshold))
    if name == "sigmoid":
        return Sigmoid()
    if name == "softmax":
        if given.axis not in (None, "channel"):
            raise _refused(each, tensor, origin, f"runs along {given.axis!r}, not over channels")
        return Softmax()
    if name == "ensure_dtype":
        # Arithmetic here is in double precision and rounded once, to the network's own type.
        if given.dtype.startswith(("float", "double")):
            return None
        return Integer.model_validate({"dtype": given.dtype})
    assert name == "scale_mean_variance"
    reason = f"takes the mean and deviation of {given.reference_tensor!r}, another tensor"
    raise _UndoneStepError(each, tensor, origin, reason)


def _clip(
    each: Processing, given: _Given, tensor: Tensor, origin: object
) -> Clip | ClipPercentiles:
    if given.min_percentile is None and given.max_percentile is None:
        return Clip(low=given.min, high=given.max)
    if given.min is not None or given.max is not None:
        raise _refused(each, tensor, origin, "mixes values and percentiles")
    return ClipPercentiles(
        low=given.min_percentile,
        high=given.max_percentile,
        together=_together(each, given, tensor, origin),
    )


def _together(each: Processing, given: _Given, tensor: Tensor, origin: object) -> bool:
    """Whether statistics run over all channels; they always run over the whole of space."""
    letters = {axis.name: axis.letter for axis in tensor.axes}
    letters |= {letter: letter for letter in tensor.layout}
    if given.axes is None:
        return True
    unknown = [axis for axis in given.axes if axis not in letters]
    if unknown:
        raise _refused(each, tensor, origin, f"names the axis {unknown[0]!r}, which it has not")
    over = {letters[axis] for axis in given.axes}
    space = [letter for letter in tensor.layout if letter in "zyx"]
    if not over.issuperset(space):
        raise _refused(
            each, tensor, origin,
            f"takes statistics along {', '.join(given.axes)}, and not of the whole volume",
        )  # fmt: skip
    return "c" in over


def _along_channels(each: Processing, given: _Given, tensor: Tensor, origin: object) -> None:
    """Refuse numbers that are given along an axis of space."""
    many = any(
        isinstance(values, tuple) and len(values) > 1
        for values in (given.mean, given.std, given.gain, given.offset, given.threshold)
    )
    axis = given.axis
    if given.axes is not None and given.mode is None:
        # The older format names the axes that share a number; what is left has one each.
        left = [letter for letter in tensor.layout if letter not in (*given.axes, "b")]
        axis = "channel" if left in ([], ["c"]) else ",".join(left)
    if many and axis not in (None, "channel", "c"):
        raise _refused(each, tensor, origin, f"has numbers along {axis!r}, not per channel")


def _numbers(values: Numbers | None) -> tuple[float, ...]:
    if values is None:
        return ()
    flat = np.asarray(values, float).reshape(-1)
    return tuple(float(value) for value in flat)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _refused(each: Processing, tensor: Tensor, origin: object, what: str) -> ModelError:
    return ModelError(
        f"{origin}: {each.id!r} of the tensor {tensor.id!r} {what}, which is not done here; scale "
        "the volume beforehand, and leave the step out of the description"
    )
