"""The figures of Rumberger et al. come out of their script, with the counts that they claim."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "rumberger" / "figures.py"
PANELS = {"2": 3, "3": 3, "4": 2, "5": 6, "6": 2, "7": 2}


@pytest.fixture
def figures() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def found(
    figures: dict[str, Any], name: str, folder: Path, steps: int | None = None
) -> dict[str, str]:
    shop = figures["Workshop"](folder, steps)
    panels = list(figures["FIGURES"][name](False, shop))
    figures["draw"](folder / "figure.png", panels)
    assert (folder / "figure.png").stat().st_size > 5000
    assert len(panels) == PANELS[name]
    return {f"{panel.name} {panel.setting}": panel.found for panel in panels}


def test_each_figure_is_here(figures: dict[str, Any]) -> None:
    assert figures["FIGURES"].keys() == PANELS.keys()


@pytest.mark.parametrize("name", ["3", "7"])
def test_a_figure_is_made_in_a_few_steps(
    figures: dict[str, Any], name: str, tmp_path: Path
) -> None:
    assert all(found(figures, name, tmp_path, steps=1).values())


def test_padding_tells_pixels_apart_as_far_as_the_border_reaches(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    """20 pixels where the image is padded, and 22 where every convolution is."""
    differ = [int(each.split()[0]) for each in found(figures, "5", tmp_path).values()]
    assert differ == [40**2, 41**2, 41**2, 40**2, 44**2, 45**2]


@pytest.mark.slow
def test_objects_get_as_many_ids_as_the_law_says(figures: dict[str, Any], tmp_path: Path) -> None:
    assert list(found(figures, "2", tmp_path).values()) == ["1 id", "16 ids", "16 ids"]


@pytest.mark.slow
def test_small_windows_and_wrong_crops_break_objects(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    broken = list(found(figures, "3", tmp_path).values())
    assert broken[0] == broken[1] == "100% of pairs over the lines, 0% elsewhere"
    assert broken[2] == "0% of pairs over the lines, 0% elsewhere"


@pytest.mark.slow
def test_pixels_get_an_id_of_their_own_within_the_period(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    assert list(found(figures, "4", tmp_path).values()) == ["16 ids", "1 id"]


@pytest.mark.slow
def test_noise_and_deformation_tell_apart_but_heal_no_wrong_crop(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    right = found(figures, "6", tmp_path).values()
    ids = [int(each.split()[0]) for each in right]
    lines = [int(each.split("; ")[1].split("%")[0]) for each in right]
    assert min(ids) >= 12
    assert max(lines) <= 2
    wrong = found(figures, "7", tmp_path).values()
    assert all(int(each.split("%")[0]) > 50 for each in wrong)
