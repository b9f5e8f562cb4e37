from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from tiny_training import content

from stitchsafe.errors import InputError
from stitchsafe.training import TrainingConfig, load_training

BUNDLED = sorted((Path(__file__).parent.parent.parent / "models").glob("*/train.yaml"))


def written(folder: Path, values: object) -> Path:
    path = folder / "train.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_a_configuration_survives_the_round_trip(tmp_path):
    config = load_training(written(tmp_path, content()))
    again = written(tmp_path, config.model_dump(mode="json", by_alias=True))
    assert load_training(again) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (content(windows=[8, 8]), ["windows", "'window'"]),
        (content(optimiser={"steps": 4, "learning_rat": 1}), ["learning_rat", "'learning_rate'"]),
        (content(embedding={"delta_puhs": 3}), ["delta_puhs", "'delta_push'"]),
        (content(data={"kind": "disks", "spaceing": 3}), ["spaceing", "'spacing'"]),
        (content(optimiser={"steps": 0}), ["optimiser.steps", "greater than 0"]),
        (content(window=[8, 8, 8]), ["one size per axis"]),
        (content(foreground={}), ["heads", "foreground"]),
        (content(data={"kind": "disc"}), ["disc"]),
        (
            content(data={"kind": "volume", "path": "a.h5", "region_": [[0, 9]] * 2}),
            ["unknown key 'data.region_'; did you mean 'region'"],
        ),
        (content(data={"kind": "disks", "radius": [-1, 2]}), ["training: data.radius", "-1"]),
        (content(data={"kind": "disc"}), ["data.kind is 'disc'; give disks, volume or images"]),
        (content(data={}), ["data.kind is missing; give disks"]),
        (content(data={"kind": "volume"}), ["training: data: no volume is named"]),
        (content(window=[8, 8, 8]), ["is not a training: window (8, 8, 8) needs one size"]),
        (content(optimiser={}), ["is not a training: optimiser.steps is missing; give it"]),
        (content(optimiser={"steps": 0}), ["optimiser.steps is 0; input should be greater than 0"]),
        ("", ["it is empty; give keys"]),
        ("- 3", ["it holds a list; give keys"]),
        ("a: [", ["YAML"]),
        ("!!python/object/apply:os.getcwd []", ["YAML"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, values, words):
    with pytest.raises(InputError) as refused:
        load_training(written(tmp_path, values))
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("number", [math.inf, math.nan, -0.5])
@pytest.mark.parametrize(
    "key",
    [
        *(
            f"augmentation.{name}"
            for name in ("contrast", "brightness", "gamma", "noise", "invert")
        ),
        *("augmentation.rotation", "augmentation.scale", "augmentation.sections.missing"),
        *("augmentation.elastic.spacing", "augmentation.elastic.sigma"),
        *(f"optimiser.{name}" for name in ("learning_rate", "weight_decay", "clip", "ema")),
        *(f"embedding.{name}" for name in ("weight", "delta_pull", "delta_push", "weights.1")),
        *("foreground.weight", "foreground.boundary_weight", "foreground.dice"),
        *("affinities.weight", "data.noise", "data.jitter", "data.radius", "validation.threshold"),
        "temperature.backbone",
    ],
)
def test_numbers_that_cannot_work_are_refused_by_their_key(tmp_path, key, number):
    values = content(foreground={}, affinities={"offsets": [[1, 0]]}, embedding={})
    values["temperature"] = {"schedule": "cifar10-circular"}
    values["augmentation"] = {"elastic": {"spacing": 8, "sigma": 1}}
    values["embedding"]["weights"] = [1, 1, 0]
    *names, last = (int(part) if part.isdigit() else part for part in key.split("."))
    inner = values
    for name in names:
        inner = inner.setdefault(name, {})
    inner[last] = number
    with pytest.raises(InputError, match=rf"is not a training: {key}\b"):
        load_training(written(tmp_path, values))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda p: p.parent.name)
def test_bundled_trainings_are_valid_and_named_like_their_folder(path):
    assert isinstance(load_training(path), TrainingConfig)
    assert load_training(path).name == path.parent.name
