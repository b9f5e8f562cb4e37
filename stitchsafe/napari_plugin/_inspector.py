"""The seam inspector: measures a result, and brings the worst face one click away.

What is measured, and by whom, is the program's affair, in a process of its own. What is here shows
it: the grid, faces in the colour of their score, a table that ranks them, and for the one that is
chosen a picture across it beside the same across its control plane.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, StitchsafeError
from stitchsafe.napari_plugin._canvas import free_layers_in_their_context
from stitchsafe.napari_plugin._faces import FaceModel, Faces
from stitchsafe.napari_plugin._layer_choice import LayerChoice
from stitchsafe.napari_plugin._lazy import channel_of, levels_of, scale_of
from stitchsafe.napari_plugin._looking import look_at
from stitchsafe.napari_plugin._overlay import add_grid, add_heat, placed_like, remove
from stitchsafe.napari_plugin._pictures import cut_across, render
from stitchsafe.napari_plugin._planes import FaceScores
from stitchsafe.napari_plugin._program import Ending, Program
from stitchsafe.napari_plugin._reader import SOURCE, result_layers
from stitchsafe.napari_plugin._result import Result, is_result
from stitchsafe.napari_plugin._settings import recall, remember
from stitchsafe.napari_plugin._source import (
    axes_choices,
    copy_layer,
    finest,
    shape_of,
    source_of,
)

__all__ = ["SeamInspector"]

GRID_LAYER, FACE_LAYER = "seams: grid", "seams: faces"
_SIDE = 200


class SeamInspector(QWidget):
    """Shows where seams are, and what they look like."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.program = Program()
        self.faces: Faces | None = None
        self.model = FaceModel()
        self.source = LayerChoice(napari_viewer, _is_inspected)
        self.grid = QLineEdit(recall("seams/grid"))
        self.measure_button, self.cancel_button = QPushButton("Measure"), QPushButton("Cancel")
        self.show_grid, self.show_faces = QCheckBox("grid"), QCheckBox("faces by score")
        self.threshold = QDoubleSpinBox()
        self.bar, self.summary = QProgressBar(), QLabel("not measured yet")
        self.table = QTableView()
        self.seam_picture, self.control_picture = QLabel(), QLabel()
        self.seam_title, self.control_title = QLabel("at the seam"), QLabel("at its control")
        self._measured: Any = None
        self._scores: FaceScores | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        self._copying: Any = None
        self._asked = 0
        self._lay_out()
        self._connect()
        self._show_state()

    # What the user sees.

    def _lay_out(self) -> None:
        self.grid.setPlaceholderText("the result's own, or 96,96,96, or auto")
        self.threshold.setRange(0, 1e6)
        self.threshold.setDecimals(1)
        self.threshold.setKeyboardTracking(False)
        self.threshold.setToolTip("Faces with a lower score are left out of table and picture")
        self.summary.setWordWrap(True)
        self.show_grid.setChecked(True)
        self.show_faces.setChecked(True)
        self.table.setModel(self.model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setSortingEnabled(True)
        self.table.setWordWrap(False)
        self.table.sortByColumn(0, Qt.SortOrder.DescendingOrder)
        # Fixed sizes: nothing is asked of rows that are out of sight.
        self.table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.table.verticalHeader().setDefaultSectionSize(22)
        self.table.horizontalHeader().setDefaultSectionSize(78)
        self.table.setMinimumHeight(180)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("labels", self.source)
        form.addRow("grid", self.grid)
        shown = QHBoxLayout()
        for widget in (self.show_grid, self.show_faces, QLabel("score at least"), self.threshold):
            shown.addWidget(widget)
        buttons = QHBoxLayout()
        for widget in (self.measure_button, self.cancel_button):
            buttons.addWidget(widget)
        pictures = QHBoxLayout()
        for title, picture in (
            (self.seam_title, self.seam_picture),
            (self.control_title, self.control_picture),
        ):
            picture.setFixedSize(_SIDE, _SIDE)
            column = QVBoxLayout()
            column.addWidget(title)
            column.addWidget(picture)
            pictures.addLayout(column)
        pictures.addStretch()
        box = QVBoxLayout(self)
        box.addLayout(form)
        box.addLayout(buttons)
        box.addWidget(self.bar)
        box.addWidget(self.summary)
        box.addLayout(shown)
        box.addWidget(self.table, stretch=1)
        box.addLayout(pictures)

    def _connect(self) -> None:
        self.measure_button.clicked.connect(self.measure)
        self.cancel_button.clicked.connect(self.cancel)
        self.show_grid.toggled.connect(lambda on: self._toggle(GRID_LAYER, on))
        self.show_faces.toggled.connect(lambda on: self._toggle(FACE_LAYER, on))
        self.threshold.valueChanged.connect(self._threshold_changed)
        self.table.selectionModel().currentRowChanged.connect(self._chosen)
        self.table.clicked.connect(self._chosen)
        self.program.staged.connect(self._staged)
        self.program.advanced.connect(self._advanced)
        self.program.ended.connect(self._ended)
        self.destroyed.connect(self.program.end)
        self.destroyed.connect(lambda: setattr(self, "_asked", 0))  # pictures still to come
        free_layers_in_their_context(self.viewer, self)

    # Measuring.

    def measure(self) -> None:
        """Measure what is chosen."""
        if self.program.running or self._copying is not None:
            return
        remember("seams/grid", self.grid.text().strip())
        self.summary.setText("")
        try:
            layer = self.source.layer if self.source.layer is not None else self._opened()
        except StitchsafeError as error:
            show_error(str(error))
            return
        self._measured = layer
        known = layer.metadata.get(SOURCE, {})
        path, grid = known.get("result"), self.grid.text().strip()
        self._show_known_grid(layer, path)
        self._scratch = TemporaryDirectory(prefix="stitchsafe-", ignore_cleanup_errors=True)
        self.destroyed.connect(self._scratch.cleanup)
        axes = axes_choices(layer)[0]
        source = source_of(layer, axes, self._step(layer, axes), None)
        if path is not None:
            self._start(str(path))
        elif not grid:
            self._finish()
            show_error(
                f"{layer.name} is no result of stitchsafe, so its grid is not known; say how it "
                "was tiled, as in 96,96,96, or auto to have it found"
            )
        elif source is not None and "--time" not in source.words:
            self._start(source.path)
        else:
            self._copy(layer, axes, Path(self._scratch.name) / "labels.npy")

    def _opened(self) -> Any:
        """A layer for the path that is typed."""
        path = self.source.path.text().strip()
        if not path:
            raise InputError("no labels are chosen; choose a layer, or type a path")
        from napari.layers import Layer

        if is_result(path):
            layers = [Layer.create(*each) for each in result_layers(path)]
        else:
            volumes = levels_of(path)
            data = channel_of(volumes)
            options = {
                "name": Path(path).name,
                "metadata": {SOURCE: {"path": path}},
                "multiscale": len(data) > 1,
                **scale_of(volumes[0].voxel_size, volumes[0].axes),
            }
            if volumes[0].dtype.kind not in "iu":
                raise InputError(
                    f"{path} holds {volumes[0].dtype}, and labels are whole numbers; name labels"
                )
            layers = [Layer.create(data if len(data) > 1 else data[0], options, "labels")]
        for layer in layers:
            self.viewer.add_layer(layer)
        inspected = [layer for layer in layers if _is_inspected(layer)]
        if not inspected:
            raise InputError(f"{path} holds no labels and no field; predict it again")
        self.source.choose(inspected[-1])
        return inspected[-1]

    def _copy(self, layer: Any, axes: str, path: Path) -> None:
        def copied() -> None:
            self._copying = None
            self._start(str(path))

        def failed(error: Exception) -> None:
            self._copying = None
            self._finish()
            show_error(str(error))

        self._copying = create_worker(
            copy_layer,
            layer,
            axes,
            self._step(layer, axes),
            None,
            path,
            _connect={"returned": lambda _: copied(), "errored": failed},
            _start_thread=True,
        )
        self.bar.setRange(0, 0)
        self._show_state()

    def _step(self, layer: Any, axes: str) -> int:
        if "t" not in axes:
            return 0
        axis = axes.index("t")
        step = int(self.viewer.dims.current_step[self.viewer.dims.ndim - layer.ndim + axis])
        return min(step, int(finest(layer).shape[axis]) - 1)  # of other layers there may be more

    def _start(self, path: str) -> None:
        assert self._scratch is not None  # it is made before
        grid = self.grid.text().strip()
        words = ["seams", path, "--faces", str(Path(self._scratch.name) / "faces.npz")]
        self.bar.setRange(0, 0)
        self.summary.setText("measuring")
        self.program.start([*words, *(["--grid", grid] if grid else [])])
        self._show_state()

    def cancel(self) -> None:
        """Stop measuring."""
        if self._copying is not None:
            self._copying.quit()
            self._copying = None
            self._finish()
        self.program.cancel()

    def _staged(self, name: str, total: int, unit: str) -> None:
        del unit
        self._advance, self._total = 0, max(1, total)
        self.bar.setRange(0, 1000)
        self.summary.setText(f"measuring: {name}")

    def _advanced(self, count: int) -> None:
        self._advance += count  # of voxels, which may be more than a bar can count
        self.bar.setValue(min(1000, 1000 * self._advance // self._total))

    def _ended(self, ending: Ending) -> None:
        try:
            if ending.cancelled:
                self.summary.setText("cancelled")
            elif ending.answer is None:
                self.summary.setText(ending.error or f"ended with code {ending.code}")
                show_error(self.summary.text())
            else:
                assert self._scratch is not None  # it is made before
                self.show_report(ending.answer, Faces.load(Path(self._scratch.name) / "faces.npz"))
        finally:
            self._finish()

    def _finish(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self._show_state()

    # Showing.

    def show_report(self, answer: dict[str, Any], faces: Faces) -> None:
        """Show what was measured."""
        layer = self._measured
        grids = {name: tuple(cell) for name, cell in (answer["grid"] or {}).items()}
        self.summary.setText(_summary(answer, faces))
        self.faces = faces
        self.model.show(faces)
        shape, placed = self._place(layer)
        if grids:
            region = Roi.whole(shape)
            stored = layer.metadata.get(SOURCE, {}).get("result")
            if stored is not None:
                region = Result.at(stored).roi
            self._add_grid(shape, region, list(grids.values()), answer.get("origin"), placed)
        self._scores = None
        if not len(faces):
            remove(self.viewer, FACE_LAYER)
        else:
            self._scores = FaceScores(faces.axis, faces.corner, faces.shape, faces.shown)
            shown = add_heat(self.viewer, FACE_LAYER, shape, self._scores, **placed)
            shown.visible = self.show_faces.isChecked()
            self._threshold_changed(self.threshold.value())
        if layer in self.viewer.layers:  # it may have been removed meanwhile
            self.viewer.layers.selection.active = layer

    def _show_known_grid(self, layer: Any, path: str | None) -> None:
        if path is None:
            return
        result = Result.at(path)
        shape, placed = self._place(layer)
        self._add_grid(shape, result.roi, list(result.grids.values()), None, placed)

    def _place(self, layer: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
        shape = shape_of(layer)[-min(3, layer.ndim) :]
        return shape, placed_like(layer, len(shape))

    def _add_grid(
        self, shape: Any, region: Roi, grids: Any, origin: Any, placed: dict[str, Any]
    ) -> None:
        shown = add_grid(
            self.viewer, GRID_LAYER, shape, region, grids, origin=tuple(origin or ()), **placed
        )
        shown.visible = self.show_grid.isChecked()

    def _toggle(self, name: str, on: bool) -> None:
        if name in self.viewer.layers:
            self.viewer.layers[name].visible = on

    def _threshold_changed(self, least: float) -> None:
        self.model.set_threshold(least)
        if self._scores is not None and self.faces is not None:
            self._scores.least = float(self.faces.as_shown(least))
            if FACE_LAYER in self.viewer.layers:
                self.viewer.layers[FACE_LAYER].refresh()

    def _chosen(self, index: QModelIndex, before: QModelIndex | None = None) -> None:
        del before
        if self.faces is None or not index.isValid():
            return
        face = self.model.face(index.row())
        corner, shape = self.faces.corner[face], self.faces.shape[face]
        axis = int(self.faces.axis[face])
        if self._measured in self.viewer.layers:
            look_at(self.viewer, self._measured, axis, corner, shape)
            self._picture(face)

    def _picture(self, face: int) -> None:
        """Read what the two pictures show in a thread; only what was asked for last is shown."""
        faces, layer = self.faces, self._measured
        assert faces is not None  # there is a face to show
        self._asked += 1
        asked, axis = self._asked, int(faces.axis[face])
        extent = shape_of(layer)[-faces.corner.shape[1] :]
        centre = tuple(int(v) for v in faces.corner[face] + faces.shape[face] // 2)
        control = int(faces.control[face])
        shown = (self._image(extent), layer) if _is_labels(layer) else (layer, None)
        positions = [int(faces.corner[face, axis]), *([control] if control >= 0 else [])]
        now = tuple(self.viewer.dims.current_step)

        def read() -> list[Any]:
            found = []
            for position in positions:
                cut = cut_across(axis, position, centre, extent)
                planes = [None if each is None else _plane(each, cut.region, now) for each in shown]
                found.append(render(cut, *planes))
            return found

        def show(pictures: list[Any]) -> None:
            if asked != self._asked:  # of another face meanwhile, or without a window
                return
            letter = faces.axes[axis]
            self.seam_title.setText(f"at the seam, {letter} = {positions[0]}")
            self.seam_picture.setPixmap(_pixmap(pictures[0]))
            self.control_title.setText(
                f"at its control, {letter} = {control}" if control >= 0 else "no control"
            )
            self.control_picture.setPixmap(_pixmap(pictures[1]) if len(pictures) > 1 else QPixmap())

        create_worker(read, _connect={"returned": show}, _start_thread=True)

    def _image(self, extent: tuple[int, ...]) -> Any | None:
        """The image that belongs to the labels: of the same result, or of the same shape."""
        result = self._measured.metadata.get(SOURCE, {}).get("result")
        fitting = [
            layer
            for layer in self.viewer.layers
            if type(layer).__name__ == "Image"
            and layer.name not in (GRID_LAYER, FACE_LAYER)
            and not layer.rgb
            and tuple(finest(layer).shape)[-len(extent) :] == extent
        ]
        own = [x for x in fitting if result and x.metadata.get(SOURCE, {}).get("result") == result]
        return next(iter([*own, *fitting]), None)

    def _show_state(self) -> None:
        busy = self.program.running or self._copying is not None
        self.measure_button.setEnabled(not busy)
        self.cancel_button.setEnabled(busy)
        self.bar.setVisible(busy)


def _is_labels(layer: Any) -> bool:
    return type(layer).__name__ == "Labels"


def _is_inspected(layer: Any) -> bool:
    """Labels, or a field of a result that has none."""
    return _is_labels(layer) or bool(layer.metadata.get(SOURCE, {}).get("inspected"))


def _plane(layer: Any, region: Roi, now: tuple[int, ...]) -> Any:
    """A region one voxel thick as a picture, shape (rows, columns) and colours where it has any."""
    array, whole = finest(layer), shape_of(layer)
    extra = len(whole) - region.ndim
    data = np.asarray(array[(*now[:extra], *region.slices)])
    thick = [axis for axis, size in enumerate(region.shape) if size > 1]
    while len(thick) < 2:  # of a volume that is one voxel wide
        thick = sorted({*thick, *range(region.ndim)} - {min(set(range(region.ndim)) - {*thick})})
    colours = tuple(array.shape)[len(whole) :]
    return data.reshape(*(region.shape[axis] for axis in thick[-2:]), *colours)


def _pixmap(picture: Any) -> QPixmap:
    rows, columns = picture.shape[:2]
    picture = np.ascontiguousarray(picture)
    image = QImage(picture.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888)
    kept, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.FastTransformation
    return QPixmap.fromImage(image).scaled(_SIDE, _SIDE, kept, smooth)


def _summary(answer: dict[str, Any], faces: Faces) -> str:
    verdict = "✓ no seams found" if answer["ok"] else "✗ SEAMS found"
    if not answer["grid"]:
        return "no grid found: nothing repeats that would be a seam"
    if answer["ok"] and not answer["measures"]:
        return "nothing to compare: no seam could be held against what lies between seams"
    bad = int(np.count_nonzero(faces.score > faces.threshold))
    lines = [f"{verdict}: {bad:,} of {len(faces):,} faces stand out"]
    for name in ("jump", "split"):
        ratio, interval = answer.get(f"{name}_ratio"), answer.get(f"{name}_interval")
        if ratio is None:
            continue
        low, high = interval or (None, None)
        around = f" ({low or 0:.3g} to {'∞' if high is None else f'{high:.3g}'})"
        lines.append(f"{name}s {ratio:.3g} times those of controls{around}")
    lines.append(", ".join(f"{k} {' x '.join(map(str, v))}" for k, v in answer["grid"].items()))
    return "\n".join(lines)
