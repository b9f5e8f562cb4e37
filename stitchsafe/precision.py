"""Number types that a network may compute in, and what follows from each.

Fields are kept in the type of arithmetic, or in float32 where that is a half type: rounding them
again would say more of the disk than of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "Precision", "precision_named", "precision_names"]


@dataclass(frozen=True, slots=True)
class Precision:
    """A floating point type.

    Parameters
    ----------
    name
        As torch and NumPy call it, and as recipes hold it.
    short
        As people type it.
    itemsize
        Bytes of a number.
    kept
        Type of the fields and of what goes into the network.
    tolerance
        How far one field may differ between two tile grids, relative to its largest value. Sums
        over other shapes run in another order, and so end on another neighbour: for the wide types
        the promise bounds what that amounts to; a half type rounds every layer's result to 11 or 8
        bits, one neighbour is 2⁻¹⁰ or 2⁻⁷ away, and eight of them are allowed for.
    """

    name: str
    short: str
    itemsize: int
    kept: str
    tolerance: float

    @property
    def half(self) -> bool:
        """Whether it has 16 bits."""
        return self.itemsize == 2


PRECISIONS = {
    each.name: each
    for each in (
        Precision("float64", "fp64", 8, "float64", 1e-12),
        Precision("float32", "fp32", 4, "float32", 1e-5),
        Precision("bfloat16", "bf16", 2, "float32", 8 * 2.0**-7),
        Precision("float16", "fp16", 2, "float32", 8 * 2.0**-10),
    )
}


def precision_named(text: str) -> Precision | None:
    """The type of a name, long or short; None where there is none."""
    return next((each for each in PRECISIONS.values() if text in (each.name, each.short)), None)


def precision_names() -> tuple[str, ...]:
    """All names, short ones first."""
    return (*(p.short for p in PRECISIONS.values()), *PRECISIONS)
