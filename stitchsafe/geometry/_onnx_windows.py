"""Windowed ONNX operators: convolutions, pooling, resizing, padding and slicing.

Explicit paddings, and those that ONNX lets follow from the size (``auto_pad``, ``output_shape``),
become numbers for the present size; whether they agree from size to size is for the analysis to
find. Where a resize reads is computed in exact fractions and, as onnxruntime does, in float32: if
the two differ at this size, the size is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stitchsafe.geometry._axis import Taps, drops_remainder
from stitchsafe.geometry._graph import AxisStep, Kind
from stitchsafe.geometry._layout import Breaking, Value
from stitchsafe.geometry._onnx_call import Call, Known
from stitchsafe.geometry._windows import (
    Drift,
    SizeRefusal,
    linear_taps,
    padding,
    strided,
    transposed,
)

if TYPE_CHECKING:
    from onnx import NodeProto, TypeProto

__all__ = [
    "convolution", "pad", "pool", "resize", "slices", "split", "transposed_convolution",
    "without_idle_windows",
]  # fmt: skip

_LONGEST = 4096
_FIXED = "use operators whose settings do not follow the size of the input"


def convolution(call: Call) -> Value:
    value, weight = call.only, call.operands[1]
    assert weight is not None
    kernel = list(weight.shape[2:])
    return call.flow.local("conv", value, _windows(call, kernel), call.shape, mixes=[1])


def pool(call: Call) -> Value:
    kernel = [int(k) for k in call.attribute("kernel_shape")]
    return call.flow.local("pool", call.only, _windows(call, kernel), call.shape)


def without_idle_windows(
    node: NodeProto, given: Sequence[int], found: Mapping[str, TypeProto]
) -> None:
    """Take from a pooling's sizes the window of ``ceil_mode`` that would read padding alone.

    onnxruntime leaves it out in all operator sets, and onnx's inference in the newest only.
    """
    settings = {a.name: a for a in node.attribute}
    rounded = settings.get("ceil_mode")
    if rounded is None or not rounded.i or "kernel_shape" not in settings:
        return
    n = len(settings["kernel_shape"].ints)
    strides = list(settings["strides"].ints) if "strides" in settings else [1] * n
    pads = list(settings["pads"].ints) if "pads" in settings else [0] * n
    for name in node.output:
        if name in found:
            for dim, size, stride, before in zip(
                found[name].tensor_type.shape.dim[2:], given[2:], strides, pads, strict=False
            ):
                if dim.dim_value and (dim.dim_value - 1) * stride >= size + before:
                    dim.dim_value -= 1


def _windows(call: Call, kernel: list[int]) -> dict[int, AxisStep]:
    n, value = len(kernel), call.only
    strides, dilations = call.ints("strides", n, 1), call.ints("dilations", n, 1)
    pads = call.ints("pads", 2 * n, 0)
    automatic = call.attribute("auto_pad", "NOTSET")
    _refuse_endless(kernel, strides, dilations)
    steps = {}
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size, out = value.shape[2 + axis], call.shape[2 + axis]
        before = pads[axis] if automatic == "NOTSET" else 0
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            total = (out - 1) * s + (k - 1) * d + 1 - size
            if total < 0 and call.node.op_type != "Conv":
                raise SizeRefusal(f"padding {size} elements alike leaves a rest of {-total}")
            total = max(0, total)
            before = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        steps[2 + axis] = strided(size, out, k, s, before, d)
    return steps


def transposed_convolution(call: Call) -> Value:
    value, weight = call.only, call.operands[1]
    assert weight is not None
    kernel = list(weight.shape[2:])
    n = len(kernel)
    strides, dilations = call.ints("strides", n, 1), call.ints("dilations", n, 1)
    pads, extra = call.ints("pads", 2 * n, 0), call.ints("output_padding", n, 0)
    automatic = call.attribute("auto_pad", "NOTSET")
    derived = call.attribute("output_shape") or automatic in ("SAME_UPPER", "SAME_LOWER")
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        raise Breaking(
            f"onnxruntime takes no output_padding of {max(extra)} with strides {strides}",
            "take less than the stride",
        )
    _refuse_endless(kernel, strides, dilations)
    steps = {}
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size, out = value.shape[2 + axis], call.shape[2 + axis]
        full = (size - 1) * s + (k - 1) * d + 1 + extra[axis]
        before = pads[axis] if automatic == "NOTSET" else 0
        if derived:
            total = full - out
            if total < 0:
                raise Breaking(
                    f"it makes {out} elements, more than the {full} that its kernel covers",
                    "give pads and output_padding instead of output_shape",
                )
            before = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        steps[2 + axis] = transposed(out, k, s, before, d)
    return call.flow.local("transposed conv", value, steps, call.shape, mixes=[1])


def _refuse_endless(*settings: Sequence[int]) -> None:
    """Windows beyond any image, which only a damaged file has."""
    for numbers in settings:
        for number in numbers:
            if not 1 <= number <= _LONGEST:
                raise Breaking(
                    f"a window or stride of {number} elements is not analysed",
                    f"use windows of 1 to {_LONGEST} elements",
                )


# resizing


def resize(call: Call) -> Value:
    """Resize and the older Upsample, by scales or by sizes."""
    value, first = call.only, call.node.op_type == "Upsample" or call.opset < 11
    mode = call.attribute("mode", "nearest")
    how = "asymmetric" if first else call.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if first else call.attribute("nearest_mode", "round_prefer_floor")
    scales = _listed(call, 1 if first else 2, "scales")
    sizes = None if first else _listed(call, 3, "")
    axes = [a % value.rank for a in call.attribute("axes") or range(value.rank)]
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Breaking("it keeps the aspect ratio, so that factors follow the size", _FIXED)
    if scales is None and sizes is None:
        raise Breaking("neither its scales nor its sizes are known: not analysed", _FIXED)
    steps = {}
    for place, d in enumerate(axes):
        size, out = value.shape[d], call.shape[d]
        scale = None if scales is None else float(scales[place])
        if size == out and scale in (None, 1.0):
            continue
        if call.attribute("antialias", 0) and out < size:
            raise Breaking("a resize with antialiasing is not analysed", "pool before resizing")
        steps[d] = _resized(size, out, scale, mode, how, rounding)
    made = call.flow.local("resize", value, steps, call.shape)
    if how == "align_corners" and steps:
        raise Breaking(
            "align_corners makes the sampling depend on the size of the input",
            "use half_pixel or asymmetric coordinates with a factor of 2",
            keeps=made,
        )
    return made


def _listed(call: Call, place: int, name: str) -> list[float] | None:
    each = call.operand(place)
    if isinstance(each, Known) and each.shape == (0,):
        return None
    return call.numbers(place, name)


def _resized(
    size: int, out: int, scale: float | None, mode: str, how: str, rounding: str
) -> AxisStep:
    factor = _factor(size, out, scale)
    _refuse_endless([factor.numerator, factor.denominator])
    if how == "align_corners":
        how = "half_pixel"  # as which it lies, once mended
    if how not in _PLACES:
        raise Breaking(
            f"a resize with {how} coordinates depends on the size of the input or its crop",
            "use half_pixel or asymmetric coordinates",
        )
    if how == "pytorch_half_pixel" and out == 1:
        raise SizeRefusal("a resize to one element reads another place")
    if mode == "nearest":
        return _nearest(size, out, factor, scale, how, rounding)
    if mode == "linear":
        return _linear(size, out, factor, how)
    raise Breaking(
        f"{mode} resizing is not analysed", "resize by nearest neighbours or linearly by 2"
    )


def _factor(size: int, out: int, scale: float | None) -> Fraction:
    """Elements of the result per element, a whole number or one over it."""
    if scale is not None:
        asked = Fraction(scale).limit_denominator(64)
        if np.float32(float(asked)) != np.float32(scale) or 1 not in (
            asked.numerator,
            asked.denominator,
        ):
            raise Breaking(
                f"it resizes by {scale:g}, which is no whole factor",
                "use a whole factor, such as 2",
            )
        if size * asked != out:
            raise SizeRefusal(f"a resize of {size} elements by {asked} leaves a rest")
        return asked
    factor = Fraction(out, size)
    if 1 not in (factor.numerator, factor.denominator):
        raise Drift(size, out)
    return factor


_Place = Callable[[int, Fraction], Fraction]
_HALF = Fraction(1, 2)
_PLACES: dict[str, _Place] = {
    "asymmetric": lambda o, f: o / f,
    "half_pixel": lambda o, f: (o + _HALF) / f - _HALF,
    "pytorch_half_pixel": lambda o, f: (o + _HALF) / f - _HALF,
    "half_pixel_symmetric": lambda o, f: (o + _HALF) / f - _HALF,  # where nothing is cut off
    "tf_half_pixel_for_nn": lambda o, f: (o + _HALF) / f,
}
_ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda x: -((_HALF - x).__floor__()),
    "round_prefer_ceil": lambda x: (x + _HALF).__floor__(),
    "floor": lambda x: x.__floor__(),
    "ceil": lambda x: x.__ceil__(),
}


def _nearest(
    size: int, out: int, factor: Fraction, scale: float | None, how: str, rounding: str
) -> AxisStep:
    place, rounded = _PLACES[how], _ROUNDINGS[rounding]
    picks = [rounded(place(o, factor)) for o in range(factor.numerator)]
    true = np.add.outer(np.arange(-(-out // factor.numerator)) * factor.denominator, picks)
    edge = _HALF if rounding.startswith("round") else Fraction(0)
    if factor.denominator & (factor.denominator - 1) and any(
        (place(o, factor) + edge).denominator == 1 for o in range(factor.numerator)
    ):
        raise Breaking(
            f"nearest resizing by {factor} with {how} coordinates and {rounding} picks by rounding "
            "errors",
            "use half_pixel coordinates with round_prefer_floor, or a power of two",
        )
    held = np.float32(out / size if scale is None else scale)
    if not np.array_equal(true.ravel()[:out], _in_float32(out, held, how, rounding)):
        raise SizeRefusal(f"a resize from {size} to {out} elements rounds its places")
    return AxisStep(
        Taps(factor.denominator, tuple((pick,) for pick in picks)),
        out,
        lossy=drops_remainder(size, out, 1, factor.denominator, -picks[0], 1),
    )


def _in_float32(out: int, scale: np.float32, how: str, rounding: str) -> NDArray[np.int64]:
    """The elements that are picked, in the arithmetic that onnxruntime does."""
    half, index = np.float32(0.5), np.arange(out, dtype=np.float32)
    if how == "asymmetric":
        x = index / scale
    elif how == "tf_half_pixel_for_nn":
        x = (index + half) / scale
    else:
        x = (index + half) / scale - half
    if rounding == "floor":
        picked = np.floor(x)
    elif rounding == "ceil":
        picked = np.ceil(x)
    elif rounding == "round_prefer_ceil":
        picked = np.floor(x + half)
    else:
        picked = np.ceil(x - half)
    whole: NDArray[np.int64] = picked.astype(np.int64)
    return whole


def _linear(size: int, out: int, factor: Fraction, how: str) -> AxisStep:
    taps = linear_taps(factor, lambda phase: _PLACES[how](phase, factor))
    first = taps.taps[0]
    lossy = drops_remainder(size, out, len(first), taps.stride, -first[0], 1)
    return AxisStep(taps, out, lossy=lossy)


# ends


def pad(call: Call) -> Value:
    value, mode = call.only, call.attribute("mode", "constant")
    pads = call.numbers(1, "pads") or call.attribute("paddings")
    axes = call.numbers(3)
    dims = [int(a) % value.rank for a in axes] if axes is not None else list(range(value.rank))
    depths: dict[str, int | None] = {"constant": None, "reflect": 1, "edge": 0}
    if not isinstance(pads, list) or len(pads) != 2 * len(dims):
        raise Breaking("its pads are not known: not analysed", _FIXED)
    if mode not in depths:
        raise Breaking(
            f"{mode} padding (circular) reads at the other end of the whole input",
            "use zero, reflect or edge padding",
        )
    steps = {}
    for place, d in enumerate(dims):
        before, after = int(pads[place]), int(pads[place + len(dims)])
        if not before and not after:
            continue
        depth = depths[mode]
        if depth is not None and min(before, after) < 0:
            raise Breaking(f"{mode} padding with negative sizes is not analysed", "slice instead")
        if mode == "reflect" and max(before, after) >= value.shape[d]:
            raise SizeRefusal(f"{value.shape[d]} elements cannot be reflected {before}, {after}")
        if not value.space([d]):
            call.notes.append(f"{d}: {before} {after}")
        steps[d] = padding(value.shape[d], call.shape[d], before, after, depth)
    return call.flow.local("pad", value, steps, call.shape)


def slices(call: Call) -> Value:
    value = call.only
    starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
    if starts is None or ends is None:
        raise Breaking("its bounds are not known: not analysed", _FIXED)
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    strides = call.numbers(4) or [1] * len(starts)
    steps = {}
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        d = int(axis) % value.rank
        size, out = value.shape[d], call.shape[d]
        first, _, step = slice(int(start), int(end), int(stride)).indices(size)
        if step < 0 and value.space([d]):
            raise Breaking(
                "it turns the whole of an axis round (a flip)", "leave it out of the network"
            )
        # Along channels only the number that is left counts for the map.
        steps[d] = AxisStep(Taps.window(1, max(1, step), -first), out)
        if not value.space([d]):
            call.notes.append(f"{d}: {first} {step}")
    return call.flow.local(_cut(call), value, steps, call.shape)


def _cut(call: Call) -> Kind:
    """Crops of space are the map's to tell, and left out of the program; those of channels not."""
    return "view" if call.notes else "crop"


def split(call: Call) -> list[Value]:
    value, d = call.only, call.axis(0)
    found, start = [], 0
    for place in range(len(call.shapes)):
        shape = call.result(place)
        step = AxisStep(Taps.window(1, 1, -start), shape[d])
        if not value.space([d]):
            call.notes.append(f"{d}: {start}")
        found.append(call.flow.local(_cut(call), value, {d: step}, shape))
        start += shape[d]
    return found
