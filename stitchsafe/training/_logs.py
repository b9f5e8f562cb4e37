"""What is kept of a training's course: ``history.jsonl`` always, more if asked for.

A training that goes on from a checkpoint does some steps once more. What had been noted of them is
taken out, so that each step is in the history once.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stitchsafe.errors import MissingExtraError
from stitchsafe.networks import write_whole

__all__ = ["CSV", "HISTORY", "TENSORBOARD", "Logs", "require_tensorboard"]

HISTORY, CSV, TENSORBOARD = "history.jsonl", "history.csv", "tensorboard"


def require_tensorboard() -> Any:
    """The module that writes for TensorBoard.

    Raises
    ------
    MissingExtraError
        If the extra is not installed.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard") from error


class Logs:
    """The logs of a run, from a step on.

    Parameters
    ----------
    run
        Their folder.
    step
        Steps done; what is noted of later ones is dropped.
    table, tensorboard
        Whether there are ``history.csv`` and TensorBoard's files as well.
    """

    def __init__(
        self, run: Path, step: int, *, table: bool = False, tensorboard: bool = False
    ) -> None:
        self._run, self._wants_table = run, table
        self._entries = [entry for entry in _read(run / HISTORY) if entry["step"] <= step]
        self._writer: Any = None
        if tensorboard:
            self._writer = require_tensorboard().SummaryWriter(
                str(run / TENSORBOARD), purge_step=step + 1
            )
        self._rewrite()

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def note(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Note what was found at a step."""
        entry = {"step": step, "seconds": round(seconds, 1)}
        entry |= {name: round(value, 5) for name, value in values.items()}
        self._entries.append(entry)
        with (self._run / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._wants_table:
            self._table()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def _rewrite(self) -> None:
        text = "".join(json.dumps(entry) + "\n" for entry in self._entries)
        write_whole(self._run / HISTORY, text.encode())
        if self._wants_table:
            self._table()

    def _table(self) -> None:
        """All entries anew: a column may be there for some only, such as scores."""
        columns = list(dict.fromkeys(name for entry in self._entries for name in entry))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns)
        table.writeheader()
        table.writerows(self._entries)
        write_whole(self._run / CSV, text.getvalue().encode())


def _read(path: Path) -> list[dict[str, Any]]:
    """Entries of a history; a last line that a crash has torn is none."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            found.append(entry)
    return found
