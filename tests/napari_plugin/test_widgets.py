"""The widgets in a real window, driven by clicks and keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchsafe
from stitchsafe.bundled import demo_labels
from stitchsafe.coordinates import Roi

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def click(widget: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def press(widget: Any, key: str) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.keyClick(widget, getattr(Qt.Key, f"Key_{key}"))


def write(field: Any, text: str) -> None:
    from qtpy.QtTest import QTest

    field.clear()
    QTest.keyClicks(field, text)
    press(field, "Return")


def camera(viewer: Any) -> Any:
    return getattr(viewer, "scene", viewer).camera


def last_error() -> str:
    from napari.utils.notifications import notification_manager

    found = [n for n in notification_manager.records if n.severity.name == "ERROR"]
    return str(found[-1].message) if found else ""


@pytest.fixture(scope="module")
def predicting(viewer: Any) -> Any:
    from stitchsafe.napari_plugin import PredictWidget

    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Predict")
    return widget


@pytest.fixture(scope="module")
def inspector(viewer: Any) -> Any:
    from stitchsafe.napari_plugin import SeamInspector

    widget = SeamInspector(viewer)
    viewer.window.add_dock_widget(widget, name="Seams")
    return widget


@pytest.fixture
def small(clean: Any, disks: Any) -> Any:
    """A layer in memory with a time axis, of which the second point is looked at."""
    movie = np.stack([np.zeros((100, 120), np.float32), disks[:100, :120]])
    layer = clean.add_image(movie, name="movie", scale=(1, 2, 2), axis_labels=("t", "y", "x"))
    clean.dims.set_current_step(0, 1)
    return layer


class TestPredicting:
    def test_a_layer_is_planned_and_predicted(
        self, small: Any, clean: Any, predicting: Any, until: Any, quick: None, tmp_path: Path,
        disks: Any, predicted: Any,
    ) -> None:  # fmt: skip
        assert predicting.source.layer is small
        assert [predicting.axes.currentText(), predicting.time.currentText()] == ["tyx", "1"]
        predicting.model.choose("disks-2d")
        write(predicting.out, str(tmp_path / "out.zarr"))
        write(predicting.memory, "4GB")
        click(predicting.plan_button)
        until(lambda: predicting.run_button.isEnabled())
        assert "tiles of" in predicting.status.text()
        assert not (tmp_path / "out.zarr").exists()
        plan = clean.layers["plan: tiles and windows"]
        assert tuple(plan.scale[-2:]) == (2, 2)

        click(predicting.run_button)
        until(lambda: predicting.run_button.isEnabled())
        assert "instances in" in predicting.status.text()
        labels = clean.layers["out labels"]
        np.save(tmp_path / "slice.npy", disks[:100, :120])
        predicted(tmp_path / "slice.npy", tmp_path / "expected.zarr")
        whole = stitchsafe.open_volume(tmp_path / "expected.zarr" / "labels" / "instances")
        expected = whole.read(Roi.whole((100, 120)))[0]
        assert np.array_equal(np.asarray(labels.data), expected)
        assert tuple(labels.scale) == (2, 2)
        assert "stitchsafe predict" in predicting.command.text()

    def test_a_rectangle_becomes_the_region(self, small: Any, clean: Any, predicting: Any) -> None:
        corners = [[1, 20, 40], [1, 20, 100], [1, 60, 100], [1, 60, 40]]  # in the world
        clean.add_shapes([corners], shape_type="rectangle", name="here")
        predicting.source.choose(small)
        click(predicting.use_shape)
        assert predicting.region.text() == "10:31,20:51"
        clean.layers.remove("here")
        click(predicting.use_shape)
        assert "no Shapes layer" in last_error()
        predicting.region.clear()

    def test_what_the_program_refuses_is_shown_as_an_error(
        self, clean: Any, predicting: Any, until: Any, quick: None, tmp_path: Path
    ) -> None:
        write(predicting.source.path, str(tmp_path / "absent.zarr"))
        click(predicting.run_button)
        until(lambda: predicting.run_button.isEnabled())
        assert "absent.zarr" in last_error()
        predicting.source.path.clear()
        click(predicting.run_button)
        assert "no volume is chosen" in last_error()

    def test_a_layer_of_a_result_is_not_copied(
        self, clean: Any, predicting: Any, result: Path
    ) -> None:
        from napari.layers import Layer

        from stitchsafe.napari_plugin._reader import result_layers

        clean.add_layer(Layer.create(*result_layers(result)[0]))
        assert predicting.voxel_size.text() == "0.5,0.5micrometer"
        source = predicting._source()
        assert source.path == str(result)

    @pytest.mark.parametrize("how", ["cancel", "close"])
    def test_a_run_that_is_stopped_can_be_taken_up_again(
        self, how: str, clean: Any, predicting: Any, until: Any, tmp_path: Path, predicted: Any
    ) -> None:
        """By Cancel, and by the end of the window: neither hangs, and what is done is kept."""
        import shlex

        from stitchsafe.napari_plugin import PredictWidget

        widget = predicting if how == "cancel" else PredictWidget(clean)
        volume = np.random.default_rng(0).random((288, 288), np.float32)
        np.save(tmp_path / "noise.npy", volume)
        out = tmp_path / "noise.zarr"
        write(widget.source.path, str(tmp_path / "noise.npy"))
        widget.model.choose("disks-2d")
        for field, text in ((widget.out, str(out)), (widget.memory, "4GB"), (widget.region, "")):
            field.setText(text)
        words = [*shlex.split("--tile-shape 32,32 --threads 1"), "--save", "fields"]
        original = widget.words
        widget.words = lambda source: [*original(source), *words]
        click(widget.run_button)
        ledger = out / ".stitchsafe" / "ledger" / "predict"
        until(lambda: ledger.is_dir() and any(ledger.iterdir()))
        process = int(widget.program._process.processId())
        if how == "cancel":
            click(widget.cancel_button)
            until(lambda: widget.run_button.isEnabled())
            assert "goes on from what is done" in widget.status.text()
        else:
            program = widget.program
            widget.deleteLater()
            until(lambda: not program.running)
        with pytest.raises(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
        done = len(list(ledger.iterdir()))
        resumed = predicted(
            tmp_path / "noise.npy", out, "--save", "fields", "--tile-shape", "32,32"
        )
        assert 0 < done <= resumed["blocks_resumed"] + 1
        predicted(tmp_path / "noise.npy", tmp_path / "whole.zarr", "--save", "fields")
        fields = [
            stitchsafe.open_volume(each / "fields" / "embedding").read(Roi.whole((288, 288)))
            for each in (out, tmp_path / "whole.zarr")
        ]
        assert np.allclose(*fields, atol=1e-4)
        if how == "cancel":
            widget.words = original


@pytest.fixture
def closed(screen: None, repository: Path) -> Any:
    """Close a window while a run is under way; the process must end well, and its run with it."""

    def close(*words: object) -> None:
        script = Path(__file__).with_name("closing.py")
        done = subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            cwd=repository, capture_output=True, text=True, timeout=240,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Destroyed while" not in done.stderr
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), signal.SIGCONT)

    return close


class TestClosing:
    def test_the_command_line_resumes_what_a_closed_window_began(
        self, closed: Any, predicted: Any, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "noise.npy", np.random.default_rng(0).random((288, 288), np.float32))
        out, whole = tmp_path / "noise.zarr", tmp_path / "whole.zarr"
        closed("predict", tmp_path / "noise.npy", out)
        options = ("--save", "fields", "--tile-shape", "32,32")
        resumed = predicted(tmp_path / "noise.npy", out, *options)
        assert 0 < resumed["blocks_resumed"] < resumed["blocks_total"]
        predicted(tmp_path / "noise.npy", whole, *options)
        arrays = [
            {file.relative_to(each): file.read_bytes() for file in each.rglob("c/**/*")
             if file.is_file()}
            for each in (out / "fields", whole / "fields")
        ]  # fmt: skip
        assert arrays[0]
        assert arrays[0] == arrays[1]

    def test_a_closed_window_leaves_no_measurement_behind(
        self, closed: Any, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "labels.npy", np.random.default_rng(0).integers(0, 99, (200, 256, 256)))
        (tmp_path / "scratch").mkdir()
        closed("measure", tmp_path / "labels.npy", tmp_path / "scratch")
        assert not any((tmp_path / "scratch").iterdir())


def test_layers_may_leave_a_window_that_a_widget_is_docked_in(screen: None) -> None:
    """Mesa's software OpenGL ends the process in a later paint where they are freed amiss."""
    import napari
    from qtpy.QtTest import QTest

    from stitchsafe.napari_plugin import SeamInspector

    viewer = napari.Viewer()
    viewer.window.add_dock_widget(SeamInspector(viewer))
    for _ in range(3):
        viewer.add_image(np.ones((40, 40)))
        QTest.qWait(200)
        viewer.layers.clear()
        viewer.add_image(np.ones((40, 40)))
        for _ in range(3):  # each a paint
            camera(viewer).zoom *= 1.1
            QTest.qWait(100)
    viewer.close()


