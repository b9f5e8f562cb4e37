"""Dask clusters: a running one by its address, or one that a file describes.

Such a file names a class of any package that makes clusters, what to call it with, and how many
workers to ask for::

    cluster: dask_jobqueue.SLURMCluster
    arguments: {cores: 4, processes: 1, memory: 16GB, walltime: "04:00:00", interface: ib0}
    scale: {jobs: 8}                  # or a number of workers, or adapt: {minimum: 1, maximum: 8}
    wait: 3600                        # seconds until the first worker must be there

Scheduler and dashboard listen on this machine alone unless the file says otherwise.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import stitchsafe
from stitchsafe.engine import Events
from stitchsafe.errors import InputError, MissingExtraError
from stitchsafe.pipeline._machine import processor_name
from stitchsafe.tiling import format_bytes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Cluster", "ClusterFile", "connected", "read_cluster_file", "refuse_unfit_workers"]

_CONNECT_SECONDS = 10
_SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://", "inproc://")


class ClusterFile(BaseModel):
    """A file that describes a cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    scale: int | dict[str, Any] | None = None
    adapt: dict[str, Any] | None = None
    wait: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> ClusterFile:
        if (self.scale is None) == (self.adapt is None):
            raise ValueError("give either scale or adapt, so that there are workers")
        if "." not in self.cluster:
            raise ValueError("cluster is a class, as dask_jobqueue.SLURMCluster")
        return self


@dataclass
class Cluster:
    """A cluster that can be reached.

    Parameters
    ----------
    client
        Connected to its scheduler.
    patience
        Seconds that workers which are gone may take to come back.
    wants_more
        Asked by a cluster that adapts: whether further workers would have work.
    """

    client: Client
    patience: float
    wants_more: Any = None


def read_cluster_file(path: Path) -> ClusterFile:
    """Read the description of a cluster.

    Raises
    ------
    InputError
        Naming the key that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML ({reason}); repair the file") from error
    try:
        return ClusterFile.model_validate(content)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(place, ClusterFile.model_fields, n=1)
            known = ", ".join(ClusterFile.model_fields)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {known}"
            raise InputError(f"{path} has the unknown key {place!r}; {hint}") from error
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"{path}: {f'{place}: ' if place else ''}{said}; repair it") from error


@contextmanager
def connected(where: Any, events: Events) -> Iterator[Cluster]:
    """A cluster with at least one worker, for as long as the context lasts.

    Parameters
    ----------
    where
        The address of a scheduler, a file that describes a cluster, or a `distributed.Client`.

    Raises
    ------
    InputError
        If it cannot be reached or made, or has no workers.
    MissingExtraError
        If dask.distributed is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("dask.distributed", "dask") from error
    with ExitStack() as stack, _no_logs():
        if isinstance(where, distributed.Client):
            _wait_for_workers(where, "the client's cluster", 0)
            yield Cluster(where, _CONNECT_SECONDS)
            return
        text = os.fspath(where)
        if text.startswith(_SCHEMES):
            cluster = Cluster(_client(text, stack), patience=60.0)
            _wait_for_workers(cluster.client, f"the dask cluster at {text}", 0)
        else:
            cluster = _from_file(Path(text), stack, events)
        yield cluster


def _from_file(path: Path, stack: ExitStack, events: Events) -> Cluster:
    description = read_cluster_file(path)
    made = stack.enter_context(_made(description, path))
    cluster = Cluster(_client(made, stack), patience=description.wait)
    events.say(
        f"dask: scheduler {made.scheduler_address}, dashboard {made.dashboard_link or 'none'}"
    )
    try:
        if description.adapt is not None:
            made.adapt(Adaptive=_demanding(cluster), **description.adapt)
        elif isinstance(description.scale, int):
            made.scale(description.scale)
        elif description.scale is not None:
            made.scale(**description.scale)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(f"{path}: the cluster cannot be scaled: {error}; repair it") from error
    _wait_for_workers(cluster.client, f"the cluster of {path}", description.wait)
    return cluster


@contextmanager
def _made(description: ClusterFile, path: Path) -> Iterator[Any]:
    module, _, name = description.cluster.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(
            f"{path} names {description.cluster}, and {error}; install the package that has it"
        ) from error
    except AttributeError as error:
        raise InputError(f"{path}: {module} has no {name}; check the name") from error
    arguments = _on_loopback(make, description.arguments)
    import dask

    with dask.config.set({"distributed.worker.daemon": True}):
        try:
            cluster = make(**arguments)
        except Exception as error:  # whatever a foreign class finds wrong
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{path}: {description.cluster} cannot be made with these arguments: {said}"
            ) from error
        try:
            yield cluster
        finally:
            cluster.close()


