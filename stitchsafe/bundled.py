"""Where the models and the volume lie that come with the package.

They stand beside the package in a checkout, and inside it once it is installed.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo_labels", "demo_volume", "models_root"]

_PACKAGE = Path(__file__).resolve().parent


def models_root() -> Path:
    """The folder of the bundled models, each in a folder of its name."""
    installed = _PACKAGE / "_models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def demo_volume() -> Path:
    """The bundled volume: HDF5 with ``raw`` and ``labels``."""
    return _data("fib25_cut.h5")


def demo_labels() -> Path:
    """Labels of that volume by neurites-em: HDF5 with ``right``, and ``wrong``, tile by tile."""
    return _data("fib25_segmented.h5")


def _data(name: str) -> Path:
    installed = _PACKAGE / "_demo" / name
    return installed if installed.is_file() else _PACKAGE.parent / "examples" / "data" / name
