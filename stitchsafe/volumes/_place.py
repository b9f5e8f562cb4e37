"""Places: where bytes lie, on a disk or on a server, behind one small type.

::

    /data/out.zarr, file:///data/out.zarr    this machine                       read, write
    s3://bucket/out.zarr                     any S3-compatible object store     read, write
    https://host/volume.zarr                 a web server, which cannot list    read
    volume.zarr.zip, …zip:inner              an archive at any of these         read

Below a place lie others, as below a folder: ``place / "name"``. A write is whole or not at all, and
durable when it returns; `Place.create` succeeds for just one of several writers. Requests to a
server that fail for a reason that may pass are made again, a bounded number of times.

Of S3, the endpoint, region and credentials are those of the usual environment variables and files:
``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ….
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import tensorstore

from stitchsafe.errors import InputError, InterruptedRunError, StitchsafeError
from stitchsafe.volumes._servers import explained, is_unreachable, s3_access
from stitchsafe.volumes._tensorstore import context

__all__ = [
    "PARTIAL",
    "Place",
    "PlaceError",
    "PlaceSyntaxError",
    "is_url",
]

PARTIAL = ".partial"
"""End of the names of files that are being written."""

_AT_ONCE = 32
_PIECE = 2**22
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]+)://")


class PlaceError(OSError):
    """A place that cannot be reached, or does not allow what is asked; one line.

    Parameters
    ----------
    message
        What is wrong and what to do.
    passing
        Whether it may pass by itself, the place being right: a server that is there by name, and
        refuses connections, breaks them off, or answers with an error of its own.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing

    def refusal(self, kind: type[InputError]) -> StitchsafeError:
        """What to raise before any work has begun: what was given is wrong, unless it may pass."""
        if not self.passing:
            return kind(str(self))
        return InterruptedRunError(f"{self}, then run the same command again")


class PlaceSyntaxError(ValueError):
    """Text that names no place; one line."""


def is_url(text: str) -> bool:
    """Whether some text names a place by a URL."""
    return _SCHEME.match(text) is not None


