"""Every script in examples/ runs, and finds what it says it finds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EXPECTED = {
    "predict_array.py": lambda difference: difference <= 1e-5,
    "shift_equivariant_unet.py": lambda norm: norm == 0,
    "shift_invariant_classifier.py": lambda norm: norm == 0,
    "superpixels.py": lambda levels: (
        all(own > squares for own, _, squares, _ in levels) and levels[2][1] > levels[2][3] + 0.1
    ),
    "which_tiles.py": lambda shares: shares == (0, pytest.approx(1 - (3 / 6) ** 2, abs=0.01)),
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(path: Path) -> None:
    found = runpy.run_path(str(path))["main"]()
    if found is None:
        pytest.skip("its images are absent (set STITCHSAFE_DATA)")
    assert EXPECTED[path.name](found)
