"""Packages of files: a folder, or a zip that is unpacked into a private folder and removed again.

What a package names it must bring along. A name that leads out of it (``..``, an absolute path, a
symbolic link, a URL) is refused, and nothing is fetched. A zip is unpacked only if every name in it
stays inside, none is a link, and the whole is no larger than what its own size can account for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stitchsafe.errors import ModelError
from stitchsafe.networks._damage import damage_named

__all__ = ["Package", "describes", "opened", "zip_names"]

MOST_FILES = 10_000
MOST_RATIO = 200
FREE_BYTES = 50 * 2**20
"""What a zip may unpack to however small it is."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "model.yaml", "bioimageio.yml", "rdf.yml")


@dataclass(frozen=True)
class Package:
    """A folder with a description, and where it came from.

    Parameters
    ----------
    folder
        Where its files lie now.
    origin
        What the user named.
    """

    folder: Path
    origin: Path

    @property
    def description(self) -> Path:
        """The file that describes it.

        Raises
        ------
        ModelError
            If there is none, or more than one that could be meant.
        """
        names = [p.name for p in self.folder.iterdir() if p.is_file()]
        return self.file(_only_description(names, self.origin), "the description")

    def file(self, source: str, what: str, sha256: str | None = None) -> Path:
        """A file that the package names, known to lie in it.

        Parameters
        ----------
        what
            What it is to the package, for messages.
        sha256
            The digest that the description states, if it does.

        Raises
        ------
        ModelError
            If it lies elsewhere, is not there, or is not what was described.
        """
        parts = PurePosixPath(source.replace("\\", "/")).parts
        if not parts or _URL.match(source) or parts[0] == "/" or ".." in parts:
            raise ModelError(
                f"{self.origin}: {what} is {source!r}, which lies outside the package, and nothing "
                "is fetched or read from there; put the file into the package and name it alone"
            )
        path = self.folder.joinpath(*parts)
        try:
            inside = path.resolve().is_relative_to(self.folder.resolve())
        except (RuntimeError, OSError, ValueError):  # a link to itself, or a name with a zero byte
            inside = False
        if not inside:
            raise ModelError(
                f"{self.origin}: {what}, {source}, is no name of a file, or a link that leads out "
                "of the package; put the file itself there"
            )
        if not path.is_file():
            raise ModelError(
                f"{self.origin}: {what}, {source}, is absent from the package; fetch the whole "
                "package again, or give its network and weights by -m package.module:factory "
                "--weights FILE"
            )
        return self._checked(path, what, sha256)

    def _checked(self, path: Path, what: str, sha256: str | None) -> Path:
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                raise ModelError(
                    f"{self.origin}: {what}, {path.name}, is not the file that the description "
                    f"states (SHA-256 {found[:12]}…, not {sha256[:12]}…); fetch the package again"
                )
        return path


def describes(names: list[str]) -> bool:
    """Whether files of these names make a package that is described."""
    return any(_is_description(name) for name in names)


def zip_names(path: Path) -> list[str]:
    """The names in a zip.

    Raises
    ------
    ModelError
        If it is damaged.
    """
    with damage_named(f"{path} is a damaged zip"), zipfile.ZipFile(path) as archive:
        return archive.namelist()


@contextmanager
def opened(path: Path) -> Iterator[Package]:
    """A package by its folder or zip; what a zip is unpacked to goes at the end."""
    if path.is_dir():
        yield Package(path, path)
        return
    private = Path(tempfile.mkdtemp(prefix="stitchsafe-model-"))
    try:
        _unpack(path, private)
        yield Package(private, path)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _unpack(path: Path, target: Path) -> None:
    try:
        with damage_named(f"{path} is a damaged zip"), zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_hostile(entries, path)
            for entry in entries:
                place = target.joinpath(*PurePosixPath(entry.filename).parts)
                if entry.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                # No entry gives more than it declares: zipfile stops there, and checks its sum.
                with archive.open(entry) as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file, 2**20)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be unpacked ({error.strerror or error}); unpack it yourself, and give "
            "its folder"
        ) from error


def _refuse_hostile(entries: list[zipfile.ZipInfo], path: Path) -> None:
    for entry in entries:
        name = entry.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or _URL.match(name):
            raise ModelError(
                f"{path} holds {name!r}, which would be unpacked outside its folder; no sound "
                "package does, and nothing of it was unpacked"
            )
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ModelError(
                f"{path} holds {name!r}, which is a link or no file at all; no sound package does, "
                "and nothing of it was unpacked"
            )
        if entry.flag_bits & 1:
            raise ModelError(f"{path} is encrypted; unpack it yourself, and give its folder")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ModelError(f"{path} holds a name twice; no sound package does")
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > MOST_FILES or total > max(FREE_BYTES, MOST_RATIO * size):
        raise ModelError(
            f"{path} has {size} bytes and unpacks to {len(entries)} files of {total} bytes, more "
            "than a package of its size holds; if it is sound, unpack it and give its folder"
        )


def _is_description(name: str) -> bool:
    return name in _DESCRIPTIONS or name.endswith((".bioimageio.yaml", ".bioimageio.yml"))


def _only_description(names: list[str], origin: Path) -> str:
    for name in _DESCRIPTIONS:
        if name in names:
            return name
    found = sorted(name for name in names if _is_description(name))
    if len(found) != 1:
        raise ModelError(
            f"{origin} has {', '.join(found) or 'no bioimageio.yaml or rdf.yaml'} to describe it; "
            "a package has just one description, in its top folder"
        )
    return found[0]
