"""A window that its user closes while a widget's run is under way.

``python closing.py predict VOLUME OUT`` and ``python closing.py measure LABELS FOLDER``: prints the
id of the run's process when it closes the window, and ends as napari does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def predicting(viewer: Any, volume: str, out: str) -> tuple[Any, Callable[[], bool]]:
    _, widget = viewer.window.add_plugin_dock_widget("stitchsafe", "Predict")
    widget.source.path.setText(volume)
    widget.model.choose("disks-2d")
    widget.device.setEditText("cpu")
    widget.out.setText(out)
    widget.memory.setText("4GB")
    words = widget.words
    widget.words = lambda source: [
        *words(source), "--save", "fields", "--tile-shape", "32,32", "--threads", "1"
    ]  # fmt: skip
    widget.run_button.click()
    ledger = Path(out, ".stitchsafe", "ledger", "predict")
    return widget, lambda: ledger.is_dir() and any(ledger.iterdir())


def measuring(viewer: Any, labels: str, folder: str) -> tuple[Any, Callable[[], bool]]:
    os.environ["TMPDIR"] = folder
    _, widget = viewer.window.add_plugin_dock_widget("stitchsafe", "Seam inspector")
    widget.source.layers.setCurrentIndex(widget.source.layers.count() - 1)
    widget.source.path.setText(labels)
    widget.grid.setText("16,16,16")
    widget.measure_button.click()
    assert any(Path(folder).iterdir())
    return widget, lambda: widget.summary.text().startswith("measuring: ")


def main() -> None:
    import napari
    from qtpy.QtCore import QTimer

    job, source, place = sys.argv[1:]
    viewer = napari.Viewer()
    widget, under_way = {"predict": predicting, "measure": measuring}[job](viewer, source, place)

    def look() -> None:
        if under_way() or not widget.program.running:
            print(int(widget.program._process.processId()), flush=True)
            timer.stop()
            viewer.window._qt_window.windowHandle().close()

    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(20)
    napari.run()


if __name__ == "__main__":
    main()