def test_a_model_is_checked(viewer: Any, until: Any, quick: None, tmp_path: Path) -> None:
    from stitchsafe.napari_plugin import CheckWidget

    widget = CheckWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Check")
    widget.model.choose("disks-2d")
    click(widget.button)
    until(lambda: widget.button.isEnabled())
    assert "disks-2d: safe" in widget.verdict.text()
    assert widget.period.text() == "y 8,  x 8"
    assert widget.breaks.rowCount() == 0
    from stitchsafe.napari_plugin._models import known_verdict

    assert known_verdict("disks-2d") == "safe"
    widget.model.choose(str(tmp_path / "absent.onnx"))
    click(widget.button)
    until(lambda: widget.button.isEnabled())
    assert "absent.onnx" in last_error()


class TestInspecting:
    @pytest.fixture
    def cut(self, clean: Any, inspector: Any, until: Any, quick: None) -> Any:
        """Labels that somebody cut in the middle of x, in a layer in memory, measured."""
        generator = np.random.default_rng(1)
        blocks = generator.integers(1, 2**15, (6, 16, 16)).repeat(8, 0).repeat(7, 1).repeat(7, 2)
        labels = np.ascontiguousarray(blocks[:, :96, :96]).astype(np.int32)
        labels[:, :, 48:] += 2**16
        clean.add_image(np.asarray(labels % 251, np.uint8), name="image")
        layer = clean.add_labels(labels, name="cut", scale=(3, 1, 1))
        inspector.source.choose(layer)
        write(inspector.grid, "24,48,48")
        click(inspector.measure_button)
        until(lambda: inspector.measure_button.isEnabled())
        return layer

    def test_the_worst_face_is_one_click_away(
        self, cut: Any, clean: Any, inspector: Any, until: Any
    ) -> None:
        rows = inspector.model.rowCount()
        assert rows == len(inspector.faces) == 12
        scores = [float(inspector.model.data(inspector.model.index(r, 0))) for r in range(rows)]
        assert scores == sorted(scores, reverse=True)
        inspector.table.selectRow(0)
        face = inspector.model.face(0)
        axis = int(inspector.faces.axis[face])
        assert axis in clean.dims.displayed
        world = (inspector.faces.corner[face] + inspector.faces.shape[face] / 2) * cut.scale
        centre = camera(clean).center[1:]
        for displayed, at in zip(clean.dims.displayed, centre, strict=True):
            assert abs(at - world[displayed]) <= cut.scale[displayed]
        until(lambda: not inspector.seam_picture.pixmap().isNull())
        letter = inspector.faces.axes[axis]
        position = inspector.faces.corner[face][axis]
        assert inspector.seam_title.text() == f"at the seam, {letter} = {position}"

    def test_arrow_keys_go_from_face_to_face(self, cut: Any, clean: Any, inspector: Any) -> None:
        inspector.table.selectRow(0)
        before = camera(clean).center
        press(inspector.table, "Down")
        assert inspector.table.currentIndex().row() == 1
        assert camera(clean).center != before

    def test_grid_and_faces_are_laid_over_and_toggled(
        self, cut: Any, clean: Any, inspector: Any
    ) -> None:
        for name, box in (
            ("seams: grid", inspector.show_grid),
            ("seams: faces", inspector.show_faces),
        ):
            layer = clean.layers[name]
            assert np.array_equal(layer.scale, cut.scale)
            click(box)
            assert not layer.visible
            click(box)
            assert layer.visible
        picture = clean.screenshot(canvas_only=True, flash=False)
        clean.dims.ndisplay = 3
        assert not np.array_equal(picture, clean.screenshot(canvas_only=True, flash=False))

    def test_a_threshold_leaves_faces_out(self, cut: Any, clean: Any, inspector: Any) -> None:
        highest = float(inspector.faces.score.max())
        inspector.threshold.setValue(highest + 1)
        assert inspector.model.rowCount() == 0
        assert not np.asarray(clean.layers["seams: faces"].data).any()
        inspector.threshold.setValue(0)
        assert inspector.model.rowCount() == 12

    def test_a_result_has_its_own_grid(
        self, clean: Any, inspector: Any, until: Any, quick: None, result: Path
    ) -> None:
        inspector.grid.clear()
        inspector.source.layers.setCurrentIndex(inspector.source.layers.count() - 1)
        write(inspector.source.path, str(result))
        click(inspector.measure_button)
        until(lambda: inspector.measure_button.isEnabled())
        assert [layer.name for layer in clean.layers][:3] == [
            "disks image",
            "disks embedding",
            "disks labels",
        ]
        assert "tile 64 x 64" in inspector.summary.text()
        assert inspector.faces.families[-1] == "tile"

    def test_a_result_without_labels_is_inspected_by_its_field(
        self, clean: Any, inspector: Any, until: Any, quick: None, disks: Any, tmp_path: Path,
        predicted: Any,
    ) -> None:  # fmt: skip
        np.save(tmp_path / "input.npy", disks[:200, :240])
        out = tmp_path / "field.zarr"
        predicted(tmp_path / "input.npy", out, "--save", "fields", "--tile-shape", "64,64")
        inspector.grid.clear()
        inspector.source.layers.setCurrentIndex(inspector.source.layers.count() - 1)
        write(inspector.source.path, str(out))
        click(inspector.measure_button)
        until(lambda: inspector.measure_button.isEnabled())
        assert inspector.source.layer.name == "field embedding"
        assert "tile 64 x 64" in inspector.summary.text()
        assert "jumps" in inspector.summary.text()
        assert clean.layers["seams: faces"].data.shape == (200, 240)
        inspector.table.selectRow(0)
        until(lambda: not inspector.seam_picture.pixmap().isNull())
        colours = inspector.seam_picture.pixmap().toImage()
        assert colours.pixelColor(20, 20) != colours.pixelColor(120, 120)

    def test_a_layer_may_go_while_it_is_measured(
        self, clean: Any, inspector: Any, until: Any, quick: None
    ) -> None:
        before = last_error()
        layer = clean.add_labels(
            np.arange(9).reshape(3, 3).repeat(40, 0).repeat(40, 1), name="gone"
        )
        inspector.source.choose(layer)
        write(inspector.grid, "40,40")
        click(inspector.measure_button)
        clean.layers.remove(layer)
        until(lambda: inspector.measure_button.isEnabled())
        assert last_error() == before
        assert inspector.faces is not None

    def test_the_grid_of_others_is_found_and_their_layer_left_alone(
        self, clean: Any, inspector: Any, until: Any, quick: None
    ) -> None:
        volume = stitchsafe.open_volume(f"{demo_labels()}:wrong")
        labels = volume.read(Roi.whole(volume.shape))[0]
        layer = clean.add_labels(labels.copy(), name="others", scale=(3, 1, 1), opacity=0.4)
        inspector.source.choose(layer)
        write(inspector.grid, "auto")
        click(inspector.measure_button)
        until(lambda: inspector.measure_button.isEnabled())
        assert "64 x 64" in inspector.summary.text()
        assert inspector.faces.score.max() > inspector.faces.threshold
        assert "seams: grid" in clean.layers
        inspector.table.selectRow(0)
        until(lambda: not inspector.seam_picture.pixmap().isNull())
        assert np.array_equal(layer.data, labels)
        assert (layer.name, layer.opacity, tuple(layer.scale)) == ("others", 0.4, (3, 1, 1))

    def test_labels_without_a_grid_are_refused(self, clean: Any, inspector: Any) -> None:
        inspector.source.choose(clean.add_labels(np.ones((40, 40), int), name="others"))
        inspector.grid.clear()
        click(inspector.measure_button)
        assert "its grid is not known" in last_error()
        assert inspector.measure_button.isEnabled()


