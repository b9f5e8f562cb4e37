"""What a run tells while it runs. Who listens decides what to show."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Events", "Silent"]


class Events(Protocol):
    """Receives the progress of a run."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """A stage of `total` portions begins."""

    def advance(self, count: int = 1) -> None:
        """So many portions of the stage are done."""

    def note(self, text: str) -> None:
        """What stands beside the progress from now on, such as how good it is."""

    def say(self, message: str) -> None:
        """Something that the user should know."""


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: int, unit: str) -> None:
        del name, total, unit

    def advance(self, count: int = 1) -> None:
        del count

    def note(self, text: str) -> None:
        del text

    def say(self, message: str) -> None:
        del message
