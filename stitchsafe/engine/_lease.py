"""Leases: one run at a time on a store, and an older run that stops where a newer one took over.

Where the file system has locks that work, which is tried, a lease is one: the operating system
holds it for as long as the process lives, and a second run is refused at its start. ::

    lock              run: exclusive; all others: shared
    lock-part-2-of-8  exclusive

Elsewhere, as on object stores, nobody can tell a run that is dead from one that is slow. There a
lease is an *epoch*, a number that is taken by creating its key, which succeeds for just one of
several. ::

    epochs/run/3            made by the third whole run here; says by whom
    epochs/part-2-of-8/1

A newcomer takes the next number at once and so takes over; the older run finds that at its next
commit and stops there. To look and to commit are two requests, as no object store does one on the
condition of another's key, and a newcomer may come in between: the older run then makes one entry
more. That harms nothing, and neither does what it writes until it looks. All stages are pure, so
two runs of one recipe over one volume write the same bytes, and whoever enters a cell has its data
on the store already, so that the entry is true whoever reads it, and equal to what the newcomer
would put in its place. (Of its scratch an object may stay behind. Where ``--overwrite`` replaces
the result by one of another recipe, or of a volume that has changed, the older run is to be
stopped first: there the bytes differ.) A whole run
takes over from parts and parts from a whole run, but parts leave each other alone.

Names are ``run``, ``part-i-of-n``, and for steps that one of many parts does, ``consensus``,
``finish`` and ``provenance``. Parts that come to such a step at once do not take it from each
other: whoever is at it shows that it lives by a key that it writes again and again, and the others
wait until it says that it is done, or has not written for a while. ::

    beats/consensus/4             a number that grows, or "over"
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stitchsafe.errors import InterruptedRunError, StoreError
from stitchsafe.volumes import Place, PlaceError

__all__ = ["Lease"]

_RUN = "run"
_SHARED_STEPS = ("consensus", "finish", "provenance")
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_EPOCHS, _BEATS = "epochs", "beats"
_BEAT_SECONDS, _SILENT_SECONDS = 2.0, 30.0
_OVER = b"over"


@dataclass(frozen=True)
class Lease:
    """The right to write under a name. Made by :meth:`take`; a copy in another process can `check`.

    Parameters
    ----------
    folder
        The ledger's folder.
    name
        What is held.
    handles
        Open lock files, where locks work; they count in the process that took them only.
    epoch
        The key of the epoch, elsewhere; and `token`, what it holds.
    known
        Epochs that were there when this one was taken.
    """

    folder: Place
    name: str
    handles: tuple[int, ...] = ()
    epoch: str | None = None
    token: bytes = b""
    known: frozenset[str] = frozenset()

    @classmethod
    def take(cls, folder: Path | Place, name: str = _RUN, *, wait: bool = False) -> Lease:
        """Take a lease.

        Parameters
        ----------
        folder
            The ledger's folder; made if it is absent.
        name
            What to hold.
        wait
            Whether to wait for whoever holds it, where locks work; elsewhere for a step that
            another part is at.

        Raises
        ------
        StoreError
            If another process holds it, or one that excludes it.
        """
        place = Place.of(folder).absolute
        if place.local is not None:
            place.make_folder()
            handles = _locked(place, name, wait)
            if handles is not None:
                return cls(place, name, handles)
        return cls._epoch_of(place, name, wait)

    @classmethod
    def _epoch_of(cls, place: Place, name: str, wait: bool) -> Lease:
        token = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}\n".encode()
        while True:
            known = frozenset((place / _EPOCHS).listing())
            taken = [int(key.partition("/")[2]) for key in known if key.startswith(f"{name}/")]
            if name in _SHARED_STEPS and taken and _at_it(place, f"{name}/{max(taken)}", wait):
                raise StoreError(
                    f"another part is at the step {name!r} of {place.parent.parent}; wait for it"
                )
            epoch = f"{name}/{max(taken, default=0) + 1}"
            if (place / _EPOCHS / epoch).create(token):
                # Those that came between belong to others who found the same numbers.
                return cls(place, name, epoch=epoch, token=token, known=known | {epoch})

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def local(self) -> bool:
        """Whether it is a lock, so that nobody can take it over."""
        return self.epoch is None

    @property
    def alone(self) -> bool:
        """Whether it keeps all others out, so that what is unfinished is nobody's."""
        return self.name == _RUN

    def check(self) -> None:
        """See that nobody has taken over; to be done at every commit.

        Raises
        ------
        InterruptedRunError
            If somebody has.
        """
        if self.epoch is None:
            return
        epochs = self.folder / _EPOCHS
        newer = [key for key in epochs.listing() if key not in self.known and self._yields_to(key)]
        try:
            mine = (epochs / self.epoch).read_bytes() == self.token
        except FileNotFoundError:
            mine = False
        if newer or not mine:
            by = f" (its epoch is {newer[-1]})" if newer else ""
            raise InterruptedRunError(
                f"another run has taken over {self.folder.parent.parent}{by}, so this one stops; "
                "let that one finish, or run the same command again to take over in turn"
            )

    def _yields_to(self, key: str) -> bool:
        name = key.partition("/")[0]
        if name in _SHARED_STEPS or self.name in _SHARED_STEPS:
            return name == self.name
        return self.name == _RUN or name in (_RUN, self.name)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """While it lasts, others see that the holder lives; afterwards, that it is done."""
        if self.epoch is None:
            yield
            return
        key, done = self.folder / _BEATS / self.epoch, threading.Event()

        def beat() -> None:
            for count in itertools.count(1):
                with suppress(PlaceError):  # others wait a while for the next one
                    key.write_bytes(str(count).encode())
                if done.wait(_BEAT_SECONDS):
                    return

        thread = threading.Thread(target=beat, name="stitchsafe-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(PlaceError):
                key.write_bytes(_OVER)

    def release(self) -> None:
        """Give it up; an epoch stays, as the next one must have a higher number."""
        for handle in self.handles:
            os.close(handle)
        object.__setattr__(self, "handles", ())

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "handles": ()}


