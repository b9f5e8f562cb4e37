"""The script behind docs/networks.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from stitchsafe.networks import TorchNetwork


@pytest.fixture(scope="module")
def survey(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("survey", repository / "benchmarks/survey.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["survey"] = module
    spec.loader.exec_module(module)
    return module


def small(norm: nn.Module) -> TorchNetwork:
    return TorchNetwork(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), norm, nn.MaxPool2d(2), nn.Conv2d(2, 2, 3),
                      nn.ConvTranspose2d(2, 1, 2, 2))
    )  # fmt: skip


def test_a_safe_network_is_probed_and_stitched(survey: ModuleType) -> None:
    cells = survey.row(survey.Entry("small", "here", lambda: small(nn.BatchNorm2d(2)))).split(" | ")
    assert cells[3:5] == ["safe", "2×2"]
    assert "equals trace; stitched = whole to " in cells[-1]
    assert float(cells[-1].split()[-2]) <= 1e-5


def test_an_unsafe_network_is_blamed_and_an_absent_package_said(survey: ModuleType) -> None:
    blamed = survey.row(survey.Entry("small", "here", lambda: small(nn.InstanceNorm2d(2))))
    assert "unsafe" in blamed
    assert "`1`: instance normalisation" in blamed
    absent = survey.row(survey.module("none", "no_such_package.nets:Net"))
    assert "not installed (no_such_package)" in absent


def test_every_network_of_the_table_is_listed_once(survey: ModuleType, repository: Path) -> None:
    names = [entry.name for entry in survey.torch_entries()]
    assert len(names) == len(set(names)) > 20
    table = (repository / "docs/networks.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in table for name in names)
