"""From provisional labels, which count anew in each window, to final ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["relabel"]

_BATCH = 1 << 13


def relabel(labels: NDArray[Any], lookup: NDArray[Any]) -> NDArray[Any]:
    """Replace each label by what the table holds at its place.

    Parameters
    ----------
    labels
        Local labels of one window, of any shape.
    lookup
        Final id by local label, as merging left it.

    Raises
    ------
    ValueError
        If a label lies outside the table: labels and table are not of the same window.
    """
    if labels.size and int(labels.max()) >= len(lookup):
        raise ValueError(f"label {int(labels.max())} is outside a table of {len(lookup)}")
    replaced = np.empty(labels.shape, lookup.dtype)
    source, target = np.ascontiguousarray(labels).reshape(-1), replaced.reshape(-1)
    # Of each label take makes an index of 8 bytes: few at a time stay within the cache.
    for begin in range(0, source.size, _BATCH):
        part = slice(begin, begin + _BATCH)
        np.take(lookup, source[part], out=target[part], mode="clip")
    return replaced
