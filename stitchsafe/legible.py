"""Text of others as it can be shown: what would steer a terminal is written out instead.

Names come from files of strangers. A control sequence in one could hide a line of the answer or
write another one in its place, and a mark of direction could turn it round.
"""

from __future__ import annotations

import unicodedata

__all__ = ["legible"]

_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, formats (of direction, of no width), halves of characters, breaks of lines."""


def legible(text: str, *, keeping: str = "") -> str:
    """The text with every character that steers in place of showing written as its number.

    Parameters
    ----------
    keeping
        Such characters that are wanted all the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keeping or unicodedata.category(character) not in _STEERING
        else character.encode("unicode_escape").decode()
        for character in text
    )
