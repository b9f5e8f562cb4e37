"""Sweeping what a killed process left half-written, of ours and of the library that writes chunks.

Only local stores have such files; object stores show whole objects only.
"""

from __future__ import annotations

import os
from pathlib import Path

from stitchsafe.volumes import PARTIAL, Place

__all__ = ["sweep"]

_LEFTOVERS = (PARTIAL, ".__lock")


def sweep(store: Place) -> int:
    """Remove partial files below a local store, of which no process may be writing any.

    What is reached by links is left alone: it is not ours.

    Returns
    -------
    int
        How many there were.
    """
    if store.local is None:
        return 0
    swept = 0
    for folder, _, names in os.walk(store.local, followlinks=False):
        for name in names:
            if name.endswith(_LEFTOVERS):
                Path(folder, name).unlink(missing_ok=True)
                swept += 1
    return swept
