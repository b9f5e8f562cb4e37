"""Training from a configuration to a model folder, with tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from heard import Heard
from safetensors.torch import load_file
from tiny_training import Stop, tiny

from stitchsafe.errors import InputError, InterruptedRunError, PlanError, StoreError, VolumeError
from stitchsafe.networks import load_folder
from stitchsafe.training import TrainingConfig, image_files, load_training, train


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def volume_training(**changes) -> TrainingConfig:
    return tiny(
        data={"kind": "volume", "path": "cells.h5", "region": [[0, 14], [0, 26], [0, 26]]},
        input={"axes": "zyx", "normalize": "percentile"},
        network={
            "name": "unet",
            "arguments": {
                "ndim": 3, "levels": 1, "base_channels": 2,
                "heads": {"embedding": 2, "foreground": 1},
            },
        },
        window=[4, 8, 8],
        embedding={"pairs": "touching", "reach": 1, "background": "ignored"},
        foreground={"reach": 1, "boundary_weight": 2},
        augmentation={"contrast": 0.1, "noise": 0.1},
        precision="bfloat16",
        **changes,
    )  # fmt: skip


@pytest.fixture
def cells(tmp_path) -> Path:
    path = tmp_path / "cells.h5"
    labels = np.ones((20, 26, 26), dtype=np.uint16)
    labels[:, 13:], labels[10:] = 2, 5
    raw = (labels * 30 + np.random.default_rng(0).integers(0, 9, labels.shape)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["raw"], file["labels"] = raw, labels
    return path


def test_a_run_is_a_model_folder(tmp_path):
    result = train(tiny(), tmp_path / "run")
    network = load_folder(tmp_path / "run")
    assert network.config.name == "tiny"
    assert network.config.labels.model_dump()["bandwidth"] == 3.0
    assert [output.name for output in network.outputs] == ["embedding"]
    assert json.loads((tmp_path / "run" / "geometry.json").read_text())
    assert "# tiny" in (tmp_path / "run" / "card.md").read_text()
    assert result.to_json()["steps"] == 6
    assert set(result.losses) == {"loss", "pull", "push", "regular"}


def test_training_lowers_the_loss(tmp_path):
    config = tiny(optimiser={"steps": 150, "batch": 2, "learning_rate": 0.003})
    train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.6 * losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny(seed=seed), tmp_path / name)
    a, b, c = (load_file(tmp_path / name / "weights.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, cells):
    train(volume_training(), tmp_path / "whole", data=cells)
    with pytest.raises(KeyboardInterrupt):
        train(volume_training(), tmp_path / "parts", data=cells, events=Stop(5))
    result = train(volume_training(), tmp_path / "parts", data=cells)
    assert result.resumed_from == 4
    assert result.steps == 6
    whole, parts = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_another_training_in_the_same_folder_is_refused_and_overwrite_starts_anew(tmp_path):
    train(tiny(), tmp_path / "run")
    with pytest.raises(StoreError, match=r"another configuration \(seed is 3, and was 0\)"):
        train(tiny(seed=3), tmp_path / "run")
    assert train(tiny(seed=3), tmp_path / "run", overwrite=True).resumed_from == 0


def test_what_is_only_said_of_a_finished_run_is_written_anew_without_training(tmp_path):
    run, heard = tmp_path / "run", Heard()
    train(tiny(optimiser={"steps": 2}), run, device="cpu")
    kept = {name: (run / name).read_bytes() for name in ("weights.safetensors", "checkpoint.pt")}
    labels = {"from": "embeddings", "window": [64, 64], "bandwidth": 1.5}
    said = {"labels": labels, "card": {"data": "two disks"}, "description": "Finds disks."}
    changed = tiny(optimiser={"steps": 2}, **said)
    assert train(changed, run, device="cpu", events=heard).resumed_from == 2
    assert "are written anew" in heard
    assert load_folder(run).config.labels.model_dump()["bandwidth"] == 1.5
    card = (run / "card.md").read_text()
    assert all(words in card for words in ("bandwidth 1.5", "two disks", "Finds disks.", "2 steps"))
    assert load_training(run / "train.yaml").labels.model_dump()["bandwidth"] == 1.5
    assert {name: (run / name).read_bytes() for name in kept} == kept
    again = Heard()
    train(changed, run, device="cpu", events=again)
    assert "anew" not in again
    record = (run / "train.yaml").read_bytes()
    with pytest.raises(StoreError, match=r"has done 2 steps already, and 1 are asked for; give 2"):
        train(changed, run, device="cpu", steps=1)
    assert (run / "train.yaml").read_bytes() == record


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        train(tiny(), tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (tiny(window=[2, 2]), PlanError),
        (volume_training(), VolumeError),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, config, error):
    with pytest.raises(error):
        train(config, tmp_path / "run", data=tmp_path / "none.h5")
    assert not (tmp_path / "run").exists()


def test_a_region_that_leaves_the_volume_is_refused(tmp_path, cells):
    data = {"kind": "volume", "path": "cells.h5", "region": [[0, 99], [0, 26], [0, 26]]}
    config = volume_training().model_copy(update={"data": type(volume_training().data)(**data)})
    with pytest.raises(VolumeError, match="reaches out"):
        train(config, tmp_path / "run", data=cells)


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_kept(tmp_path):
    config = tiny(optimiser={"steps": 40, "learning_rate": 1e30}, checkpoint_every=1)
    with pytest.raises(InterruptedRunError, match="learning_rate"):
        train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_paths_are_relative_to_the_configurations_folder(tmp_path, cells):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(volume_training().model_dump(mode="json", by_alias=True)))
    assert load_training(path).data.path == "cells.h5"
    assert train(path, tmp_path / "run", steps=1).steps == 1


def test_the_card_says_what_was_said(tmp_path, cells):
    path = tmp_path / "my cells.yaml"
    path.write_text(yaml.safe_dump(volume_training().model_dump(mode="json", by_alias=True)))
    train(path, tmp_path / "run", steps=1, data=tmp_path / "cells.h5")
    said = "stitchsafe train 'my cells.yaml' --data cells.h5 --steps 1"
    assert load_folder(tmp_path / "run").config.training["command"] == said
    assert f"`{said}`" in (tmp_path / "run" / "card.md").read_text()


def test_every_fifth_image_is_kept_back(tmp_path):
    for name in "abcdefghijkl":
        np.savez(tmp_path / f"{name}.npz", image=np.zeros((4, 4)), labels=np.zeros((4, 4), int))
    data = TrainingConfig.model_validate(
        tiny().model_dump() | {"data": {"kind": "images", "path": "."}}
    ).data
    used, kept = image_files(tmp_path, data)
    assert [p.stem for p in kept] == ["e", "j"]
    assert len(used) == 10


def test_images_of_any_size_and_colour_are_trained_on(tmp_path):
    generator = np.random.default_rng(0)
    for name, shape in (("a", (40, 50)), ("b", (60, 33, 3))):
        labels = np.zeros(shape[:2], dtype=np.int32)
        labels[5:20, 5:20] = 1
        image = generator.integers(0, 255, shape).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", image=image, labels=labels)
    config = tiny(data={"kind": "images", "path": "."}, input={"axes": "yx"}, window=[16, 16])
    assert train(config, tmp_path / "run", data=tmp_path).steps == 6


def test_images_on_a_bright_ground_can_be_left_out(tmp_path):
    image = np.full((40, 40), 200, dtype=np.uint8)
    image[5:15, 5:15] = 10
    labels = (image < 100).astype(np.int32)
    np.savez(tmp_path / "a.npz", image=image, labels=labels)
    config = tiny(
        data={"kind": "images", "path": ".", "ground": "dark"},
        input={"axes": "yx", "normalize": "percentile"},
    )
    with pytest.raises(VolumeError, match="none of the 0"):
        train(config, tmp_path / "run", data=tmp_path)
    np.savez(tmp_path / "b.npz", image=255 - image, labels=labels)
    assert train(config, tmp_path / "run", data=tmp_path, steps=1).steps == 1


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'disks'"):
        train("disk")
