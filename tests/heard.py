"""Events that remember what they were told."""

from __future__ import annotations


class Heard:
    """Lines in the order in which they were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, total: int, unit: str) -> None: ...
    def advance(self, count: int = 1) -> None: ...
    def note(self, text: str) -> None: ...
    def say(self, message: str) -> None:
        self.lines.append(message)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)
