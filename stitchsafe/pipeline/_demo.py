"""The verb demo: the main job on a bundled volume with a bundled network, and the proof.

The volume is a cut of a fly's brain, slices that the network never saw in training. It goes through
the network tile by tile; then the whole field is computed once more in a single pass and compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stitchsafe.bundled import demo_volume
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events, FieldMaker, Silent
from stitchsafe.networks import load_network
from stitchsafe.pipeline._consensus import load_consensus
from stitchsafe.pipeline._evaluate import evaluate
from stitchsafe.pipeline._picture import draw_result
from stitchsafe.pipeline._predict import Prediction, predict
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.tiling import format_bytes
from stitchsafe.volumes import ArrayStore, open_volume

__all__ = ["DemoResult", "demo"]

MODEL = "neurites-em"


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Parameters
    ----------
    prediction
        The main job.
    picture
        Where the picture is.
    max_abs_diff, tolerance
        Largest difference between the stitched field and one pass over the whole volume, and what
        rounding allows.
    whole_seconds
        Time of that one pass.
    scores
        Against the truth that comes with the volume.
    """

    prediction: Prediction
    picture: Path
    max_abs_diff: float
    tolerance: float
    whole_seconds: float
    scores: dict[str, Any]

    @property
    def equal(self) -> bool:
        return self.max_abs_diff <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        return {
            **self.prediction.to_json(),
            "picture": str(self.picture),
            "stitched_equals_whole": self.equal,
            "max_abs_diff": self.max_abs_diff,
            "tolerance": self.tolerance,
            "whole_seconds": self.whole_seconds,
            "scores": self.scores,
        }

    def describe(self) -> str:
        """The findings for people."""
        made = self.prediction
        verdict = "equals" if self.equal else "DOES NOT EQUAL"
        voi = self.scores["voi_split"] + self.scores["voi_merge"]
        return "\n".join(
            [
                f"instances  {made.progress.instances}",
                f"exactness  the stitched field {verdict} one pass over the whole volume: largest "
                f"difference {self.max_abs_diff:.1g} (rounding allows {self.tolerance:.1g})",
                f"time       {made.seconds:.0f} s in {made.plan.tiles} tiles; the one pass alone "
                f"{self.whole_seconds:.0f} s",
                f"memory     {format_bytes(made.peak_memory_bytes)} at most, tile by tile "
                f"({format_bytes(made.plan.memory.peak)} predicted)",
                f"quality    VOI {voi:.2f} bits ({self.scores['voi_split']:.2f} split + "
                f"{self.scores['voi_merge']:.2f} merge), adapted Rand error "
                f"{self.scores['adapted_rand_error']:.2f}, on slices the network never saw",
                f"labels     {made.out}",
                f"picture    {self.picture}",
            ]
        )


def demo(
    out: str | Path | None = None, *, roi: Roi | None = None, events: Events | None = None
) -> DemoResult:
    """Run the main job on bundled real data.

    Parameters
    ----------
    out
        Folder for the result and the picture; ``demo-output`` by default. An earlier result there
        is taken up where it stopped.
    roi
        Part of the volume; all of it by default.
    events
        Told of progress.

    Returns
    -------
    DemoResult
    """
    events = events or Silent()
    folder = Path("demo-output" if out is None else out)
    folder.mkdir(parents=True, exist_ok=True)
    source = demo_volume()
    prediction = predict(
        f"{source}:raw",
        MODEL,
        folder / "neurites.zarr",
        save=("labels", "fields", "table"),
        image="copy",
        roi=roi,
        events=events,
    )
    difference, tolerance, seconds = _compare_with_whole(prediction, source, events)
    region = prediction.plan.recipe.roi
    assert prediction.out is not None
    labels = ArrayStore.open(ResultStore.at(prediction.out).labels / "0").read(region)
    raw = open_volume(f"{source}:raw").read(region)[0]
    truth = open_volume(f"{source}:labels").read(region)[0]
    scores = evaluate(labels, truth).to_json()
    picture = folder / "neurites.png"
    draw_result(picture, raw, labels, truth, prediction.plan.recipe, difference)
    return DemoResult(prediction, picture, difference, tolerance, seconds, scores)


def _compare_with_whole(
    prediction: Prediction, source: Path, events: Events
) -> tuple[float, float, float]:
    """Largest difference of the stored fields from one whole pass; what is allowed; its time."""
    assert prediction.out is not None
    events.stage("whole pass", 1, "passes")
    store, plan = ResultStore.at(prediction.out), prediction.plan
    consensus = load_consensus(store, plan.recipe)
    maker = FieldMaker(
        plan.recipe, plan.grid, load_network(MODEL), open_volume(f"{source}:raw"),
        consensus.intensity,
    )  # fmt: skip
    began = time.monotonic()
    whole = maker.whole()
    seconds = time.monotonic() - began
    events.advance()
    difference = largest = 0.0
    for layout in plan.recipe.fields:
        stored = ArrayStore.open(store.field(layout.name) / "0")
        for cell in plan.recipe.cells.cells():
            field = stored.read(layout.box(cell))
            expected = whole[layout.name][layout.box(cell).slices]
            difference = max(difference, float(np.abs(field - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
    return difference, 1e-5 * largest, seconds
