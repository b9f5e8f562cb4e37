"""The bundled models as a user chooses among them: picture, voxel size, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QComboBox, QFileDialog

from stitchsafe.bundled import models_root
from stitchsafe.napari_plugin._settings import recall, remember

__all__ = ["BundledModel", "ModelChoice", "bundled", "known_verdict", "remember_verdict"]

_PICTURE = 64


@dataclass(frozen=True)
class BundledModel:
    """A model that comes with stitchsafe.

    Parameters
    ----------
    name, description
        As its card says.
    axes
        What it runs over.
    voxel_size
        What it was trained on, for people.
    picture
        A file.
    """

    name: str
    description: str
    axes: str
    voxel_size: str
    picture: Path

    def describe(self, verdict: str = "") -> str:
        return f"{self.name}: {self.axes}, {self.voxel_size}, {verdict or 'not checked yet'}"


def bundled() -> list[BundledModel]:
    """All of them, by name."""
    found = []
    for file in sorted(models_root().glob("*/config.yaml")):
        config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        said = config.get("input", {})
        size = said.get("voxel_size")
        shown = f"{' x '.join(f'{v:g}' for v in size)} {said.get('unit', '')}" if size else ""
        found.append(
            BundledModel(
                file.parent.name,
                str(config.get("description", "")),
                str(said.get("axes", "")),
                shown.strip() or "any voxel size",
                file.with_name("picture.png"),
            )
        )
    return found


def known_verdict(model: str) -> str:
    """What check has said of a bundled model, if it has."""
    return recall(_key(model))


def remember_verdict(model: str, answer: dict[str, Any]) -> None:
    """Keep what check says of a bundled model; it holds for this version."""
    if model in {each.name for each in bundled()}:
        remember(_key(model), str(answer["verdict"]))


def _key(model: str) -> str:
    return f"verdicts/{metadata.version('stitchsafe')}/{model}"


class ModelChoice(QComboBox):
    """The bundled models, with their pictures, or any other by its path or name."""

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setIconSize(QSize(_PICTURE // 2, _PICTURE // 2))
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(16)
        self.models = {model.name: model for model in bundled()}
        for model in self.models.values():
            self.addItem(_icon(model.picture), model.name, model.name)
        self.refresh()
        self.setToolTip(
            "A bundled model, or the path of a model folder, a bioimage.io package or an ONNX file"
        )

    @property
    def model(self) -> str:
        return str(self.currentText()).strip()

    def choose(self, model: str) -> None:
        place = self.findText(model)
        if place >= 0:
            self.setCurrentIndex(place)
        else:
            self.setEditText(model)

    def browse(self) -> None:
        """Ask for a file."""
        path, _ = QFileDialog.getOpenFileName(
            self, "A model", "", "Models (*.onnx *.zip *.yaml *.pt2);;All (*)"
        )
        if path:
            self.choose(str(Path(path).parent) if path.endswith("config.yaml") else path)

    def description(self) -> str:
        """What is known of the model that is chosen."""
        model = self.models.get(self.model)
        return "" if model is None else model.describe(known_verdict(model.name))

    def refresh(self) -> None:
        """Show what check has said meanwhile."""
        for place in range(self.count()):
            model = self.models[str(self.itemData(place))]
            said = f"{model.describe(known_verdict(model.name))}\n{model.description}"
            self.setItemData(place, said, Qt.ItemDataRole.ToolTipRole)


def _icon(picture: Path) -> QIcon:
    pixmap = QPixmap(str(picture))
    if pixmap.isNull():
        return QIcon()
    return QIcon(
        pixmap.copy(0, 0, min(pixmap.width(), pixmap.height()), pixmap.height()).scaled(
            _PICTURE,
            _PICTURE,
            Qt.AspectRatioMode.KeepAspectRatio,
            Qt.TransformationMode.SmoothTransformation,
        )
    )
