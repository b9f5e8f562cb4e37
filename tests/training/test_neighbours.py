"""Windows that directly neighbour each other make one example, and windows that break a rule."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from heard import Heard

from stitchsafe.errors import PlanError
from stitchsafe.geometry import NetworkGeometry, analyse_module
from stitchsafe.nn import UNet
from stitchsafe.training import (
    Objective,
    TrainingConfig,
    TrainingWindow,
    WindowRules,
    fit_window,
    open_examples,
    train,
)
from stitchsafe.training._step import stack


def network(padding: str = "same", ndim: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(ndim=ndim, levels=2, base_channels=2, growth=1, padding=padding)


@cache
def analysed(padding: str, ndim: int) -> NetworkGeometry:
    return analyse_module(network(padding, ndim), ndim=ndim, channels=1)


def fitted(module: UNet, window: tuple[int, ...], **rules: Any) -> TrainingWindow:
    return fit_window(analysed(module.padding, module.ndim), window, WindowRules(**rules))


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "format": "stitchsafe-training/1",
            "name": "neighbours",
            "data": {"kind": "disks", "spacing": 7, "radius": 2.5},
            "input": {"axes": "yx"},
            "network": {"name": "unet", "arguments": network().configuration},
            "window": [8, 8],
            "neighbours": 3,
            "optimiser": {"steps": 2},
        }
        | changes
    )


@pytest.mark.parametrize(
    ("ndim", "count", "places"),
    [
        (2, 3, ((0, 0), (1, 0), (0, 1))),
        (2, 4, ((0, 0), (1, 0), (0, 1), (1, 1))),
        (3, 4, ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))),
    ],
)
def test_each_axis_has_a_pair(ndim: int, count: int, places: tuple[tuple[int, ...], ...]) -> None:
    window = fitted(network(ndim=ndim), (8,) * ndim, neighbours=count)
    assert window.places == places
    assert window.joint.window == window.joint.input == (16,) * ndim


@pytest.mark.parametrize(("ndim", "count"), [(2, 2), (2, 5), (3, 3), (3, 9)])
def test_fewer_than_d_plus_1_or_more_than_the_block_are_refused(ndim: int, count: int) -> None:
    with pytest.raises(PlanError, match=rf"from {ndim + 1} to {2**ndim}"):
        fitted(network(ndim=ndim), (8,) * ndim, neighbours=count)


def test_windows_off_the_lattice_are_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"nearest that would do are \(8, 4\) or \(12, 8\)"):
        fitted(network(), (10, 6), neighbours=3)


def test_neighbours_may_be_of_one_period() -> None:
    with pytest.raises(PlanError, match=r"\(5, 5\)"):
        fitted(network("valid"), (4, 4))
    assert fitted(network("valid"), (4, 4), neighbours=3).joint.window == (8, 8)


def fields(module: UNet, window: TrainingWindow, image: torch.Tensor) -> torch.Tensor:
    return Objective(config(), window)._fields(module, image)["embedding"]


def test_a_valid_networks_windows_are_those_of_one_pass() -> None:
    module = network("valid")
    window = fitted(module, (8, 8), neighbours=4)
    image = torch.randn(2, 1, *window.joint.input)
    whole = module(image)
    begin = window.crop
    whole = whole[..., begin[0] : begin[0] + 16, begin[1] : begin[1] + 16]
    torch.testing.assert_close(fields(module, window, image), whole, rtol=1e-4, atol=1e-5)


def test_a_padded_networks_windows_are_passes_of_their_own_in_their_places() -> None:
    module = network()
    window = fitted(module, (8, 8), neighbours=3)
    image = torch.randn(2, 1, 16, 16)
    found = fields(module, window, image)
    torch.testing.assert_close(found[..., :8, :8], module(image[..., :8, :8]))
    torch.testing.assert_close(found[..., 8:, :8], module(image[..., 8:, :8]))
    torch.testing.assert_close(found[..., :8, 8:], module(image[..., :8, 8:]))
    assert not found[..., 8:, 8:].any()


def test_what_no_window_covers_takes_part_in_nothing() -> None:
    settings = config()
    window = fitted(network(), (8, 8), neighbours=3)
    example = open_examples(settings, window.joint, folder=Path()).draw(np.random.default_rng(0))
    other = {"clusters": example.clusters.copy(), "instances": example.instances.copy()}
    for array in other.values():
        array[8:, 8:] = np.arange(64).reshape(8, 8) + 100
    losses = [
        Objective(settings, window)(network(), stack([each], window))["loss"].item()
        for each in (example, replace(example, **other))
    ]
    assert losses[0] == losses[1]
    whole = fitted(network(), (8, 8), neighbours=4)
    losses = [
        Objective(settings, whole)(network(), stack([each], whole))["loss"].item()
        for each in (example, replace(example, **other))
    ]
    assert losses[0] != losses[1]


def test_a_padded_network_is_trained_by_neighbours(tmp_path: Path) -> None:
    result = train(config(optimiser={"steps": 1}), tmp_path / "run", device="cpu")
    assert result.window["neighbours"] == 3
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["neighbours"]
        == 3
    )


@pytest.mark.parametrize(("padding", "window"), [("valid", (4, 4)), ("same", (8, 8))])
def test_a_breaking_window_is_taken_if_asked_for_and_stamps_the_model(
    tmp_path: Path, padding: str, window: tuple[int, int]
) -> None:
    changes = {
        "network": {"name": "unet", "arguments": network(padding).configuration},
        "window": window, "neighbours": 1,
    }  # fmt: skip
    with pytest.raises(PlanError, match="allow_breaking_window: true"):
        train(config(**changes), tmp_path / "run", device="cpu")
    heard = Heard()
    asked = config(**changes, allow_breaking_window=True)
    train(asked, tmp_path / "run", device="cpu", events=heard)
    assert "network's embeddings may break at seams" in heard
    model = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert model["training"]["allow_breaking_window"] is True
    assert "may break at seams" in model["notes"][0]
    assert "may break at seams" in (tmp_path / "run" / "card.md").read_text()


def test_a_window_that_keeps_the_rules_is_not_stamped(tmp_path: Path) -> None:
    changes = {
        "network": {"name": "unet", "arguments": network("valid").configuration},
        "neighbours": 1, "allow_breaking_window": True,
    }  # fmt: skip
    train(config(**changes), tmp_path / "run", device="cpu")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["notes"] == []
