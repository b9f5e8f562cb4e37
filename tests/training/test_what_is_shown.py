"""What a training shows at its end: its own stitched prediction of a part, counted and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from heard import Heard

import stitchsafe
from stitchsafe import learning
from stitchsafe.cli import main
from stitchsafe.errors import PlanError
from stitchsafe.training import TrainingConfig, compare


def disks(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "tiny",
            "data": {"kind": "disks", "spacing": 9, "radius": 3},
            "input": {"axes": "yx"},
            "network": {"name": "unet", "arguments": {"ndim": 2, "levels": 1, "base_channels": 4}},
            "window": [16, 16],
            "optimiser": {"steps": 2},
            "labels": {"from": "embeddings", "window": [48, 48], "bandwidth": 3},
        }
        | changes
    )


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    labels = np.zeros((20, 26, 26), dtype=np.uint16)
    labels[4:8, 2:9, 2:9], labels[9:13, 14:22, 14:22], labels[15:] = 1, 2, 5
    raw = (labels * 30 + np.random.default_rng(0).integers(0, 9, labels.shape)).astype(np.uint8)
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["raw"], file["labels"] = raw, labels
    return tmp_path / "cells.h5"


def volume(**changes: Any) -> TrainingConfig:
    heads = {"embedding": 2, "foreground": 1}
    own = {
        "data": {"kind": "volume", "path": "cells.h5", "region": [[0, 14], [0, 26], [0, 26]]},
        "input": {"axes": "zyx", "normalize": "percentile"},
        "network": {"name": "unet", "arguments": {"ndim": 3, "levels": 1, "heads": heads}},
        "window": [4, 8, 8],
        "foreground": {},
        "labels": {"from": "foreground", "window": [8, 16, 16]},
    }
    return disks(**own | changes)


def test_a_training_shows_fresh_disks_and_the_same_ones_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = stitchsafe.train(disks(), run)
    assert first.shown is not None
    told = first.to_json()["shown"]
    assert told["part"] == "a fresh drawing of disks"
    assert told["picture"] == str(run / "picture.png")
    # 48 voxels hold five or six rows of disks, of which the first and the last may be cut.
    assert 16 <= told["whole"] <= 36
    assert 0 <= told["matched"] <= told["ids"] <= told["whole"]
    assert first.describe().splitlines()[0] == f"{first.shown}: see {run / 'picture.png'}"
    picture, card = ((run / name).read_bytes() for name in ("picture.png", "card.md"))
    assert picture.startswith(b"\x89PNG")
    assert card.decode().count("![picture](picture.png)") == 1
    assert f"whole disks in a fresh drawing of disks, {told['matched']} of them" in card.decode()
    (run / "picture.png").unlink()
    again = stitchsafe.train(disks(), run)
    assert again.resumed_from == 2
    assert again.shown == first.shown
    assert [(run / name).read_bytes() for name in ("picture.png", "card.md")] == [picture, card]
    assert stitchsafe.train(disks(seed=1), run, overwrite=True, steps=1).resumed_from == 0
    assert (run / "picture.png").read_bytes() != picture


def test_the_next_training_here_has_its_threads_and_so_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stitchsafe.train(disks(), tmp_path / "run")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is given to be drawn, from now on."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(learning, "draw_part", lambda *given: calls.append(given))
    return calls


@pytest.mark.parametrize(("normalize", "begin"), [("none", 2), ("percentile", 0)])
def test_what_is_shown_is_what_predict_gives(
    tmp_path: Path, cells: Path, monkeypatch: pytest.MonkeyPatch, normalize: str, begin: int
) -> None:
    """Of a part in the middle of more, scaled by the statistics of all that was trained on."""
    calls = drawn(monkeypatch)
    region = [[begin, 20], [0, 26], [0, 26]]
    data = {"kind": "volume", "path": "cells.h5", "region": region}
    asked = volume(data=data, input={"axes": "zyx", "normalize": normalize})
    result = stitchsafe.train(asked, tmp_path / "run", data=cells)
    assert result.shown is not None
    assert result.shown.part == "a part that was trained on"
    ((_, _, (name, field), labels, truth, _),) = calls
    made = stitchsafe.predict(
        f"{cells}:raw", model=tmp_path / "run", out=tmp_path / "whole.zarr",
        save=("labels", "fields"),
    )  # fmt: skip
    with h5py.File(cells) as file:
        stored = file["labels"][:]
    corner = 12, 10, 10  # of the most voxels of instances
    box = stitchsafe.Roi(corner, (8, 16, 16))
    assert np.array_equal(truth > 0, stored[box.slices] > 0)
    expected = stitchsafe.open_volume(made.out, image=f"fields/{name}").read(box)
    np.testing.assert_allclose(field, expected, atol=1e-5 * np.abs(expected).max())
    assert labels.shape == (8, 16, 16)


def test_what_was_kept_back_is_shown_before_what_was_trained_on(
    tmp_path: Path, cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = drawn(monkeypatch)
    kept = {"kind": "volume", "path": "cells.h5", "region": [[14, 20], [0, 26], [0, 26]]}
    asked = volume(validation={"data": kept})
    result = stitchsafe.train(asked, tmp_path / "run", data=cells)
    assert result.shown is not None
    assert result.shown.part == "what validation has kept back"
    assert str(result.shown) == "in what validation has kept back, no instances are whole"
    assert calls[0][3].shape == (6, 16, 16)


def test_no_picture_is_no_harm_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise PlanError("1 KB is too little; give more")

    monkeypatch.setattr(learning, "predict", failing)
    heard = Heard()
    result = stitchsafe.train(disks(), tmp_path / "run", events=heard)
    assert (result.steps, result.shown) == (2, None)
    assert any("no picture" in line and "1 KB is too little" in line for line in heard.lines)
    assert "picture" not in (tmp_path / "run" / "card.md").read_text()


def test_the_command_prints_what_was_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn(monkeypatch)
    monkeypatch.chdir(tmp_path)
    content = disks().model_dump(mode="json", by_alias=True)
    (tmp_path / "some.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as ended:
        main(["train", "some.yaml", "-o", "run"])
    assert ended.value.code == 0
    found, result = capsys.readouterr().out.splitlines()
    assert "whole disks in a fresh drawing of disks" in found
    assert found.endswith("see run/picture.png")
    assert result.startswith("run: 2 steps")


def test_whole_instances_are_counted_with_their_ids() -> None:
    truth = np.zeros((12, 30), dtype=np.int32)
    found = np.zeros_like(truth)
    for number, left in enumerate((1, 7, 13, 19, 25), start=1):
        truth[4:8, left : left + 4] = number
    truth[0:2, 1:5] = 6  # at the border
    truth[10:12, 20:24] = -1  # nothing is known
    assert compare(found, truth) == (5, 0, 0)
    assert compare(np.where(truth > 0, truth + 3, 0), truth) == (5, 5, 5)
    found[truth == 1] = found[truth == 2] = 4  # one id for two
    found[truth == 3] = 5
    found[4:6, 19:23], found[7:8, 19:23] = 6, 7  # half of it, which is not more than half
    found[10:12] = 5  # much too large, but where nothing is known
    assert compare(found, truth) == (5, 3, 0)
    found[10:12, :20] = found[10:12, 24:] = 0
    assert compare(found, truth) == (5, 3, 1)
