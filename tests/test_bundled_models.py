"""The bundled models through the real verbs, on data that they never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stitchsafe
from stitchsafe.networks import bundled_models
from stitchsafe.pipeline import demo


def card_score(model: str, key: str) -> float:
    return float(bundled_models()[model].scores[key])


@pytest.mark.slow
def test_nuclei_are_found_in_the_images_kept_back(shared_data: Path) -> None:
    files = sorted((shared_data / "dsb2018").glob("*.npz"))
    scores = []
    for file in files[4::5]:
        with np.load(file) as content:
            image, truth = content["image"], content["labels"]
        if image.ndim == 3:
            image = image.mean(axis=int(np.argmin(image.shape)))
        made = stitchsafe.predict(image.astype(np.float32), "nuclei-2d")
        assert made.labels is not None
        found = stitchsafe.evaluate(made.labels, truth.astype(np.int64), thresholds=[0.5])
        scores.append(next(iter(found.to_json()["ap"].values())))
    print(json.dumps({"ap50": float(np.mean(scores)), "images": len(scores)}))
    assert len(scores) == 22
    assert np.mean(scores) >= 0.6
    assert np.mean(scores) == pytest.approx(card_score("nuclei-2d", "ap_at_iou_0.5"), abs=0.02)


@pytest.mark.slow
def test_the_demo_does_the_main_job(tmp_path: Path) -> None:
    """Exact, as good as the card says, and with a picture."""
    found = demo(tmp_path / "demo")
    assert found.equal
    total = found.scores["voi_split"] + found.scores["voi_merge"]
    card = card_score("neurites-em", "voi_split_bits") + card_score("neurites-em", "voi_merge_bits")
    assert total == pytest.approx(card, abs=0.1)
    assert found.picture.stat().st_size > 100_000
