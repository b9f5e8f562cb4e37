"""Files that an export writes: where they go, and that all come into being together, or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stitchsafe.errors import StoreError
from stitchsafe.interruption import untorn
from stitchsafe.tiling import format_bytes
from stitchsafe.volumes import PARTIAL, is_url

__all__ = ["Export", "arriving", "export_targets", "refuse_place"]


@dataclass(frozen=True)
class Export:
    """What export wrote.

    Parameters
    ----------
    files
        Path by form.
    seconds
        Time that it took.
    """

    files: dict[str, Path]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all that was asked for was written."""
        return True

    def to_json(self) -> dict[str, Any]:
        return {
            "files": {form: str(path) for form, path in self.files.items()},
            "bytes": {form: path.stat().st_size for form, path in self.files.items()},
            "seconds": self.seconds,
            "parity": None,
            "refused": {},
        }

    def describe(self) -> str:
        sizes = ((path, format_bytes(path.stat().st_size)) for path in self.files.values())
        return "\n".join(f"{path} ({size})" for path, size in sizes)


def export_targets(
    name: str, beside: Path, endings: Mapping[str, str], out: str | Path | None
) -> dict[str, Path]:
    """Where the file of each form goes.

    Parameters
    ----------
    name
        Of the files, without what tells their form.
    beside
        The folder that they go to by default.
    endings
        What tells the form, by form.
    out
        What the user asks for: a folder, or of one form the file.

    Raises
    ------
    StoreError
        If that is no place for them.
    """
    if out is not None and is_url(str(out)):
        raise StoreError(f"{out} is a URL, and exports are files of this machine; give a path")
    if out is None:
        return {form: beside / f"{name}{ending}" for form, ending in endings.items()}
    place = Path(out).expanduser()
    if place.is_dir():
        return {form: place / f"{name}{ending}" for form, ending in endings.items()}
    if len(endings) > 1:
        raise StoreError(
            f"{place} is no folder, and {', '.join(endings)} are {len(endings)} files; create it, "
            "or export one form at a time"
        )
    return dict.fromkeys(endings, place)


def refuse_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no file can be, or where one is that may not be replaced.

    Raises
    ------
    StoreError
        Saying why.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder; choose another place with --out")
    if path.exists() and not overwrite:
        raise StoreError(
            f"{path} exists; replace it with --overwrite, or choose another place with --out"
        )
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"the folder {parent} does not exist; create it, or change --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {parent} cannot be written; choose another with --out")


@contextmanager
def arriving(
    paths: Sequence[Path], admit: Callable[[Path], None]
) -> Iterator[tuple[BinaryIO, ...]]:
    """Files under other names, which get their own together when all have been written.

    Parameters
    ----------
    admit
        Called with each path before that; what it raises leaves everything as it was.
    """
    with ExitStack() as stack:
        files = tuple(stack.enter_context(_partial(path)) for path in paths)
        yield files
        for file, path in zip(files, paths, strict=True):
            file.flush()
            os.fsync(file.fileno())
            admit(path)
        with untorn():
            for file, path in zip(files, paths, strict=True):
                Path(file.name).replace(path)


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, of which nothing remains unless it is renamed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("w+b") as file:
            yield file
    finally:
        partial.unlink(missing_ok=True)
