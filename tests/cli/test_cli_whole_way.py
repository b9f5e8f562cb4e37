"""The real program on good input: it does what documents promise, and says it in their keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]

TRAINING = """
format: stitchsafe-training/1
name: disks
data: {kind: disks}
input: {axes: yx}
network: {name: unet, arguments: {ndim: 2, levels: 1, base_channels: 2, heads: {embedding: 2}}}
window: [12, 12]
optimiser: {steps: 2}
"""


def documented_keys(repository: Path, command: str) -> set[str]:
    """First column of the table that docs/json.md has for a command."""
    text = (repository / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_whole_way(run: Run, here: Path, model: Path, repository: Path) -> None:
    predicted = run("predict", "volume.zarr", "-m", model, "-o", "out.zarr", "--json")
    assert predicted.code == 0, predicted.err
    values = json.loads(predicted.out)
    assert values["blocks_done"] == values["blocks_total"] > 0
    assert values["exact"] is True
    verified = json.loads(run("verify", "out.zarr", "--json").out)
    assert verified["ok"] is True
    assert set(verified) == documented_keys(repository, "verify")
    again = json.loads(run("predict", "volume.zarr", "-m", model, "-o", "out.zarr", "--json").out)
    assert (again["blocks_done"], again["instances"]) == (0, values["instances"])
    scores = json.loads(run("evaluate", "out.zarr", "out.zarr", "--json").out)
    assert scores["adapted_rand_error"] == pytest.approx(0)
    assert scores["n_pred"] == values["instances"]
    assert scores["seams"] is None
    exported = json.loads(run("export", "out.zarr", "--to", "csv", "--json").out)
    assert set(exported) == documented_keys(repository, "export")
    assert exported["files"] == {"csv": str(here / "out.csv")}


def test_harm_at_seams_is_told(run: Run, here: Path, model: Path) -> None:
    small = ("--tile-shape", "8,16,16", "--roi", "4:20,:,:")
    assert run("predict", "volume.zarr", "-m", model, "-o", "out.zarr", *small).code == 0
    truth = np.ones((20, 24, 24), np.uint8)
    truth[:, 16:] = 2
    np.save(here / "truth.npy", truth)
    shown = run("evaluate", "out.zarr", "truth.npy", "--grid", "auto")
    assert shown.code == 0, shown.err
    assert re.search(r"cells 16 x 16 x 16 +[\d,]+ +[\d,]+ \([\d.e+]+ %\)", shown.out)
    seams = json.loads(run("evaluate", "out.zarr", "truth.npy", "--grid", "auto", "--json").out)[
        "seams"
    ]
    pairs = {
        name: family["inside"] + family["between"] for name, family in seams["families"].items()
    }
    # Of the region alone: z = 16 and y = x = 16 are seams of cells, z = 8 is one of tiles.
    assert pairs == {"cells": 24 * 24 + 2 * 16 * 24, "tiles": 24 * 24}
    assert seams["families"]["tiles"]["grid"] == [8, 16, 16]
    assert seams["all"]["between"] == 16 * 24
    labels = np.load(here / "truth.npy")
    labels[:, :, 12:] = 5
    np.save(here / "labels.npy", labels)
    scored = json.loads(
        run("evaluate", "labels.npy", "truth.npy", "--grid", "8,16,12", "--json").out
    )
    at = scored["seams"]["families"]["grid"]
    assert (at["false_splits"], at["inside"]) == (20 * 24, 20 * 24 + 2 * 24 * 24)
    assert scored["seams"]["control"]["false_splits"] == 0
    assert scored["seams"]["worst"][0]["axis"] == "x"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check", ["MODEL"]),
        ("plan", ["volume.zarr", "-m", "MODEL"]),
        ("predict", ["volume.zarr", "-m", "MODEL", "-o", "out.zarr"]),
        ("evaluate", ["labels.npy", "labels.npy"]),
        ("train", ["train.yaml", "-o", "run"]),
    ],
)
def test_keys_are_those_of_the_documents(
    command: str, words: list[str], run: Run, here: Path, model: Path, repository: Path
) -> None:
    (here / "train.yaml").write_text(TRAINING)
    np.save(here / "labels.npy", np.ones((4, 8, 8), np.uint32))
    ended = run(command, *(str(model) if word == "MODEL" else word for word in words), "--json")
    assert ended.code == 0, ended.err
    assert set(json.loads(ended.out)) == documented_keys(repository, command)
