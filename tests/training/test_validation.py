"""What a training is judged by: kept-back data, predicted by stitching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

import stitchsafe
from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError, VolumeError
from stitchsafe.learning import judge
from stitchsafe.metrics import Scores, _evaluate
from stitchsafe.networks import load_folder
from stitchsafe.training import TrainingConfig, train
from stitchsafe.training._loop_config import ValidationConfig
from stitchsafe.training._validation import is_better, mean_scores, open_kept_back
from stitchsafe.volumes import open_volume


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    labels = np.zeros((24, 24, 24), dtype=np.uint16)
    labels[2:10, 2:20, 2:20], labels[14:22, 3:12, 3:12], labels[14:22, 14:22, 14:22] = 1, 2, 3
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["raw"], file["labels"] = (labels > 0).astype(np.uint8) * 200, labels
        file["few"] = np.where(labels == 1, labels, 0)
    return tmp_path / "cells.h5"


def volume(**changes: Any) -> dict[str, Any]:
    return {"kind": "volume", "path": "cells.h5"} | changes


def config(**changes: Any) -> TrainingConfig:
    network = {
        "ndim": 3, "levels": 1, "base_channels": 2, "growth": 1,
        "heads": {"embedding": 2, "foreground": 1},
    }  # fmt: skip
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "judged",
            "data": volume(region=[[0, 12], [0, 24], [0, 24]]),
            "input": {"axes": "zyx", "voxel_size": [10, 10, 10], "normalize": "percentile"},
            "network": {"name": "unet", "arguments": network},
            "window": [4, 8, 8],
            "foreground": {},
            "embedding": {"background": "ignored"},
            "optimiser": {"steps": 1},
        }
        | changes
    )


def kept(**data: Any) -> dict[str, Any]:
    return {"data": volume(**data)}


@pytest.mark.parametrize("region", [None, [[0, 12], [0, 24], [0, 24]], [[11, 24], [0, 24], [0, 9]]])
def test_a_network_is_not_judged_by_what_it_has_learned(
    tmp_path: Path, cells: Path, region: Any
) -> None:
    asked = config(validation=kept(region=region))
    with pytest.raises(InputError, match=r"voxels of .*cells.h5.* that are trained on"):
        train(asked, tmp_path / "run", data=cells, device="cpu", judge=judge)
    assert not (tmp_path / "run").exists()


def test_a_region_is_predicted_where_it_lies_and_scored(
    tmp_path: Path, cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the verb itself, though the file says no voxel size and the network needs one."""
    seen: list[tuple[Roi, Scores]] = []

    def watching(module: Any, model: Any, data: Any, *more: Any) -> Scores:
        scores = judge(module, model, data, *more)
        seen.append((data.region, scores))
        return scores

    bounds = [[12, 24], [0, 24], [0, 24]]
    asked = config(validation=kept(region=bounds))
    result = train(asked, tmp_path / "run", data=cells, device="cpu", judge=watching)
    ((region, scores),) = seen
    assert region == Roi((12, 0, 0), (12, 24, 24))
    assert scores.n_true == 2
    assert result.scores["ap_0.5"] == scores.ap[0.5]
    assert result.best_step == 1
    found = stitchsafe.predict(
        cells.with_name("cells.h5").as_posix() + ":raw", model=tmp_path / "run",
        out=tmp_path / "labels.zarr", roi=[(12, 24), (0, 24), (0, 24)], voxel_size="10,10,10nm",
    )  # fmt: skip
    again = stitchsafe.evaluate(found.out, f"{cells}:labels", thresholds=(0.5,))
    assert again == scores
    network = load_folder(tmp_path / "run")
    (unsure,) = open_kept_back(
        config(validation=kept(region=bounds, ignore=3)), folder=tmp_path, data=cells
    )
    asked_for: list[int] = []
    read = type(unsure.labels).read
    monkeypatch.setattr(_evaluate, "_default_block", lambda shape: (4, 8, 8))
    monkeypatch.setattr(
        type(unsure.labels),
        "read",
        lambda self, roi: (
            asked_for.append(roi.size if "labels" in self.path else 0) or read(self, roi)
        ),
    )
    streamed = judge(network.module, network.config, unsure, (0.5,), "cpu")
    monkeypatch.undo()
    assert 0 < max(asked_for) <= 4 * 8 * 8  # block by block, and never all of them
    assert streamed.n_true == 1
    truth = unsure.labels.read(Roi((12, 0, 0), (12, 24, 24)))[0]
    mine = open_volume(found.out, image="labels/instances").read(unsure.region)[0]
    assert streamed == stitchsafe.evaluate(
        mine * (truth != 3), truth * (truth != 3), thresholds=(0.5,)
    )


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"validation": {}}, InputError, "keep a region or a volume back"),
        ({"validation": kept(region=[[0, 99], [0, 24], [0, 24]])}, VolumeError, "reaches out"),
        ({"validation": kept(labels="few", region=[[12, 24]] * 3)}, VolumeError, "no instance"),
    ],
)
def test_nothing_to_be_judged_by_is_refused_before_anything_is_written(
    tmp_path: Path, cells: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    (tmp_path / "train.yaml").write_text(
        yaml.safe_dump(config(**changes).model_dump(mode="json", by_alias=True))
    )
    with pytest.raises(error, match=words):
        stitchsafe.train(tmp_path / "train.yaml", tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_who_cannot_predict_cannot_judge(tmp_path: Path, cells: Path) -> None:
    asked = config(validation=kept(region=[[12, 24], [0, 24], [0, 24]]))
    with pytest.raises(InputError, match=r"stitchsafe\.train"):
        train(asked, tmp_path / "run", data=cells, device="cpu")


def test_images_that_are_kept_back_are_what_judges(tmp_path: Path) -> None:
    for name in "abcdef":
        image = np.zeros((20, 20), dtype=np.uint8)
        image[4:9, 4:9] = 200 if name != "f" else 0
        np.savez(tmp_path / f"{name}.npz", image=image, labels=(image > 0).astype(np.int32))
    asked = config(
        data={"kind": "images", "path": ".", "keep_back": 2},
        input={"axes": "yx"},
        network={
            "name": "unet",
            "arguments": {"ndim": 2, "levels": 1, "heads": {"embedding": 2, "foreground": 1}},
        },
        window=[8, 8],
        validation={},
    )
    names = [Path(each.name).stem for each in open_kept_back(asked, folder=tmp_path)]
    assert names == ["b", "d"]  # f has nothing in it


def test_synthetic_images_that_judge_are_drawn_for_that_alone() -> None:
    asked = config(
        data={"kind": "disks", "radius": 3.0},
        input={"axes": "zyx"},
        validation={"size": [20, 24, 28], "count": 2},
    )
    first, second = open_kept_back(asked, folder=Path())
    assert first.image.shape == first.labels.shape == (20, 24, 28)
    arrays = [each.image.read(each.region) for each in (first, second)]
    assert not np.array_equal(*arrays)
    again = open_kept_back(asked, folder=Path())[0]
    assert np.array_equal(again.image.read(again.region), arrays[0])


def test_scores_are_means_and_the_one_that_decides_is_chosen() -> None:
    rows = [
        Scores(0.2, 1, 1, 1.0, 3.0, {0.5: 0.4}, 1, 1),
        Scores(0.4, 1, 1, 2.0, 0.0, {0.5: 0.8}, 1, 1),
    ]
    means = mean_scores(rows, 0.5)
    assert means == pytest.approx(
        {"adapted_rand_error": 0.3, "voi_split": 1.5, "voi_merge": 1.5, "ap_0.5": 0.6}
    )
    one, two = mean_scores(rows[:1], 0.5), mean_scores(rows[1:], 0.5)
    for score, better in (("adapted_rand_error", one), ("voi", two), ("ap", two)):
        other = two if better is one else one
        wish = ValidationConfig.model_validate({"score": score})
        assert is_better(better, other, wish)
        assert not is_better(other, better, wish)
        assert not is_better(better, better, wish)
