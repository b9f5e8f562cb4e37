"""Values as people type them: sizes, byte counts, regions. Each fails with one line that helps."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from stitchsafe.errors import InputError

__all__ = [
    "parse_arguments",
    "parse_bandwidth",
    "parse_bytes",
    "parse_choices",
    "parse_counts",
    "parse_layouts",
    "parse_numbers",
    "parse_origin",
    "parse_roi",
    "parse_shape",
]

_WORD = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_WORDS = {"true": "True", "false": "False", "null": "None", "none": "None"}

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtp", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtp", start=1)},
}


def parse_bytes(text: str, option: str) -> int:
    """A number of bytes: ``8GB`` is 8·10⁹, ``500MiB`` is 500·2²⁰, and no unit means bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InputError(
            f"{option} {text!r} is not a size in bytes; write a number and a unit such as 8GB "
            "(10⁹) or 8GiB (2³⁰)"
        )
    count = int(float(match[1]) * factor)
    if count <= 0:
        raise InputError(f"{option} {text!r} is nothing; give at least some megabytes")
    return count


def parse_bandwidth(text: str, option: str) -> float | Literal["auto"]:
    """A positive number, or ``auto``."""
    if text.strip() == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{option} {text!r} is no bandwidth; write a positive number, or auto")
    return value


def parse_shape(text: str, option: str) -> tuple[int, ...]:
    """Voxels per spatial axis: ``64,128,128``."""
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", p) for p in parts):
        raise InputError(
            f"{option} {text!r} is not a shape; write one positive whole number per spatial axis, "
            "such as 64,128,128 (z,y,x) or 512,512 (y,x)"
        )
    return tuple(int(part) for part in parts)


def parse_origin(text: str, option: str) -> tuple[int, ...]:
    """A voxel, one whole number per spatial axis: ``0,16,16``."""
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"\s*-?\d+\s*", p) for p in parts):
        raise InputError(
            f"{option} {text!r} is no voxel; write one whole number per spatial axis, such as "
            "0,16,16 (z,y,x) or 0,16 (y,x)"
        )
    return tuple(int(part) for part in parts)


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers, one for each of several things: ``1,2``."""
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", part) for part in parts):
        raise InputError(
            f"{option} {text!r} is not a list of positive whole numbers; write them with commas, "
            "such as 1,2"
        )
    return tuple(int(part) for part in parts)


def parse_layouts(text: str, option: str) -> str | dict[str, str]:
    """Letters of axes for all tensors (``bczyx``), or by name (``image=byxc,scores=bcyx``)."""
    if "=" not in text:
        return text.strip()
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, layout = (each.strip() for each in part.rpartition("="))
        if not equals or not name or not layout or name in found:
            raise InputError(
                f"{option} {text!r} has {part.strip()!r}, which is not name=axes, or comes twice; "
                "write each tensor once, as in image=byxc,scores=bcyx"
            )
        found[name] = layout
    return found


def parse_numbers(text: str, option: str, example: str) -> tuple[float, ...]:
    """Positive numbers: ``0.3,0.1,0.1``."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(
            f"{option} {text!r} is not a list of positive numbers; write them with commas and no "
            f"spaces, such as {example}"
        )
    return values


def parse_roi(text: str, option: str) -> tuple[tuple[int | None, int | None], ...]:
    """Begin and end per spatial axis: ``0:64,128:512,:``; a side left out is the volume's."""
    bounds = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", part)
        if match is None:
            raise InputError(
                f"{option} {text!r} has {part.strip()!r}, which is not begin:end in voxels; write "
                "one range per spatial axis, such as 0:64,128:512,: (a lone colon is the whole "
                "axis)"
            )
        begin, end = (int(side) if side else None for side in match.groups())
        if end is not None and (begin or 0) >= end:
            raise InputError(
                f"{option} {text!r} has {part.strip()!r}, which is empty; the end must lie above "
                "the begin"
            )
        bounds.append((begin, end))
    if len(bounds) not in (2, 3):
        raise InputError(
            f"{option} {text!r} is not a region of a volume, which has two or three spatial axes; "
            "write one range for each of them, such as 0:64,128:512,:"
        )
    return tuple(bounds)


def parse_choices(text: str, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the known words, in the order given, each once: ``labels,fields``."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in known:
            raise InputError(
                f"{option} {text!r} has {word!r}, which is not known; choose from "
                f"{', '.join(known)}"
            )
    return words


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments as people type them, ``name=value``.

    A value is a Python literal (``3``, ``1e-3``, ``(2, 2)``, ``{'x': 1}``, ``True``, ``None``) or
    a plain word, which is text.

    Raises
    ------
    InputError
        If one has another form, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"--arg {text!r} is not name=value; write it as in --arg levels=3")
        if name in found:
            raise InputError(f"--arg gives {name!r} twice; give it once")
        found[name] = _value(name, value)
    return found


def _value(name: str, text: str) -> Any:
    if text in _NOT_WORDS:
        raise InputError(
            f"--arg {name}={text} could be a word or a value; write {name}={_NOT_WORDS[text]}, or "
            f"{name}=\"'{text}'\" for the word"
        )
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        if _WORD.fullmatch(text):
            return text
        raise InputError(
            f"--arg {name}={text} is no Python literal; write a number, a word, or as in "
            f"--arg \"{name}={{'x': 1}}\""
        ) from error
