"""A result in a window of its own, with the inspector beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stitchsafe.errors import InputError, MissingExtraError, StoreError
from stitchsafe.napari_plugin._result import Result, is_result

if TYPE_CHECKING:
    from stitchsafe.napari_plugin._inspector import SeamInspector

__all__ = ["open_viewer", "view"]


def view(out: str | Path) -> None:
    """Open a result in napari with the seam inspector docked, and wait until it is closed.

    Parameters
    ----------
    out
        A folder that `predict` has written.

    Raises
    ------
    StoreError
        If it is none.
    MissingExtraError
        If napari, or a Qt for it, is not installed.
    InputError
        If there is no screen.
    """
    if not is_result(out):
        raise StoreError(f"{out} is not a result of stitchsafe on this machine; check the path")
    Result.at(out)
    _require_napari()
    # This window has only our layers, which may be read in threads; for others it is a preference.
    os.environ.setdefault("NAPARI_ASYNC", "1")
    import napari

    _, inspector = open_viewer(out)
    inspector.measure()
    napari.run()


def open_viewer(out: str | Path) -> tuple[Any, SeamInspector]:
    """A viewer of a result, and the inspector that is docked in it."""
    import napari
    from napari.layers import Layer

    from stitchsafe.napari_plugin._inspector import SeamInspector
    from stitchsafe.napari_plugin._reader import result_layers

    layers = [Layer.create(*each) for each in result_layers(out)]
    viewer = napari.Viewer(title=f"stitchsafe: {out}")
    for layer in layers:
        viewer.add_layer(layer)
    inspector = SeamInspector(viewer)
    viewer.window.add_dock_widget(inspector, name="Seam inspector", area="right")
    return viewer, inspector


def _require_napari() -> None:
    try:
        import napari  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("napari", "napari") from error
    try:
        import qtpy.QtWidgets  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("a Qt for napari", "napari") from error
    screen = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screen):
        raise InputError(
            "there is no screen to open a window on (DISPLAY is not set); run it where there is "
            "one, or read the figures with stitchsafe seams"
        )
