"""The widget that predicts: which volume, which model, where to; then plan, run, cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, StitchsafeError
from stitchsafe.napari_plugin._canvas import free_layers_in_their_context
from stitchsafe.napari_plugin._layer_choice import LayerChoice
from stitchsafe.napari_plugin._models import ModelChoice, remember_verdict
from stitchsafe.napari_plugin._overlay import add_grid, placed_like
from stitchsafe.napari_plugin._program import Ending, Program, as_command
from stitchsafe.napari_plugin._reader import result_layers
from stitchsafe.napari_plugin._region import region_of
from stitchsafe.napari_plugin._settings import recall, remember
from stitchsafe.napari_plugin._source import (
    Source,
    axes_choices,
    copied_axes,
    copy_layer,
    shape_of,
    source_of,
    voxel_size_of,
)

__all__ = ["PredictWidget"]

PLAN_LAYER = "plan: tiles and windows"
_ALL = "all"


class PredictWidget(QWidget):
    """Runs a network over a layer or a file."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.program, self.checker = Program(), Program()
        self.source = LayerChoice(napari_viewer, lambda layer: _kind(layer) == "Image")
        self.axes, self.time, self.channel = QComboBox(), QComboBox(), QComboBox()
        self.voxel_size, self.region, self.out = QLineEdit(), QLineEdit(), QLineEdit()
        self.memory, self.device = QLineEdit(), QComboBox()
        self.model, self.model_facts, self.picture = ModelChoice(), QLabel(), QLabel()
        self.browse_model = QPushButton("…")
        self.use_shape = QPushButton("from shape")
        self.fields, self.replace = QCheckBox("keep fields"), QCheckBox("replace earlier result")
        self.plan_button, self.run_button = QPushButton("Plan"), QPushButton("Run")
        self.cancel_button = QPushButton("Cancel")
        self.command = QLineEdit()
        self.bar, self.status, self.log = QProgressBar(), QLabel(), QPlainTextEdit()
        self._job: str | None = None
        self._copying: Any = None
        self._lay_out()
        self._recall()
        self._connect()
        self._volume_changed()
        self._model_changed()
        self._show_state()

    # What the user sees.

    def _lay_out(self) -> None:
        self.voxel_size.setPlaceholderText("the file's own, or such as 10,10,10nm")
        self.region.setPlaceholderText("all, or such as 0:64,128:512,:")
        self.out.setPlaceholderText("beside the volume")
        self.memory.setPlaceholderText("the machine's, or such as 8GB")
        self.device.setEditable(True)
        self.device.addItems(["auto", "cpu", "cuda"])
        for label in (self.model_facts, self.status):
            label.setWordWrap(True)
        self.picture.setMinimumHeight(56)
        self.browse_model.setFixedWidth(28)
        self.command.setReadOnly(True)
        self.command.setToolTip("The same in a terminal")
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(200)
        self.log.setMaximumHeight(110)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.axes_row = _row(self.axes, QLabel("time"), self.time, QLabel("channel"), self.channel)
        for name, widget in (
            ("volume", self.source),
            ("axes", self.axes_row),
            ("voxel size", self.voxel_size),
            ("model", _row(self.model, self.browse_model)),
            ("", self.model_facts),
            ("", self.picture),
            ("result", self.out),
            ("region", _row(self.region, self.use_shape)),
            ("memory", self.memory),
            ("device", self.device),
            ("", _row(self.fields, self.replace)),
        ):
            form.addRow(name, widget)
        box = QVBoxLayout(self)
        box.addLayout(form)
        box.addWidget(_row(self.plan_button, self.run_button, self.cancel_button))
        for widget in (self.bar, self.status, self.command, self.log):
            box.addWidget(widget)
        box.addStretch()

    def _connect(self) -> None:
        self.source.changed.connect(self._volume_changed)
        self.axes.currentIndexChanged.connect(self._axes_changed)
        self.model.currentTextChanged.connect(self._model_changed)
        self.browse_model.clicked.connect(self.model.browse)
        self.use_shape.clicked.connect(self._use_shape)
        self.plan_button.clicked.connect(lambda: self._begin("plan"))
        self.run_button.clicked.connect(lambda: self._begin("predict"))
        self.cancel_button.clicked.connect(self.cancel)
        self.program.staged.connect(self._staged)
        self.program.advanced.connect(lambda n: self.bar.setValue(self.bar.value() + n))
        self.program.said.connect(self.log.appendPlainText)
        self.program.ended.connect(self._ended)
        self.checker.ended.connect(self._checked)
        step = self.viewer.dims.events.current_step
        step.connect(self._follow)
        self.destroyed.connect(_disconnected(step, self._follow))
        self.destroyed.connect(self.program.end)
        self.destroyed.connect(self.checker.end)
        free_layers_in_their_context(self.viewer, self)

    def _recall(self) -> None:
        self.memory.setText(recall("predict/memory"))
        self.device.setEditText(recall("predict/device", "auto"))
        self.model.choose(recall("predict/model", "nuclei-2d"))
        self.fields.setChecked(recall("predict/fields") == "yes")

    def _remember(self) -> None:
        remember("predict/memory", self.memory.text().strip())
        remember("predict/device", self.device.currentText().strip())
        remember("predict/model", self.model.model)
        remember("predict/fields", "yes" if self.fields.isChecked() else "no")

    # What follows from a choice.

    def _volume_changed(self) -> None:
        layer = self.source.layer
        self.axes.blockSignals(True)
        self.axes.clear()
        self.axes.addItems(axes_choices(layer) if layer is not None else [])
        self.axes.blockSignals(False)
        self._axes_changed()

    def _axes_changed(self) -> None:
        layer, axes = self.source.layer, self.axes.currentText()
        sizes = dict(zip(axes, _axis_sizes(layer), strict=False)) if layer is not None else {}
        for choice, letter in ((self.time, "t"), (self.channel, "c")):
            choice.clear()
            if letter == "c" or layer is None:
                choice.addItem(_ALL if letter == "c" else "the only one")
            choice.addItems([str(n) for n in range(min(sizes.get(letter, 0), 1000))])
            choice.setEditable(layer is None)
            choice.setEnabled(layer is None or letter in sizes)
        self._follow()
        self.voxel_size.setText("" if layer is None else voxel_size_of(layer, axes))
        self.use_shape.setEnabled(layer is not None)

    def _follow(self, event: Any = None) -> None:
        """Take the time point that is looked at."""
        del event
        layer, axes = self.source.layer, self.axes.currentText()
        if layer is None or "t" not in axes:
            return
        now = self.viewer.dims.current_step
        at = self.viewer.dims.ndim - layer.ndim + axes.index("t")
        if 0 <= at < len(now):
            self.time.setCurrentIndex(min(int(now[at]), self.time.count() - 1))

    def _model_changed(self) -> None:
        known = self.model.models.get(self.model.model)
        self.model_facts.setText(self.model.description())
        pixmap = QPixmap() if known is None else QPixmap(str(known.picture))
        self.picture.setVisible(not pixmap.isNull())
        if known is None or pixmap.isNull():
            return
        smooth = Qt.TransformationMode.SmoothTransformation
        self.picture.setPixmap(pixmap.scaledToWidth(300, smooth))
        if "not checked" in self.model.description() and not self.checker.running:
            self.checker.start(["check", known.name])

    def _checked(self, ending: Ending) -> None:
        if ending.answer and "verdict" in ending.answer:
            remember_verdict(str(ending.answer["model"]), ending.answer)
            self.model.refresh()
            self._model_changed()

    def _use_shape(self) -> None:
        drawn = [layer for layer in self.viewer.layers if _kind(layer) == "Shapes"]
        chosen = [layer for layer in drawn if layer in self.viewer.layers.selection]
        layer = self.source.layer
        try:
            if not drawn or layer is None:
                raise InputError("there is no Shapes layer; add one, and draw a rectangle in it")
            self.region.setText(region_of((chosen or drawn)[-1], layer, self.axes.currentText()))
        except InputError as error:
            show_error(str(error))

    # What is done.

    def _begin(self, job: str) -> None:
        if self.program.running or self._copying is not None:
            return
        self._job = job
        self.log.clear()
        self._remember()
        try:
            source = self._source()
        except InputError as error:
            show_error(str(error))
            return
        if isinstance(source, Source):
            self._start(source)
        else:
            self._copy(source)

    def _source(self) -> Source | Path:
        """What the program is told of the volume, or where it must be copied to first."""
        layer = self.source.layer
        time, channel = _number(self.time), _number(self.channel)
        if layer is None:
            path = self.source.path.text().strip()
            if not path:
                raise InputError("no volume is chosen; choose a layer, or type a path")
            chosen = (("--time", time), ("--channel", channel))
            words = [word for name, n in chosen if n is not None for word in (name, str(n))]
            return Source(path, tuple(words))
        found = source_of(layer, self.axes.currentText(), time or 0, channel)
        if found is not None:
            return found
        out = self.out.text().strip()
        if not out:
            raise InputError(
                f"the layer {layer.name} lies in no file that its result could go beside; say "
                "where the result goes"
            )
        if not Path(out).expanduser().absolute().parent.is_dir():
            raise InputError(f"there is no folder {Path(out).parent}; choose another result")
        place = Path(out).expanduser()
        return place.with_name(f"{place.name.removesuffix('.zarr')}-input.npy")

    def _copy(self, path: Path) -> None:
        layer, axes = self.source.layer, self.axes.currentText()
        time, channel = _number(self.time) or 0, _number(self.channel)
        self._staged("copying the layer", 0, "planes")
        self.log.appendPlainText(f"the layer lies in no file: it is copied to {path}")

        def moved(progress: tuple[int, int]) -> None:
            self.bar.setMaximum(progress[1])
            self.bar.setValue(progress[0])

        def copied() -> None:
            self._copying = None
            self._start(Source(str(path), ("--axes", copied_axes(axes, channel))))

        def failed(error: Exception) -> None:
            self._copying = None
            self._show_state()
            show_error(str(error))

        self._copying = create_worker(
            copy_layer,
            layer,
            axes,
            time,
            channel,
            path,
            _connect={"yielded": moved, "returned": lambda _: copied(), "errored": failed},
            _start_thread=True,
        )
        self._show_state()

    def words(self, source: Source) -> list[str]:
        """What a person would type."""
        words = ["predict", source.path, *source.words, "-m", self.model.model]
        for option, text in (
            ("--out", self.out.text()),
            ("--voxel-size", self.voxel_size.text()),
            ("--roi", self.region.text()),
            ("--max-memory", self.memory.text()),
            ("--device", self.device.currentText()),
        ):
            if text.strip() and (option, text.strip()) != ("--device", "auto"):
                words += [option, text.strip()]
        words += ["--save", "labels,fields"] if self.fields.isChecked() else []
        return [*words, *(["--overwrite"] if self.replace.isChecked() else [])]

    def _start(self, source: Source) -> None:
        words = self.words(source)
        self.command.setText(as_command(words))
        self.command.setCursorPosition(0)
        self.status.setText("starting")
        self.bar.setRange(0, 0)
        self.program.start([*words, "--dry-run"] if self._job == "plan" else words)
        self._show_state()

    def cancel(self) -> None:
        """Stop what is under way; a run can be taken up again."""
        if self._copying is not None:
            self._copying.quit()
            self._copying = None
            self.status.setText("cancelled")
        self.program.cancel()
        self._show_state()

    def _staged(self, name: str, total: int, unit: str) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(0)
        self.status.setText(f"{name} ({total} {unit})" if total else name)

    def _ended(self, ending: Ending) -> None:
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        if ending.cancelled:
            self.status.setText("cancelled: Run goes on from what is done")
        elif ending.answer is None:
            self.status.setText(ending.error or f"the program ended with code {ending.code}")
            show_error(self.status.text())
        elif self._job == "plan":
            self._show_plan(ending.answer)
        else:
            self._show_result(ending.answer)
        self._show_state()

    def _show_plan(self, plan: dict[str, Any]) -> None:
        recipe = plan["recipe"]
        grids = [tuple(plan["cell_shape"]), tuple(plan["tile_shape"])]
        region = Roi(tuple(recipe["roi"]["offset"]), tuple(recipe["roi"]["shape"]))
        layer, extent = self.source.layer, tuple(recipe["extent"])
        placed = (
            {}
            if layer is None or "c" in self.axes.currentText()[-1:]
            else placed_like(layer, len(extent))
        )
        add_grid(self.viewer, PLAN_LAYER, extent, region, dict.fromkeys(grids), **placed)
        self.status.setText(
            f"{plan['tiles']:,} tiles of {_shape(plan['tile_shape'])}, {plan['blocks']:,} blocks, "
            f"{plan['peak_memory_bytes'] / 1e9:.2f} GB at most, {_duration(plan['seconds'])}"
        )

    def _show_result(self, answer: dict[str, Any]) -> None:
        instances = answer.get("instances")
        made = "fields" if instances is None else f"{instances:,} instances"
        self.bar.setValue(1)
        self.status.setText(f"{made} in {answer['out']}")
        layer = self.source.layer
        try:
            layers = result_layers(answer["out"])
        except StitchsafeError as error:
            show_error(str(error))
            return
        from napari.layers import Layer

        for data, options, kind in layers:
            if layer is not None and options["name"].endswith(" image"):
                continue
            if layer is not None and self.axes.currentText()[-1:] == "x":
                options = {**options, **placed_like(layer, len(options["axis_labels"]))}
            self.viewer.add_layer(Layer.create(data, options, kind))
        show_info(self.status.text())

    def _show_state(self) -> None:
        busy = self.program.running or self._copying is not None
        for button in (self.plan_button, self.run_button):
            button.setEnabled(not busy)
        self.cancel_button.setEnabled(busy)
        self.bar.setVisible(busy)


def _disconnected(event: Any, callback: Any) -> Callable[[], None]:
    return lambda: event.disconnect(callback)


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _axis_sizes(layer: Any) -> tuple[int, ...]:
    size = shape_of(layer)
    return (*size, 3) if getattr(layer, "rgb", False) else size


def _number(choice: QComboBox) -> int | None:
    text = choice.currentText().strip()
    return int(text) if text.isdigit() else None


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    box = QHBoxLayout(row)
    box.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        box.addWidget(widget)
    return row


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time not estimated"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.0f} h"
