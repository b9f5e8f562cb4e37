"""What check prints, for people and for programs, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stitchsafe.networks import ModelConfig, TorchNetwork
from stitchsafe.nn import UNet
from stitchsafe.pipeline import check
from stitchsafe.pipeline._report import draw_tile

Run = Callable[..., Any]
PADDED = UNet(
    ndim=2, in_channels=1, levels=2, base_channels=2, padding="same", heads={"a": 2, "b": 1}
)


class Lying(nn.Module):
    """Reads two voxels further than it says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x):
        return self.conv(x)

    def lattice_geometry(self):
        return {"axes": [{"stride": 1, "support": [[-1, 1]], "padded": True}] * 2}


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 1, 3, padding=1), Lying()

    def forward(self, x):
        return self.inner(self.first(x))


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2))

    def forward(self, x):
        return self.encoder(x)


@pytest.fixture
def naming(monkeypatch: pytest.MonkeyPatch):
    """Let the program find a module under a name."""

    def name(module: nn.Module) -> None:
        monkeypatch.setattr(
            "stitchsafe.pipeline._check.load_network",
            lambda model, *given, **more: TorchNetwork(module),
        )

    return name


def test_people_read_facts_outputs_and_a_drawing(run: Run, model: Path) -> None:
    ended = run("check", model)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "tiny: safe"
    table = [line.split("  ") for line in lines]
    assert any([cell.strip() for cell in row if cell][:2] == ["z", "2"] for row in table)
    assert "embedding" in ended.out
    drawing = next(line for line in lines if line.strip().startswith("|<"))
    assert "tile: n·2" in drawing
    assert "\x1b" not in ended.out
    assert all(len(line) <= 100 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("module", [PADDED, Normalised()], ids=["safe", "unsafe"])
def test_the_report_keeps_to_its_width(width: int, module: nn.Module) -> None:
    verdict = check(module, trained_on=(20, 20))
    shown = verdict.describe(width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b[" in verdict.describe(width=width, color=True)


def test_the_drawing_is_to_scale_where_labels_allow() -> None:
    (arrows, _) = draw_tile((10, 40, 20), ("a", "tile", "b"), 76)
    before, tile, after = (len(part) for part in arrows.strip("|").split("|"))
    assert tile == pytest.approx(4 * before, abs=4)
    assert after == pytest.approx(2 * before, abs=2)


def test_breaks_are_told_with_layer_reason_and_fix(run: Run, naming) -> None:
    naming(Normalised())
    ended = run("check", "theirs")
    assert ended.code == 1
    assert "TorchNetwork" not in ended.out
    for words in ("Normalised: unsafe", "encoder.1", "its statistics from the whole", "fix: "):
        assert words in ended.out, words


def test_the_object_has_all_facts(run: Run, naming) -> None:
    naming(PADDED)
    ended = run("check", "theirs", "--json", "--probe", "--trained-on", "16,16")
    assert ended.code == 0
    found = json.loads(ended.out)
    geometry = TorchNetwork(PADDED).geometry
    assert found["period"] == list(geometry.period)
    assert [each["channels"] for each in found["outputs"]] == [2, 1]
    assert found["outputs"][0]["scale"] == ["1", "1"]
    assert found["outputs"][0]["layout"] == "bcyx"
    assert found["inputs"][0]["channels"] == 1
    assert found["consensus"] == found["breaks"] == []
    assert found["probe"]["equal"] is True
    assert found["probe"]["contradictions"] == found["probe"]["skipped"] == []
    measured = found["probe"]["positive_weights"]["axes"]
    assert [axis["context"] for axis in measured] == found["context"]
    assert [axis["receptive_field"] for axis in measured] == found["receptive_field"]
    assert len(found["warnings"]) == 1
    assert "44 voxels against 16 along y" in found["warnings"][0]
    assert "probing along y" in ended.err


def test_a_layer_that_says_less_than_it_reads_is_found(run: Run, naming) -> None:
    naming(Opaque())
    assert run("check", "theirs").code == 0
    ended = run("check", "theirs", "--probe", "--json")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert found["verdict"] == "unsafe"
    (told,) = found["breaks"]
    assert told["op"] == "probe"
    assert len(found["probe"]["contradictions"]) > 2
    assert f"in {len(found['probe']['contradictions'])} points" in told["reason"]
    assert "a measurement of the whole network cannot tell" in told["reason"]
    assert "report" in found["breaks"][0]["fix"]
    assert "lattice_geometry()" in found["breaks"][0]["fix"]
    shown = run("check", "theirs", "--probe")
    assert shown.code == 1
    assert "contradicts" in shown.out


def test_what_is_unsafe_as_traced_is_not_probed(run: Run, naming) -> None:
    naming(Normalised())
    found = json.loads(run("check", "theirs", "--probe", "--json").out)
    assert found["probe"]["own_weights"]["axes"] == []
    assert "unsafe" in found["probe"]["skipped"][0]


def test_patches_of_the_training_are_compared_with_what_padded_networks_read() -> None:
    field = max(TorchNetwork(PADDED).geometry.receptive_field)
    assert check(PADDED, trained_on=(field, field)).warnings == ()
    (warning,) = check(PADDED, trained_on=(field, field - 1)).warnings
    assert "along x" in warning
    assert "along y" not in warning
    valid = UNet(ndim=2, in_channels=1, levels=2, base_channels=2, heads={"a": 1})
    assert check(valid, trained_on=(1, 1)).warnings == ()
    card = ModelConfig.model_validate(
        {
            "format": "stitchsafe-model/1",
            "name": "padded",
            "network": {"name": "unet"},
            "input": {"axes": "yx"},
            "outputs": [{"name": "a", "channels": 2}, {"name": "b", "channels": 1}],
            "training": {"window": [16, 16]},
        }
    )
    (warning,) = check(TorchNetwork(PADDED, config=card)).warnings
    assert "against 16 along x" in warning
    assert check(TorchNetwork(PADDED, config=card), trained_on=(field, field)).warnings == ()


@pytest.mark.parametrize(
    ("patch", "words"),
    [("128,128,128", "3 sizes"), ("128,0", "--trained-on"), ("many", "--trained-on")],
)
def test_patches_that_are_none_are_refused(run: Run, naming, patch: str, words: str) -> None:
    naming(PADDED)
    ended = run("check", "theirs", "--trained-on", patch)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert words in ended.err


def test_probing_leaves_the_network_as_it_was() -> None:
    network = TorchNetwork(PADDED)
    before = network.fingerprint
    image = torch.rand(1, 1, 16, 16).numpy()
    first = network.run(image)
    assert check(network, probe=True).safe
    again = network.run(image)
    assert network.fingerprint == before
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