def _at_it(place: Place, epoch: str, wait: bool) -> bool:
    """Whether somebody is at a step; once it is waited for, whether somebody was."""
    key, last, since = place / _BEATS / epoch, b"", time.monotonic()
    while True:
        try:
            found = key.read_bytes()
        except FileNotFoundError:
            found = b""
        if found == _OVER:
            return False
        if not wait:
            return True
        if found != last:
            last, since = found, time.monotonic()
        if time.monotonic() - since > _SILENT_SECONDS:
            return False
        time.sleep(_BEAT_SECONDS / 4)


def _locked(place: Place, name: str, wait: bool) -> tuple[int, ...] | None:
    """Handles of locked files; None where locks do not work."""
    wanted = [("lock", fcntl.LOCK_EX if name == _RUN else fcntl.LOCK_SH)]
    if name != _RUN:
        wanted.append((f"lock-{name}", fcntl.LOCK_EX))
    handles: list[int] = []
    try:
        for file, how in wanted:
            path = Path(str(place / file))
            handles.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
            fcntl.flock(handles[-1], how | (0 if wait else fcntl.LOCK_NB))
            if not _excludes(path):
                _close(handles)
                return None
    except OSError as error:
        _close(handles)
        if error.errno not in _BUSY:
            if error.filename is not None:
                raise  # the file could not be made, which says nothing of locks
            return None
        what = "another run" if name == _RUN else f"another run of {name!r}, or of the whole,"
        raise StoreError(
            f"{what} is writing {place.parent.parent}; wait for it, or stop it"
        ) from error
    return tuple(handles)


def _excludes(path: Path) -> bool:
    """Whether the lock that is held keeps a second one out; on some file systems it is for show."""
    second = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _BUSY
    finally:
        os.close(second)
    return False


def _close(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)