def test_a_hundred_thousand_faces_are_asked_for_by_what_is_in_view(viewer: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QApplication, QTableView

    from stitchsafe.napari_plugin._faces import FaceModel, Faces

    count = 100_000
    zeros = np.zeros(count, np.int64)
    corner = np.arange(3 * count).reshape(count, 3)
    columns = dict.fromkeys(Faces.__dataclass_fields__, zeros)
    score = np.random.default_rng(0).random(count)
    columns.update(
        axes="zyx", families=("tile",), measures=("splits",), threshold=3.0, corner=corner,
        shape=np.ones((count, 3)), score=score,
    )  # fmt: skip
    model, view, asked = FaceModel(), QTableView(), []
    original = model.data
    model.data = lambda index, role=0: (asked.append(index.row()), original(index, role))[1]
    view.setModel(model)
    model.show(Faces(**columns))
    view.show()
    QApplication.processEvents()
    assert model.rowCount() == count
    assert len(set(asked)) < 200
    model.sort(3, Qt.SortOrder.AscendingOrder)
    assert model.face(0) == 0
    model.sort(0, Qt.SortOrder.DescendingOrder)
    assert model.face(0) == score.argmax()
    view.close()


def test_samples_are_layers(clean: Any) -> None:
    from napari.layers import Layer

    from stitchsafe.napari_plugin import sample_disks, sample_neurites, sample_wrong_tiling

    counts = {sample_disks: 2, sample_neurites: 2, sample_wrong_tiling: 4}
    for sample, count in counts.items():
        layers = [Layer.create(*each) for each in sample()]
        assert len(layers) == count
        for layer in layers:
            clean.add_layer(layer)
        assert clean.screenshot(canvas_only=True, flash=False).std() > 0
        clean.layers.clear()


def test_a_window_has_the_plugin_in_its_menus(viewer: Any) -> None:
    def texts(menu: Any) -> set[str]:
        found = set()
        for action in menu.actions():
            found |= {action.text().replace("&", "")}
            if action.menu() is not None:
                action.menu().aboutToShow.emit()
                found |= texts(action.menu())
        return found

    offered = texts(viewer.window._qt_window.menuBar())
    widgets = ("Predict", "Check model", "Seam inspector")
    for title in (*widgets, "Disks (2-D)", "Neurites in electron microscopy (3-D)"):
        assert any(title in text for text in offered), title


def test_what_was_typed_is_remembered(viewer: Any, predicting: Any, quick: None) -> None:
    from stitchsafe.napari_plugin import PredictWidget, SeamInspector, _settings

    _settings.remember("seams/grid", "32,64,64")
    other = SeamInspector(viewer)
    assert other.grid.text() == "32,64,64"
    other.deleteLater()

    predicting.memory.setText("3GB")
    predicting.model.choose("nuclei-2d")
    predicting._remember()
    again = PredictWidget(viewer)
    assert (again.memory.text(), again.model.model) == ("3GB", "nuclei-2d")
    again.deleteLater()
