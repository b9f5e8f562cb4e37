"""Which letter each axis of a stored array has: what the user says, else the file, else a default.

The letters are t, c, z, y, x in any order, each at most once, y and x always among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from stitchsafe.errors import VolumeError

__all__ = ["DEFAULT_AXES", "pick", "resolve_axes"]

DEFAULT_AXES = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}
_NAMES = {"time": "t", "channel": "c", "channels": "c", "depth": "z", "height": "y", "width": "x"}


def resolve_axes(
    shape: Sequence[int],
    *,
    given: str | None,
    stated: Sequence[str] | None,
    name: str,
) -> tuple[str, tuple[str, ...]]:
    """Letters of the axes of an array of this shape, and notes on what was assumed.

    Parameters
    ----------
    shape
        Of the stored array.
    given
        What the user says; wins.
    stated
        What the file says, one name per axis; None where it says nothing.
    name
        How to call the array in errors.

    Raises
    ------
    VolumeError
        The letters are unknown, repeated, too few or too many, or lack y or x.
    """
    ndim = len(shape)
    dimensions = " x ".join(map(str, shape)) or "no dimension"
    if given is not None:
        given = given.strip().lower()
        notes: tuple[str, ...] = ()
        if stated is not None and _letters(stated) not in (None, given):
            notes = (f"the file names its axes {''.join(stated)}; taken as {given}, as asked",)
        return _checked(given, ndim, f"the axes {given!r} do not fit {name}", dimensions), notes
    if stated is not None:
        letters = _letters(stated)
        if letters is None:
            raise VolumeError(
                f"the axes of {name} are named {', '.join(map(repr, stated))}, which stitchsafe "
                "does not know; say what they are with --axes, letters of tczyx"
            )
        what = f"the axes {letters!r} that {name} states do not fit it"
        return _checked(letters, ndim, what, dimensions), ()
    if ndim not in DEFAULT_AXES:
        raise VolumeError(
            f"{name} has {ndim} axes ({dimensions}), and an image has 2 to 5; choose another array"
        )
    assumed = DEFAULT_AXES[ndim]
    return assumed, (
        f"the file does not name its axes ({dimensions}); taken as {assumed}, "
        "say otherwise with --axes",
    )


def _letters(names: Sequence[str]) -> str | None:
    lowered = [str(name).strip().lower() for name in names]
    letters = [_NAMES.get(name, name) for name in lowered]
    return "".join(letters) if all(len(x) == 1 and x in "tczyx" for x in letters) else None


def _checked(letters: str, ndim: int, what: str, dimensions: str) -> str:
    example = DEFAULT_AXES.get(ndim, "zyx")
    unknown = sorted(set(letters) - set("tczyx"))
    if unknown:
        reason = f"{', '.join(unknown)} is not one of t, c, z, y, x"
    elif len(set(letters)) != len(letters):
        reason = "a letter is repeated"
    elif len(letters) != ndim:
        reason = f"it has {ndim} axes ({dimensions}), not {len(letters)}"
    elif not set("yx") <= set(letters):
        reason = "an image has y and x"
    else:
        return letters
    raise VolumeError(f"{what}: {reason}; name each axis once, for example --axes {example}")


def pick(wanted: int | None, size: int, *, kind: str, option: str, name: str) -> int | None:
    """Check an index along t or c; None stays None.

    Raises
    ------
    VolumeError
        The index is out of range; the message says what there is.
    """
    if wanted is None or 0 <= wanted < size:
        return wanted
    there = f"{kind} 0 only" if size == 1 else f"{kind}s 0 to {size - 1}"
    raise VolumeError(f"{kind} {wanted} is not in {name}, which has {there}; choose with {option}")
