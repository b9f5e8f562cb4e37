"""What a widget's fields held last, remembered from one start of napari to the next."""

from __future__ import annotations

from qtpy.QtCore import QSettings

__all__ = ["recall", "remember"]


def recall(name: str, otherwise: str = "") -> str:
    """What was remembered under a name."""
    return str(_settings().value(name, otherwise))


def remember(name: str, value: str) -> None:
    """Remember a text under a name."""
    _settings().setValue(name, value)


def _settings() -> QSettings:
    return QSettings(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, "stitchsafe", "napari-plugin"
    )
