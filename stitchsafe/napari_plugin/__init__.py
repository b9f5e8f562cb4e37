"""The napari plugin: a reader of results, widgets to predict, check and inspect, and sample data.

It is thin. Whatever takes longer than one would feel is done by the program ``stitchsafe`` in a
process of its own, with the options that a person would type: so the window stays responsive, the
memory given is kept to, and a run that is cancelled, or whose window is closed, is one that the
same options resume. What is shown is read piece by piece, as it comes into view.

Nothing here is imported before napari asks for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "CheckWidget",
    "PredictWidget",
    "SeamInspector",
    "get_reader",
    "sample_disks",
    "sample_neurites",
    "sample_wrong_tiling",
    "view",
]

_HOMES = {
    "CheckWidget": "_check_widget",
    "PredictWidget": "_predict_widget",
    "SeamInspector": "_inspector",
    "get_reader": "_reader",
    "sample_disks": "_sample_data",
    "sample_neurites": "_sample_data",
    "sample_wrong_tiling": "_sample_data",
    "view": "_view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