def _on_loopback(make: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments by which scheduler and dashboard listen on this machine alone."""
    known: set[str] = set()
    for kind in inspect.getmro(make)[:-1] if inspect.isclass(make) else ():
        if "__init__" in vars(kind):
            known |= set(inspect.signature(vars(kind)["__init__"]).parameters)
    arguments = dict(given)
    open_ = {"host", "interface"} & {*given, *given.get("scheduler_options", {})}
    if "scheduler_options" in known:
        options = dict(given.get("scheduler_options") or {})
        if not open_:
            options["host"] = "127.0.0.1"
        if "dashboard_address" not in given:
            options.setdefault("dashboard_address", "127.0.0.1:0")
        arguments["scheduler_options"] = options
        return arguments
    within = given.get("processes") is False  # threads of this process, and no network at all
    if "host" in known and not open_ and not within:
        arguments["host"] = "127.0.0.1"
    if "dashboard_address" in known:
        arguments.setdefault("dashboard_address", "127.0.0.1:0")
    return arguments


def _demanding(cluster: Cluster) -> type:
    """A policy by which a cluster grows while blocks wait; dask's own sees only what is begun."""
    from distributed import Adaptive

    class Demanding(Adaptive):  # type: ignore[misc]
        async def target(self) -> int:
            there = len(self.observed)
            asked = cluster.wants_more is None or cluster.wants_more()
            wanted = there + 1 if asked else there
            return int(max(self.minimum, min(wanted, self.maximum)))

    return Demanding


def _client(where: Any, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        return stack.enter_context(Client(where, timeout=_CONNECT_SECONDS, set_as_default=False))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no dask scheduler answers at {where}; check the address, and that it runs"
        ) from error


def _wait_for_workers(client: Client, what: str, seconds: float) -> None:
    try:
        client.wait_for_workers(1, timeout=max(seconds, 0.1))
    except TimeoutError as error:
        after = f" after {seconds:.0f} s" if seconds else ""
        raise InputError(f"{what} has no workers{after}; start some, and try again") from error


def refuse_unfit_workers(
    client: Client, *, folder: str, volume: str, processor: str, memory: int
) -> None:
    """Refuse a cluster whose workers could not do the work, before there is any.

    Raises
    ------
    InputError
        Naming the first worker, and why.
    """
    about = client.scheduler_info()["workers"]
    versions = client.run(eval, "__import__('stitchsafe').__version__", on_error="return")
    for address, version in sorted(versions.items()):
        worker = f"the dask worker {address} on {about.get(address, {}).get('host', '?')}"
        if isinstance(version, BaseException):
            raise InputError(
                f"{worker} cannot import stitchsafe ({version}); install it there, in the version "
                f"{stitchsafe.__version__}"
            )
        if version != stitchsafe.__version__:
            raise InputError(
                f"{worker} has stitchsafe {version}, and this is {stitchsafe.__version__}; install "
                "the same version in both places"
            )
        limit = about.get(address, {}).get("memory_limit") or 0
        if 0 < limit < memory:
            raise InputError(
                f"{worker} may take {format_bytes(limit)}, and a block needs up to "
                f"{format_bytes(memory, up=True)}; give it more, or a smaller --max-memory"
            )
    found = client.run(_survey, folder, volume, processor, on_error="return")
    for address, complaint in sorted(found.items()):
        if complaint:
            host = about.get(address, {}).get("host", "?")
            raise InputError(f"the dask worker {address} on {host} {complaint}")


def _survey(folder: str, volume: str, processor: str) -> str:
    """What speaks against this machine, at a worker."""
    container = volume.rpartition(":")[0]
    seen = "://" in volume or Path(volume).exists() or (container and Path(container).exists())
    if not seen:
        return f"does not see the volume {volume}; put it where all machines see it"
    if "://" not in folder and not os.access(folder, os.W_OK | os.X_OK):
        return f"cannot write the folder {folder}; choose an output that all machines see"
    here = processor_name()
    if here != processor:
        return (
            f"has the processor {here!r}, and the recipe says {processor!r}, whose arithmetic may "
            "differ in the last bit; take workers of one kind, and start the run on that kind"
        )
    return ""


@contextmanager
def _no_logs() -> Iterator[None]:
    """Let dask say nothing on stderr: what matters is said by the run itself."""
    loggers = [
        logging.getLogger(name)
        for name in ("distributed", *logging.root.manager.loggerDict)
        if name.partition(".")[0] == "distributed"
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
