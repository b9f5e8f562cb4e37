"""Layers leave a window in the OpenGL context that drew them.

napari frees at once what a removed layer was drawn with, in whichever OpenGL context is current:
often the one by which Qt composes the window, which shares its objects with the canvas's own. The
software renderers of Mesa (those of remote desktops and virtual machines) keep shaders by context,
and there unbind the canvas's vertex shader without noting it: the next paint but one reads address
0, and napari ends with all that was open in it. So the canvas's context is made current first.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QWidget

__all__ = ["free_layers_in_their_context"]


def free_layers_in_their_context(viewer: Any, widget: QWidget) -> None:
    """See to it for the viewer that a widget is docked in, for as long as the widget lives."""

    def make_current(event: Any = None) -> None:
        del event
        top = widget
        while top.parentWidget() is not None:  # `window` stops at a dock that floats
            top = top.parentWidget()
        for canvas in top.findChildren(QOpenGLWidget):
            canvas.makeCurrent()

    removing = viewer.layers.events.removing
    removing.connect(make_current)
    widget.destroyed.connect(lambda: removing.disconnect(make_current))
