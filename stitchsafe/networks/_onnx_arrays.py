"""Images in the layout and type that an input of an ONNX graph has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.networks._onnx_layout import OnnxTensor

__all__ = ["arranged"]


def arranged(image: NDArray[np.floating], own: OnnxTensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(channels, *space) in the layout of an input."""
    letters = "czyx" if own.ndim == 3 else "cyx"
    if "c" not in own.layout:
        image, letters = image[0], letters[1:]
    array = image.transpose([letters.index(c) for c in own.layout if c != "b"])
    if "b" in own.layout:
        array = np.expand_dims(array, own.layout.index("b"))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        array = np.rint(array).clip(limits.min, limits.max)
    return np.ascontiguousarray(array, dtype=dtype)
