"""The command seams: its answer, exit codes, report and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]


def documented_keys(repository: Path) -> set[str]:
    text = (repository / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition("\n## seams\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def cut(here: Path) -> Path:
    """Labels that were cut at x = 32, under a name that would do harm in a page."""
    labels = np.zeros((48, 96), np.uint16)
    labels[:, 8:60] = 1 + np.arange(48)[:, None] // 8
    labels[:, 32:60] += 100
    path = here / "<img src=x onerror=alert(1)>.npy"
    np.save(path, labels)
    return path


class Page(HTMLParser):
    """What a page is made of, and whether every element is closed."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.places: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.places += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_result_of_predict(run: Run, here: Path, model: Path, repository: Path) -> None:
    options = ("--tile-shape", "8,8,8", "--save", "labels,fields")
    assert run("predict", "volume.zarr", "-m", model, "-o", "out.zarr", *options).code == 0
    ended = run("seams", "out.zarr", "--json", "--recompute", "1", "--html", "report.html")
    values = json.loads(ended.out)
    assert ended.code == (0 if values["ok"] else 1)
    assert set(values) == documented_keys(repository)
    assert values["grid"] == {"window": [16, 16, 16], "tile": [8, 8, 8]}
    assert values["field"] == "embedding"
    # Across z one seam of windows with 3 × 3 faces, one of tiles; likewise across y and x.
    assert values["faces"] == 2 * 9 + 2 * 9 + 2 * 9
    assert values["recomputed"]["seams"] == 3  # one across each axis
    assert values["recomputed"]["max_abs_diff"] <= values["recomputed"]["tolerance"]
    page = Page((here / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert page.seen.count("img") > 6  # image, field and labels, at seam and control


def test_cut_labels_of_others_are_seams(run: Run, here: Path, cut: Path) -> None:
    ended = run("seams", cut, "--grid", "16,32", "--html", "report.html")
    assert ended.code == 1
    assert "SEAMS found" in ended.out
    assert "x = 32" in ended.out
    text = (here / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert "script" not in page.seen
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert page.places
    assert all(place.startswith("data:image/png;base64,") for place in page.places)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "prefers-color-scheme: dark" in text


def test_right_labels_are_none(run: Run, here: Path) -> None:
    labels = np.zeros((48, 96), np.uint16)
    labels[:, 8:60] = 1 + np.arange(48)[:, None] // 8
    np.save(here / "labels.npy", labels)
    ended = run("seams", "labels.npy", "--grid", "16,32", "--json")
    assert ended.code == 0, ended.out
    assert json.loads(ended.out)["worst"] == [] or json.loads(ended.out)["ok"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--grid", "16"), "is not a shape"),
        (("--grid", "16,16,16"), "does not fit"),
        ((), "auto to have it found"),
        (("--grid", "16,32", "--origin", "a,b"), "is no voxel"),
        (("--grid", "16,32", "--html", "nowhere/report.html"), "does not exist"),
        (("--grid", "16,32", "--recompute", "1"), "no result of predict"),
        (("--grid", "16,32", "--roi", "0:99,:"), "leaves the volume"),
        (("--grid", "16,32", "--period", "4,4,4"), "does not fit"),
        (("--grid", "16,32", "--max-memory", "1MB"), "give 17 MB, a coarser grid"),
        (("--grid", "16,32", "--html", "a", "--faces", "a"), "one would replace the other"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, here: Path, cut: Path, words: tuple[str, ...], reason: str
) -> None:
    ended = run("seams", cut, *words)
    assert ended.code == 2
    assert reason in ended.err
    assert ended.err.strip().count("\n") == 0
    assert not (here / "report.html").exists()


@pytest.mark.parametrize("option", ["--html", "--faces"])
def test_only_its_own_files_are_replaced(run: Run, here: Path, cut: Path, option: str) -> None:
    labels = cut.read_bytes()
    ended = run("seams", cut, "--grid", "16,32", option, cut)
    assert ended.code == 2
    assert "so it is left alone" in ended.err
    assert cut.read_bytes() == labels
    assert run("seams", cut, "--grid", "16,32", option, "own").code == 1
    first = (here / "own").read_bytes()
    assert run("seams", cut, "--grid", "16,48", option, "own").code == 0
    assert (here / "own").read_bytes() != first
    assert sorted(each.name for each in here.iterdir() if each.suffix == ".partial") == []


@pytest.mark.parametrize(
    ("what", "grid", "reason"),
    [
        (1, "99,99", "no seam of the grid lies within 0:48,0:96"),
        (1, "1,1", "no room for one"),
        (0, "16,32", "nothing is labelled there"),
    ],
)
def test_nothing_to_compare_is_no_praise(
    run: Run, here: Path, what: int, grid: str, reason: str
) -> None:
    np.save(here / "labels.npy", np.full((48, 96), what, np.uint8))
    ended = run("seams", "labels.npy", "--grid", grid, "--html", "report.html")
    assert ended.code == 0
    assert reason in ended.out
    assert "no seams found" not in ended.out
    page = (here / "report.html").read_text(encoding="utf-8")
    assert "Nothing to compare" in page
    assert "No seams found" not in page


def test_a_masks_cells_are_no_faces(run: Run, here: Path, model: Path) -> None:
    """A quarter of the tiles is left out; their zeros are neither seam nor control."""
    from stitchsafe.volumes import open_volume

    volume = open_volume("volume.zarr")
    mask = np.ones(volume.shape, np.uint8)
    mask[:, :16, :16] = 0
    np.save(here / "mask.npy", mask)
    options = ("--tile-shape", "8,8,8", "--save", "labels,fields")
    faces = {}
    for name, given in (("all", ()), ("some", ("--mask", "mask.npy"))):
        out = f"{name}.zarr"
        assert run("predict", "volume.zarr", "-m", model, "-o", out, *options, *given).code == 0
        ended = run("seams", out, "--faces", f"{name}.npz", "--json")
        assert ended.code in (0, 1)
        with np.load(here / f"{name}.npz") as file:
            faces[name] = dict(file)
    some, every = faces["some"], faces["all"]
    inside = [
        bool(mask[tuple(corner)] and mask[tuple(corner - (np.arange(3) == axis))])
        for corner, axis in zip(every["corner"], every["axis"], strict=True)
    ]
    assert 0 < sum(inside) < len(inside)
    assert np.array_equal(some["corner"], every["corner"][inside])
    np.testing.assert_allclose(some["jump"], every["jump"][inside], rtol=0.02)  # spreads differ


def test_a_field_of_another_scale_is_refused(run: Run, here: Path) -> None:
    import torch
    from torch import nn

    import stitchsafe

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coarse, self.same = nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(1, 3, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.coarse(x), self.same(x)

    torch.manual_seed(0)
    image = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    stitchsafe.predict(
        image, model=Two(), out=here / "two.zarr", save=("fields",), tile_shape=(16, 16)
    )
    ended = run("seams", "two.zarr")
    assert ended.code == 2
    assert "1/2, 1/2 elements to a voxel" in ended.err
    assert "--field output1" in ended.err
    values = json.loads(run("seams", "two.zarr", "--field", "output1", "--json").out)
    assert values["field"] == "output1"
    assert values["grid"] == {"tile": [16, 16]}
    place = here / "two.zarr" / "fields" / "output0"
    assert json.loads(run("seams", place, "--grid", "8,8", "--json").out)["faces"] == 24


def test_every_option_is_heard(run: Run, here: Path, cut: Path) -> None:
    """Of labels that were cut at x = 32, and of a field whose channels come last."""

    def told(what: str | Path, *words: str | Path) -> tuple[int, dict[str, Any]]:
        ended = run("seams", what, "--json", *words)
        return ended.code, json.loads(ended.out)

    code, values = told(cut, "--grid", "16,32", "--origin", "4,20", "--faces", "faces.npz")
    assert code == 0  # seams at 20, 52, 84
    assert values["origin"] == [4, 20]
    with np.load(here / "faces.npz") as faces:
        corners = faces["corner"][np.arange(len(faces["axis"])), faces["axis"]]
        assert set(corners[faces["axis"] == 0]) == {4, 20, 36}
        assert set(corners[faces["axis"] == 1]) == {20, 52, 84}
    code, values = told(cut, "--grid", "16,32", "--roi", "8:40,40:")
    assert (code, values["region"]) == (0, [[8, 40], [40, 96]])
    assert values["faces"] == 2 * 2 + 1 * 3
    for period in (3, 5):
        told(cut, "--grid", "16,32", "--period", f"{period},{period}", "--faces", "faces.npz")
        with np.load(here / "faces.npz") as faces:
            at = faces["corner"][np.arange(len(faces["axis"])), faces["axis"]]
            assert (faces["control"] >= 0).all()
            assert not ((faces["control"] - at) % period).any()
    noise = np.random.default_rng(0).normal(size=(48, 96, 2)).astype(np.float32)
    np.save(here / "field.npy", noise)
    given = ("--grid", "16,32", "--axes", "yxc")
    code, values = told("field.npy", *given, "--labels", cut)
    assert (code, values["axes"], values["field"]) == (1, "yx", "field.npy")
    assert values["labels"] == str(cut)
    assert values["split_ratio"] is not None
    assert 0.5 < values["jump_ratio"] < 2
    assert told(cut, *given, "--field", "field.npy")[1]["jump_ratio"] == values["jump_ratio"]
    assert told("field.npy", *given)[1]["split_ratio"] is None
    np.save(here / "film.npy", np.stack([np.load(cut) // 200, np.load(cut)]))
    film = ("film.npy", "--axes", "tyx", "--grid", "16,32", "--time")
    assert [told(*film, time)[0] for time in ("0", "1")] == [0, 1]
    pictures = []
    for words in ((), ("--image", cut)):
        told("field.npy", *given, "--html", "report.html", *words)
        pictures.append((here / "report.html").read_text(encoding="utf-8").count("<img"))
    assert pictures[1] == 2 * pictures[0] > 0


def test_every_face_is_written_for_other_programs(cut: Path, here: Path, run: Run) -> None:
    ended = run("seams", cut, "--grid", "16,32", "--faces", "faces.npz", "--json")
    answer = json.loads(ended.out)
    with np.load(here / "faces.npz", allow_pickle=False) as faces:
        assert (str(faces["axes"]), list(faces["families"])) == ("yx", ["grid"])
        assert len(faces["score"]) == answer["faces"]
        worst = faces["score"].argmax()
        assert list(faces["corner"][worst]) == answer["worst"][0]["corner"]
    refused = run("seams", cut, "--grid", "16,32", "--faces", "no/faces.npz")
    assert refused.code == 2
    assert "--faces" in refused.err
