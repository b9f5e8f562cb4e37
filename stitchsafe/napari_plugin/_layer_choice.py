"""A choice among the layers of a viewer, kept up to date, or a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

__all__ = ["LayerChoice"]

_PATH = "a path or URL:"


class LayerChoice(QWidget):
    """A layer of some kind, or a path that is typed.

    Parameters
    ----------
    viewer
        Whose layers.
    wanted
        Which layers can be chosen.
    """

    changed = Signal()

    def __init__(self, viewer: Any, wanted: Callable[[Any], bool]) -> None:
        super().__init__()
        self._viewer, self._wanted = viewer, wanted
        self.layers = QComboBox()
        self.layers.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.path = QLineEdit()
        self.path.setPlaceholderText("OME-Zarr, Zarr, file.h5:raw, TIFF, NumPy")
        self.browse = QPushButton("…")
        self.browse.setFixedWidth(28)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        for widget in (self.layers, self.path, self.browse):
            box.addWidget(widget)
        self.layers.currentIndexChanged.connect(self._tell)
        self.path.editingFinished.connect(self.changed)
        self.browse.clicked.connect(self._browse)
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refresh)
        self.destroyed.connect(_disconnected(viewer, self._refresh))
        self._refresh()

    @property
    def layer(self) -> Any | None:
        """The layer that is chosen; None where it is a path."""
        return self.layers.currentData()

    def choose(self, layer: Any) -> None:
        for place in range(self.layers.count()):
            if self.layers.itemData(place) is layer:
                self.layers.setCurrentIndex(place)

    def _refresh(self, event: Any = None) -> None:
        del event
        before = self.layer
        by_path = before is None and (self.layers.count() > 1 or bool(self.path.text()))
        self.layers.blockSignals(True)
        self.layers.clear()
        for layer in self._viewer.layers:
            if self._wanted(layer):
                self.layers.addItem(layer.name, layer)
        self.layers.addItem(_PATH, None)
        self.layers.blockSignals(False)
        if before is not None:
            self.choose(before)
        elif by_path:
            self.layers.setCurrentIndex(self.layers.count() - 1)
        self._tell()

    def _tell(self) -> None:
        self.path.setVisible(self.layer is None)
        self.browse.setVisible(self.layer is None)
        self.changed.emit()

    def _browse(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "A Zarr folder (type a path for a file)")
        if path:
            self.path.setText(path)
            self.changed.emit()


def _disconnected(viewer: Any, callback: Any) -> Callable[[], None]:
    def disconnect() -> None:
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.disconnect(callback)

    return disconnect
