"""What the package offers, and what it costs to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stitchsafe

LAZY = sorted(set(stitchsafe.__all__) - {"__version__"})


def declared_for_type_checkers(repository: Path) -> dict[str, str]:
    """Names in the block ``if TYPE_CHECKING`` of the package, with the modules they come from."""
    tree = ast.parse((repository / "stitchsafe" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", LAZY)
def test_each_name_is_there(name: str) -> None:
    assert callable(getattr(stitchsafe, name))


def test_type_checkers_and_python_are_told_the_same(repository: Path) -> None:
    assert declared_for_type_checkers(repository) == stitchsafe._HOMES
    assert sorted(stitchsafe._HOMES) == LAZY
    assert dir(stitchsafe) == sorted(stitchsafe.__all__)


@pytest.mark.parametrize("home", sorted(set(stitchsafe._HOMES.values())))
def test_homes_declare_what_they_offer(home: str) -> None:
    module = __import__(home, fromlist=["__all__"])
    offered = {name for name, place in stitchsafe._HOMES.items() if place == home}
    assert offered <= set(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_version() -> None:
    assert stitchsafe.__version__.startswith("0.1.0")


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="sliding_window_inference"):
        stitchsafe.sliding_window_inference  # noqa: B018


@pytest.mark.parametrize("what", ["stitchsafe", "stitchsafe.cli", "stitchsafe.volumes"])
def test_importing_costs_no_torch(what: str) -> None:
    code = f"import sys, {what}; print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


def test_the_verbs_cost_no_more_than_torch() -> None:
    """What only labels, training or scores need is imported there."""
    late = ("scipy", "sklearn", "cc3d", "matplotlib", "pandas")
    code = f"import sys, stitchsafe.pipeline; print([m for m in {late} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


def test_help_costs_no_torch() -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from stitchsafe.cli import main\n"
        "main(['predict', '--help'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "False"
