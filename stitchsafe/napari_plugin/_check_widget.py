"""The panel that checks a model: verdict, what its tiles need, and what speaks against it."""

from __future__ import annotations

from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from stitchsafe.napari_plugin._canvas import free_layers_in_their_context
from stitchsafe.napari_plugin._models import ModelChoice, remember_verdict
from stitchsafe.napari_plugin._program import Ending, Program
from stitchsafe.napari_plugin._settings import recall, remember

__all__ = ["CheckWidget"]

_SIGNS = {"safe": "✓", "safe with consensus": "✓", "unsafe": "✗"}
_COLUMNS = ("layer", "op", "reason", "fix")


class CheckWidget(QWidget):
    """Tells whether a model can be stitched exactly, and why not."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.program = Program()
        self.model = ModelChoice()
        self.model.choose(recall("check/model", "neurites-em"))
        self.browse, self.button = QPushButton("…"), QPushButton("Check")
        self.browse.setFixedWidth(28)
        self.verdict = QLabel("not checked yet")
        self.verdict.setWordWrap(True)
        self.period, self.context, self.field = QLabel(), QLabel(), QLabel()
        self.warnings = QLabel()
        self.warnings.setWordWrap(True)
        self.breaks = QTableWidget(0, len(_COLUMNS))
        self.breaks.setHorizontalHeaderLabels(_COLUMNS)
        self.breaks.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.breaks.setWordWrap(True)
        self.breaks.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.breaks.horizontalHeader().setStretchLastSection(True)
        choice = QHBoxLayout()
        for widget in (self.model, self.browse, self.button):
            choice.addWidget(widget)
        form = QFormLayout()
        for name, widget in (
            ("verdict", self.verdict),
            ("period", self.period),
            ("context", self.context),
            ("receptive field", self.field),
            ("warnings", self.warnings),
        ):
            form.addRow(name, widget)
        box = QVBoxLayout(self)
        box.addLayout(choice)
        box.addLayout(form)
        box.addWidget(QLabel("what speaks against exact stitching"))
        box.addWidget(self.breaks)
        self.browse.clicked.connect(self.model.browse)
        self.button.clicked.connect(self.check)
        self.program.ended.connect(self._ended)
        self.destroyed.connect(self.program.end)
        free_layers_in_their_context(self.viewer, self)

    def check(self) -> None:
        """Check the model that is chosen."""
        if self.program.running:
            return
        remember("check/model", self.model.model)
        self.button.setEnabled(False)
        self.verdict.setText("checking")
        self.program.start(["check", self.model.model])

    def _ended(self, ending: Ending) -> None:
        self.button.setEnabled(True)
        if ending.answer is None:
            self.verdict.setText(ending.error or f"ended with code {ending.code}")
            show_error(self.verdict.text())
            return
        self._show(ending.answer)

    def _show(self, answer: dict[str, Any]) -> None:
        axes, verdict = answer["axes"], answer["verdict"]
        remember_verdict(str(answer["model"]), answer)
        self.verdict.setText(f"{_SIGNS.get(verdict, '')} {answer['model']}: {verdict}")
        self.period.setText(_by_axis(axes, answer["period"]))
        sides = [f"{before} + {after}" for before, after in answer["context"]]
        self.context.setText(_by_axis(axes, sides))
        self.field.setText(_by_axis(axes, answer["receptive_field"]))
        self.warnings.setText("\n".join(answer["warnings"]) or "none")
        self.breaks.setRowCount(len(answer["breaks"]))
        for row, found in enumerate(answer["breaks"]):
            for column, key in enumerate(_COLUMNS):
                item = QTableWidgetItem(str(found[key]))
                item.setToolTip(str(found[key]))
                self.breaks.setItem(row, column, item)
        self.breaks.resizeRowsToContents()


def _by_axis(axes: str, values: list[Any]) -> str:
    return ",  ".join(f"{axis} {value}" for axis, value in zip(axes, values, strict=False))
