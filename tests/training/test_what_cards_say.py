"""A card says what is known, and makes nothing up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stitchsafe.metrics import Scores
from stitchsafe.networks import load_folder
from stitchsafe.training import TrainingConfig, train
from stitchsafe.training._provenance import said_of_data


def asked(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "tiny",
            "data": {"kind": "disks", "spacing": 9, "radius": 3},
            "input": {"axes": "yx"},
            "network": {"name": "unet", "arguments": {"ndim": 2, "levels": 1, "base_channels": 2}},
            "window": [4, 4],
            "optimiser": {"steps": 1},
        }
        | changes
    )


def of(**data: Any) -> TrainingConfig:
    unet = {"ndim": 3, "levels": 1}
    return asked(
        data=data,
        input={"axes": "zyx"},
        window=[4, 4, 4],
        network={"name": "unet", "arguments": unet},
    )


def test_nothing_is_made_up(tmp_path: Path) -> None:
    train(asked(), tmp_path / "first")
    card = (tmp_path / "first" / "card.md").read_text()
    assert "| data | synthetic disks |" in card
    assert "| licence | not stated; say `card: {license: …}`" in card
    assert "BSD" not in card
    assert "authors" not in card
    said = {"data": "my own", "license": "MIT", "authors": ["A. Person", "B. Person"]}
    train(asked(card=said), tmp_path / "second", init=tmp_path / "first")
    card = (tmp_path / "second" / "card.md").read_text()
    for line in ("| data | my own |", "| licence | MIT |", "| authors | A. Person, B. Person |"):
        assert line in card
    config = load_folder(tmp_path / "second").config
    assert config is not None
    assert (config.license, config.authors) == ("MIT", ("A. Person", "B. Person"))
    assert config.training["init"] == "first"
    for text in (card, (tmp_path / "second" / "config.yaml").read_text()):
        assert str(tmp_path) not in text


@pytest.mark.parametrize("decay", [None, 0.9])
def test_weights_that_scored_best_stay_so_under_other_labels(
    tmp_path: Path, decay: float | None
) -> None:
    """What no longer holds are the scores: card, configuration and result agree."""
    run = tmp_path / "run"
    judged: dict[str, Any] = {
        "validation": {"every": 1, "count": 1, "size": [16, 16]},
        "optimiser": {"steps": 2, "ema": decay},
    }

    def worse(*given: Any) -> Scores:
        return Scores(0.5, 1, 1, 1.0, 1.0, {0.5: 0.5}, 1, 1)

    first = train(asked(**judged), run, device="cpu", judge=worse)
    assert first.best_step == 1
    assert first.scores
    what = "weights" if decay is None else "averages"
    words = f"the {what} of step 1, which scored best"
    assert f"| weights | {words}" in (run / "card.md").read_text()
    labels = {"from": "embeddings", "window": [64, 64], "bandwidth": 1.5}
    for _ in range(2):
        again = train(asked(**judged, labels=labels), run, device="cpu", judge=worse)
        assert (again.best_step, again.scores) == (1, {})
        assert again.to_json()["scores"] == {}
        card = (run / "card.md").read_text()
        assert f"| weights | {words}" in card
        assert "| scores | not measured" in card
        config = load_folder(run).config
        assert config is not None
        assert config.training["weights"].startswith(words)
        assert config.scores == {}


def test_words_on_the_data_may_be_withdrawn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(asked(card={"data": "my own"}), run, device="cpu")
    assert "| data | my own |" in (run / "card.md").read_text()
    train(asked(), run, device="cpu")
    assert "| data | synthetic disks |" in (run / "card.md").read_text()


def test_an_author_has_a_name_that_packages_take() -> None:
    with pytest.raises(ValidationError, match="authors"):
        asked(card={"authors": ["A/B"]})


@pytest.mark.parametrize(
    ("data", "instead", "said"),
    [
        ({"path": "/home/me/cells.h5"}, None, "cells.h5 (raw and labels)"),
        (
            {"path": "cells.h5", "region": [[0, 30], [2, 64], [0, 64]]},
            "/data/other.h5",
            "other.h5 (raw and labels), z 0:30, y 2:64, x 0:64",
        ),
        (
            {"image": "s3://lab/some/volume.zarr", "labels": "/home/me/labels.h5:new/cells"},
            None,
            "volume.zarr with labels labels.h5:new/cells",
        ),
        ({"image": "C:\\me\\a.tif", "labels": "b/c.tif"}, None, "a.tif with labels c.tif"),
        (
            {"sources": [{"path": "x/a.zarr", "image": ""}, {"path": "b.h5", "weight": 2}]},
            None,
            "a.zarr (labels); b.h5 (raw and labels)",
        ),
    ],
)
def test_files_are_named_without_where_they_lie(
    data: dict[str, Any], instead: str | None, said: str
) -> None:
    assert said_of_data(of(kind="volume", **data), instead) == said


def test_so_are_folders_of_images() -> None:
    every = asked(data={"kind": "images", "path": "/home/me/nuclei"})
    assert said_of_data(every) == "the images of nuclei, of which every 5th by name was kept back"
    all_of_it = asked(data={"kind": "images", "path": "/a", "keep_back": None})
    assert said_of_data(all_of_it, "/b/mine") == "the images of mine"