@dataclass(frozen=True)
class Place:
    """Somewhere bytes lie, or may be put. Made by :meth:`of`; small, and can be pickled.

    Parameters
    ----------
    kind
        What answers: the file system, an object store, a web server, or an archive.
    root
        Bucket, scheme and host, or nothing.
    key
        The path below it.
    archive
        Where the archive lies, for places inside one.
    """

    kind: Literal["file", "s3", "http", "zip"]
    root: str
    key: str
    archive: Place | None = None

    @classmethod
    def of(cls, where: str | Path | Place) -> Place:
        """The place that some text names.

        Raises
        ------
        PlaceSyntaxError
            If it names none.
        """
        if isinstance(where, Place):
            return where
        text = str(where)
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls("file", "", text)
        parts = urlsplit(text)
        kind = scheme.group(1).lower()
        if parts.query or parts.fragment:
            raise PlaceSyntaxError(
                f"{text} has a part after '?' or '#', which names nothing in a store; leave it out"
            )
        if kind == "file":
            if parts.netloc not in ("", "localhost"):
                raise PlaceSyntaxError(
                    f"{text} names the host {parts.netloc!r}, and file:// means this one; write "
                    "three slashes, as in file:///data/volume.zarr"
                )
            return cls("file", "", unquote(parts.path))
        if kind == "s3":
            if not parts.netloc:
                raise PlaceSyntaxError(f"{text} names no bucket; write s3://bucket/key")
            return cls("s3", parts.netloc, text.split("://", 1)[1].partition("/")[2].strip("/"))
        if kind in ("http", "https"):
            if not parts.netloc:
                raise PlaceSyntaxError(f"{text} names no host; write https://host/path")
            return cls("http", f"{kind}://{parts.netloc}", unquote(parts.path).strip("/"))
        raise PlaceSyntaxError(
            f"{text} is a URL of a kind that is not known here; use a path, file://, s3://, "
            "http:// or https://"
        )

    @classmethod
    def inside(cls, archive: Place, inner: str = "") -> Place:
        """A place in a zip archive."""
        return cls("zip", "", inner.strip("/"), archive)

    # What it is called

    def __str__(self) -> str:
        if self.kind == "file":
            return self.key
        if self.kind == "zip":
            return f"{self.archive}:{self.key}" if self.key else str(self.archive)
        prefix = f"s3://{self.root}" if self.kind == "s3" else self.root
        return f"{prefix}/{self.key}" if self.key else prefix

    def __truediv__(self, name: str) -> Place:
        if self.kind == "file":
            return replace(self, key=str(Path(self.key) / name))
        joined = PurePosixPath(self.key or ".") / name
        return replace(self, key="" if str(joined) == "." else str(joined))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.key).name if self.key else (self.root or str(self))

    @property
    def parent(self) -> Place:
        """What it lies in; itself at the top."""
        if self.kind == "file":
            return replace(self, key=str(Path(self.key).parent))
        parent = PurePosixPath(self.key).parent if self.key else PurePosixPath()
        return replace(self, key="" if str(parent) == "." else str(parent))

    @property
    def local(self) -> Path | None:
        """The path on this machine; None for all others."""
        return Path(self.key) if self.kind == "file" else None

    @property
    def writable_kind(self) -> bool:
        """Whether places of this kind can be written at all."""
        return self.kind in ("file", "s3")

    @property
    def absolute(self) -> Place:
        """The same place, whatever the current folder will be."""
        if self.kind == "file":
            return replace(self, key=str(Path(self.key).absolute()))
        return self if self.archive is None else replace(self, archive=self.archive.absolute)

    def holds(self, other: Place) -> bool:
        """Whether another place is this one or lies below it."""
        if self.kind == other.kind == "file":
            mine, theirs = Path(self.key).resolve(), Path(other.key).resolve()
            return mine in (theirs, *theirs.parents)
        if (self.kind, self.root, self.archive) != (other.kind, other.root, other.archive):
            return False
        return not self.key or f"{other.key}/".startswith(f"{self.key}/")

    # How it is reached

    @property
    def spec(self) -> dict[str, Any]:
        """What tensorstore calls it, as a folder."""
        path = f"{self.key}/" if self.key else ""
        if self.kind == "file":
            return {"driver": "file", "path": f"{Path(self.key).absolute()}/"}
        if self.kind == "zip":
            assert self.archive is not None
            return {"driver": "zip", "base": self.archive.file_spec, "path": path}
        if self.kind == "http":
            return {"driver": "http", "base_url": f"{self.root}/{quote(path)}"}
        return {"driver": "s3", "bucket": self.root, "path": path, **s3_access()}

    @property
    def file_spec(self) -> dict[str, Any]:
        """What tensorstore calls it, as a file or an object."""
        spec = self.spec
        key = "base_url" if self.kind == "http" else "path"
        return {**spec, key: spec[key].removesuffix("/")}

    def _store(self) -> Any:
        """For use where errors are explained, by the place that was asked for."""
        return _opened(json.dumps(self.spec))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, NotImplementedError) as error:
            passing = is_unreachable(error) and "Could not resolve" not in str(error)
            raise PlaceError(f"{self} {explained(error)}", passing=passing) from error

    # Reading

    def read_bytes(self) -> bytes:
        """What lies here.

        Raises
        ------
        FileNotFoundError
            If nothing does.
        PlaceError
            If the place cannot be reached.
        """
        if self.kind == "file":
            return Path(self.key).read_bytes()
        found = self._get()
        if found is None:
            raise FileNotFoundError(2, "there is nothing", str(self))
        return found

    def read_pieces(self) -> Iterator[bytes]:
        """The bytes here, from a disk some at a time.

        Raises
        ------
        OSError
            As `read_bytes` does.
        """
        if self.kind != "file":
            yield self.read_bytes()
            return
        with Path(self.key).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    def read_text(self) -> str:
        """What lies here, as UTF-8."""
        return self.read_bytes().decode()

    def _get(self) -> bytes | None:
        with self._errors():
            found = self.parent._store().read(self.name).result()
            return bytes(found.value) if found.state == "value" else None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """What lies below under some names, several at a time; what is absent is left out."""
        listed = list(names)
        if self.kind == "file":
            for name in listed:
                with contextlib.suppress(FileNotFoundError):
                    yield name, (self / name).read_bytes()
            return
        for begin in range(0, len(listed), _AT_ONCE):
            batch = listed[begin : begin + _AT_ONCE]
            with self._errors():
                store = self._store()
                futures = [store.read(name) for name in batch]
                results = [future.result() for future in futures]
            for name, found in zip(batch, results, strict=True):
                if found.state == "value":
                    yield name, bytes(found.value)

    def is_file(self) -> bool:
        """Whether there are bytes here."""
        if self.kind == "file":
            return Path(self.key).is_file()
        return bool(self.key) and self._get() is not None

    def exists(self) -> bool:
        """Whether there is anything here or below."""
        if self.kind == "file":
            return Path(self.key).exists()
        return self.is_file() or (self.kind != "http" and bool(self.listing()))

    def is_dir(self) -> bool:
        """Whether there is anything below."""
        return Path(self.key).is_dir() if self.kind == "file" else bool(self.listing())

    def is_link(self) -> bool:
        """Whether this is a symbolic link, of which only file systems know."""
        return self.kind == "file" and Path(self.key).is_symlink()

    def listing(self, begin: str = "", *, links: bool = True) -> list[str]:
        """All that has bytes below, by its path from here, sorted.

        Parameters
        ----------
        begin
            Only paths that begin so.
        links
            Whether links to folders are followed, where there are links.

        Raises
        ------
        PlaceError
            If the place cannot be listed; web servers cannot.
        """
        if self.kind == "file":
            return sorted(name for name in self._files(links) if name.startswith(begin))
        if self.kind == "http":
            raise PlaceError(f"{self} cannot be listed, as a web server tells no names; name it")
        with self._errors():
            wanted = tensorstore.KvStore.KeyRange(begin, _after(begin))
            return sorted(key.decode() for key in self._store().list(wanted).result())

    def _files(self, links: bool) -> Iterator[str]:
        for folder, _, names in os.walk(self.key, followlinks=links):
            for name in names:
                yield Path(folder, name).relative_to(self.key).as_posix()

    def children(self) -> list[str]:
        """Names directly below, sorted."""
        if self.kind == "file":
            path = Path(self.key)
            return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        return sorted({key.partition("/")[0] for key in self.listing()})

    # Writing

    def write_bytes(self, content: bytes | Iterable[bytes]) -> None:
        """Put bytes here, whole or not at all; on the disk, or acknowledged, when it returns.

        Of several pieces a disk holds one at a time in memory, and an object store all.
        """
        self._refuse_read_only()
        if self.kind == "file":
            with _partial(Path(self.key), content) as partial:
                partial.replace(self.key)
            return
        content = content if isinstance(content, bytes) else b"".join(content)
        with self._errors():
            self.parent._store().write(self.name, content).result()

    def create(self, content: bytes) -> bool:
        """Put bytes here unless there are some already; of several writers, one succeeds.

        A reply may be lost on its way, and then the request is made again and finds what the first
        one wrote. So `content` should be the writer's own: what is equal to it was written by it.

        Returns
        -------
        bool
            Whether these bytes lie here now, put there by this writer.
        """
        self._refuse_read_only()
        if self.kind == "file":
            with _partial(Path(self.key), content) as partial:
                try:
                    os.link(partial, self.key)
                except FileExistsError:
                    return False
                except OSError:  # no hard links here
                    return self._create_exclusively(content)
            return True
        with self._errors():
            store = self.parent._store()
            absent = store.read(self.name).result()
            if absent.state == "value":
                return bool(absent.value == content)
            written = store.write(self.name, content, if_equal=absent.stamp.generation).result()
        return bool(written.generation) or self._get() == content

    def _create_exclusively(self, content: bytes) -> bool:
        try:
            with Path(self.key).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True

    def remove(self) -> None:
        """Remove what lies here and below; a link itself, and not where it leads."""
        self._refuse_read_only()
        if self.kind == "file":
            path = Path(self.key)
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            return
        with self._errors():
            self._store().delete_range(tensorstore.KvStore.KeyRange()).result()
            if self.key:
                self.parent._store().write(self.name, None).result()

    def make_folder(self) -> None:
        """Make a folder, where there are folders."""
        if self.kind == "file":
            Path(self.key).mkdir(parents=True, exist_ok=True)

    def _refuse_read_only(self) -> None:
        if not self.writable_kind:
            what = "an archive" if self.kind == "zip" else "a web server"
            raise PlaceError(f"{self} lies in {what}, which can only be read; write elsewhere")


def _after(prefix: str) -> str:
    """The least text that sorts after all that begin with `prefix`; empty: none."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""


@contextlib.contextmanager
def _partial(path: Path, content: bytes | Iterable[bytes]) -> Iterator[Path]:
    """The content in a temporary file beside `path`, durable; and what is done to it as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@functools.lru_cache(maxsize=256)
def _opened(spec: str) -> Any:
    return tensorstore.KvStore.open(json.loads(spec), context=context()).result()
