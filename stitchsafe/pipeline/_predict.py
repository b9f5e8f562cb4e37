"""The verb predict: a volume through a network into labels, exactly as one pass would give."""

from __future__ import annotations

import errno
import gc
import itertools
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

import stitchsafe
from stitchsafe.engine import (
    Dask,
    Events,
    Executor,
    FieldMaker,
    Inline,
    Ledger,
    Processes,
    Shares,
    Silent,
    load_json,
    peak_memory,
    return_freed_memory,
    save_json,
)
from stitchsafe.errors import (
    InputError,
    IntegrityError,
    InterruptedRunError,
    MemoryShortageError,
)
from stitchsafe.geometry import Break
from stitchsafe.networks import own_threads
from stitchsafe.pipeline._audit import forget_damaged
from stitchsafe.pipeline._clusters import Cluster, connected, refuse_unfit_workers
from stitchsafe.pipeline._devices import places_for
from stitchsafe.pipeline._inputs import (
    Inputs,
    ModelLike,
    VolumeLike,
    default_output,
    match_inputs,
    refuse_output_within_input,
)
from stitchsafe.pipeline._machine import cores_for
from stitchsafe.pipeline._mask import VoxelMask, mask_place
from stitchsafe.pipeline._outputs import Layout
from stitchsafe.pipeline._planning import draft_plan, estimate_seconds
from stitchsafe.pipeline._reading import Reading
from stitchsafe.pipeline._samples import Seams
from stitchsafe.pipeline._seams import measure_at_seams
from stitchsafe.pipeline._settings import Options, Settings
from stitchsafe.pipeline._shortage import give_way
from stitchsafe.pipeline._stages import Progress, run_stages
from stitchsafe.pipeline._store import ResultStore
from stitchsafe.pipeline._workshop import Job, Workshop
from stitchsafe.tiling import Plan, with_seconds
from stitchsafe.volumes import ArrayStore, Place, PlaceError, Volume

__all__ = ["Prediction", "predict", "rehearse"]


@dataclass(frozen=True)
class Prediction:
    """What predict made.

    Parameters
    ----------
    out
        The store, its URL where it lies on no disk; None for an array, whose result is in `labels`
        and `fields`.
    plan
        What was done.
    progress
        Counts of blocks and instances.
    seconds
        Time of this run, without what earlier runs had done.
    peak_memory_bytes
        Largest resident memory of this process so far, and of its workers.
    seams
        How much elements at some seams differ between two tile grids, where stitching is not exact.
    breaks
        Why it is not.
    labels, fields
        The results themselves, where no store was asked for: instances of the region's shape, and
        fields of shape (channels, *elements that cover the region): its voxels, unless the network
        gives more or fewer elements than it reads voxels.
    """

    out: Path | str | None
    plan: Plan
    progress: Progress
    seconds: float
    peak_memory_bytes: int
    seams: Seams | None = None
    breaks: tuple[Break, ...] = ()
    labels: NDArray[np.unsignedinteger] | None = None
    fields: dict[str, NDArray[np.floating]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        voxels, skipping = self.plan.recipe.roi.size, self.plan.recipe.skipping
        missing, clustering = self.progress.missing, self.progress.clustering
        found = None if clustering is None else clustering.modes
        return {
            "out": None if self.out is None else str(self.out),
            "blocks_total": self.progress.blocks_total,
            "blocks_done": self.progress.blocks_total - self.progress.blocks_resumed,
            "blocks_resumed": self.progress.blocks_resumed,
            "cells_skipped": 0 if skipping is None else skipping.skipped,
            "instances": self.progress.instances,
            "classes": self.plan.recipe.classes or None,
            "bandwidth": None if clustering is None else clustering.bandwidth,
            "clusters": None if found is None else len(found.units),
            "rounding": self.progress.rounding,
            "missing_blocks": sum(missing.by_part.values()) if missing else 0,
            "seconds": self.seconds,
            "voxels_per_second": voxels / max(self.seconds, 1e-9),
            "peak_memory_bytes": self.peak_memory_bytes,
            "exact": self.plan.recipe.exact,
            "breaks": [asdict(each) for each in self.breaks],
            "seams": None if self.seams is None else self.seams.to_json(),
            "plan": self.plan.to_json(),
        }


@own_threads()
def predict(
    volume: VolumeLike,
    model: ModelLike | None = None,
    out: str | Path | None = None,
    *,
    events: Events | None = None,
    **options: Unpack[Options],
) -> Prediction:
    """Run a network over a volume of any size, and make instances of what it gives.

    The stitched field equals one forward pass over the whole volume to float rounding, and memory
    stays within what is given. A run that was interrupted goes on where it stopped.

    Parameters
    ----------
    volume
        A path (OME-Zarr, Zarr, ``file.h5:dataset``, TIFF, NumPy), the URL of OME-Zarr or Zarr, an
        array, or an opened volume.
    model
        A name in ``models/``, a model folder, a bioimage.io package, an ONNX file,
        ``package.module:factory`` (with the options `weights` and `arguments`), or a
        `torch.nn.Module`; by default the one bundled model that fits the volume.
    out
        Where the OME-Zarr goes, a path or ``s3://bucket/key``; by default beside the volume. An
        array without `out` gives its result in memory.
    events
        Told of progress.
    **options
        See `stitchsafe.pipeline.Settings`.

    Returns
    -------
    Prediction

    Raises
    ------
    InputError
        If volume, model, options and memory do not fit together; nothing has been written.
    InterruptedRunError
        If the run stopped part-way, as with a full disk; the same call resumes it.
    """
    return_freed_memory()
    settings, events = Settings.of(options), events or Silent()
    inputs = match_inputs(volume, model, settings, events)
    if out is None and inputs.volume.path is None:
        with tempfile.TemporaryDirectory(prefix="stitchsafe-") as folder:
            path = Path(folder) / "result.zarr"
            made = _within_memory(inputs, path, settings, events)
            return _in_memory(made, ResultStore.at(path), settings)
    return _within_memory(inputs, out, settings, events)


def rehearse(
    volume: VolumeLike,
    model: ModelLike | None = None,
    out: str | Path | None = None,
    *,
    events: Events | None = None,
    **options: Unpack[Options],
) -> Plan:
    """What predict would do, refused where predict would refuse it, and nothing written.

    Parameters are those of `predict`.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        As predict does before it reads a voxel.
    """
    settings, events = Settings.of(options), events or Silent()
    inputs = match_inputs(volume, model, settings, events)
    if out is None and inputs.volume.path is None:
        plan = draft_plan(inputs, settings, events)
    else:
        plan = _prepare(inputs, out, settings, events).plan
    return with_seconds(plan, estimate_seconds(plan, inputs.network))


@dataclass(frozen=True)
class _Job:
    """A prediction that nothing speaks against, before anything is written."""

    store: ResultStore
    inputs: Inputs
    plan: Plan
    resumes: bool


def _within_memory(
    inputs: Inputs, out: str | Path | Place | None, settings: Settings, events: Events
) -> Prediction:
    """Predict; with smaller tiles where memory runs out before anything is finished."""
    below: tuple[int, ...] | None = None
    while True:
        job = _prepare(inputs, out, settings, events, below)
        try:
            return _carry_out(job, settings, events)
        except MemoryShortageError as error:
            what = give_way(error, job.store, job.inputs, job.plan, settings)
        # Beyond the handler, whose error holds all that lived when memory ran out.
        gc.collect()
        below = job.plan.recipe.tile_shape
        events.say(f"{what}: smaller ones are tried")


def _prepare(
    inputs: Inputs,
    out: str | Path | Place | None,
    settings: Settings,
    events: Events,
    below: Sequence[int] | None = None,
) -> _Job:
    volume = inputs.volume
    if out is None:
        out = default_output(volume)
        events.say(f"output: {out}")
    store = ResultStore.at(out).resolved
    refuse_output_within_input(store.path, volume)
    store.refuse_foreign()
    if not settings.overwrite:
        store.refuse_lost_recipe()
    resumes = store.exists and not settings.overwrite
    if settings.repair and not resumes:
        raise InputError(
            f"there is nothing to repair at {store.path}; leave out --repair"
            if not store.exists
            else "--repair keeps what is sound and --overwrite nothing; give one of them"
        )
    if not resumes:
        store.refuse_to_replace_others()
    stored = store.recipe() if resumes else None
    plan = draft_plan(inputs, settings, events, stored, below=below)
    Layout.of(plan.recipe, settings.chunk_shape, settings.ngff)  # refuses chunks that do not fit
    if plan.memory.workers > 1 or settings.dask is not None:
        Job.of(store, inputs, settings)  # refuses what other processes cannot open
    if resumes:
        store.refuse_other_work(plan.recipe, volume.identity, settings.form())
        _reading(plan, volume).refuse_changes(store, settings.part, events)
        events.say(f"resuming: {store.path} holds work of the same recipe")
    return _Job(store, inputs, plan, resumes)


def _carry_out(job: _Job, settings: Settings, events: Events) -> Prediction:
    began = time.monotonic()
    store, inputs = job.store, job.inputs
    with ExitStack() as stack:
        cluster = None
        if settings.dask is not None:
            cluster = stack.enter_context(connected(settings.dask, events))
            _refuse_unfit_workers(cluster, job)
        if settings.part is None and not job.resumes:
            _clear(store)
        stack.enter_context(_disk_errors(store))
        ledger = stack.enter_context(store.ledger_of(settings.part))
        if job.resumes and settings.repair:
            forget_damaged(store, _reading(job.plan, inputs.volume), events)
        job = _begun(job, ledger, settings, events)
        plan = job.plan
        save_json(store.schedule_file, plan.schedule.to_json())
        place = places_for(plan.recipe, inputs.network, settings.device)[0]
        mask = VoxelMask.of(settings.mask, plan.recipe)
        workshop = Workshop(
            store, plan.recipe, inputs.network, inputs.volume, mask, ledger.lease, place
        )
        try:
            with _executor(job, workshop, settings, cluster, events) as executor:
                progress = run_stages(workshop, plan, executor, inputs, settings, ledger, events)
        except InputError:
            # Found in the voxels only, as NaN, or a bandwidth that the fields exceed: nothing must
            # remain of it.
            decided = job.resumes and ledger.finished("consensus")
            if not decided and not ledger.finished("predict"):
                _withdraw(store, settings)
            raise
        if progress.missing is not None:
            events.say(f"part {settings.part} is done; {progress.missing}: the last part finishes")
        elif progress.blocks_resumed == progress.blocks_total:
            events.say(
                "all blocks were done before; stitchsafe verify checks that they are whole, and "
                "--repair mends them"
            )
        seams = None
        if not inputs.exact and progress.missing is None:
            seams = _seams(job, workshop.maker, events)
        seconds = time.monotonic() - began
        peak = peak_memory() + getattr(executor, "peak_memory", 0)
        with nullcontext() if settings.part is None else ledger.holding("provenance", events.say):
            _save_provenance(store, seconds, peak)
    return Prediction(
        store.path.local or str(store.path), plan, progress, seconds, peak, seams, inputs.breaks
    )


def _begun(job: _Job, ledger: Ledger, settings: Settings, events: Events) -> _Job:
    """The job, entered in the store; where it is a part, another may have done so meanwhile."""
    if job.resumes:
        if settings.part is None:  # a part has not looked at what others have finished
            for text in job.store.mend_recipe():
                events.say(f"damaged, and written anew from the other record: {text}")
            source, mask = job.inputs.volume.path, mask_place(settings.mask)
            job.store.relocate(source=source, mask=mask)
            _reading(job.plan, job.inputs.volume).enter(job.store)
        return job
    if settings.part is None:
        _begin(job.store, job.plan, job.inputs, settings)
        return job
    with ledger.holding("consensus", events.say):
        if job.store.exists:
            return _prepare(job.inputs, job.store.path, settings, events)
        _begin(job.store, job.plan, job.inputs, settings)
    return job


def _withdraw(store: ResultStore, settings: Settings) -> None:
    """Leave nothing of a result that should not have been begun."""
    if settings.part is None:
        store.clear()
    else:  # others may be at it: they find that it is not begun
        store.withdraw()


@contextmanager
def _executor(
    job: _Job, workshop: Workshop, settings: Settings, cluster: Cluster | None, events: Events
) -> Iterator[Executor]:
    """What does the blocks: this process, as many others as are asked for, or a cluster."""
    recipe, workers = job.plan.recipe, job.plan.memory.workers
    places = itertools.cycle(places_for(recipe, job.inputs.network, settings.device))
    if cluster is not None:
        opener = Job.of(job.store, job.inputs, settings, workshop.lease, next(places))
        with Dask(cluster.client, opener, say=events.say, patience=cluster.patience) as on_cluster:
            cluster.wants_more = lambda: on_cluster.wants_more
            yield on_cluster
        return
    if workers == 1:
        yield Inline(workshop)
        return
    with Processes(
        [
            Job.of(job.store, job.inputs, settings, workshop.lease, next(places))
            for _ in range(workers)
        ],
        cores=cores_for(workers, recipe.threads),
        threads=recipe.threads,
    ) as executor:
        yield executor


def _refuse_unfit_workers(cluster: Cluster, job: _Job) -> None:
    refuse_unfit_workers(
        cluster.client,
        folder=str(job.store.path.absolute.parent),
        volume=str(job.inputs.volume.path),
        processor=job.plan.recipe.processor,
        memory=job.plan.memory.peak,
    )


def _seams(job: _Job, maker: FieldMaker, events: Events) -> Seams:
    """What the tiles of an inexact result do to it, as far as some of its seams tell.

    It takes at most one pass for every five of the prediction's own, or three for each axis.
    """
    store, plan = job.store, job.plan
    whole = plan.grid.whole().input.shape
    if all(shape == whole for shape in plan.grid.input_shapes(plan.recipe.roi)):
        events.say("NOT exact by proof; but every tile reads the whole, so there are no seams")
        seams = Seams(0, 0.0, 0.0)
    else:
        events.stage("seams", 1, "steps")
        axes = len(plan.recipe.tile_shape)
        seams = measure_at_seams(maker, per_axis=min(4, max(1, plan.tiles // (15 * axes))))
        events.advance()
        events.say(f"NOT exact: {seams.describe()}")
    content = {
        "exact": False,
        "breaks": [asdict(each) for each in job.inputs.breaks],
        "seams": seams.to_json(),
    }
    save_json(store.inexact_file, content)
    return seams


def _reading(plan: Plan, volume: Volume) -> Reading:
    return Reading(volume, Shares(plan.recipe, plan.grid))


def _clear(store: ResultStore) -> None:
    """Remove what an earlier run left, unless a run is at work there."""
    if store.private.is_dir():
        with store.ledger:
            pass
        store.clear()


def _begin(
    store: ResultStore,
    plan: Plan,
    inputs: Inputs,
    settings: Settings,
) -> None:
    volume = inputs.volume
    content = {
        "volume": volume.identity,
        "source": volume.path,
        "mask": mask_place(settings.mask),
        "opened": settings.opened(),
        "form": settings.form(),
        **inputs.origin.to_json(),
        "axes": volume.axes,
        "voxel_size": None if volume.voxel_size is None else volume.voxel_size.to_json(),
    }
    _reading(plan, volume).enter(store)
    store.begin(plan.recipe, content)


@contextmanager
def _disk_errors(store: ResultStore) -> Iterator[None]:
    try:
        yield
    except PlaceError as error:
        raise InterruptedRunError(f"{error}; then run the same command again to go on") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InterruptedRunError(
            f"no space is left on the disk for {store.path}; make room, then run the same command "
            "again to go on"
        ) from error


def _save_provenance(store: ResultStore, seconds: float, peak: int) -> None:
    try:
        runs = load_json(store.provenance_file)["runs"]
    except (OSError, IntegrityError):
        runs = []
    runs.append(
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "host": platform.node(),
            "command": sys.argv,
            "stitchsafe": stitchsafe.__version__,
            "python": platform.python_version(),
            "peak_memory_bytes": peak,
        }
    )
    save_json(store.provenance_file, {"runs": runs})


def _in_memory(made: Prediction, store: ResultStore, settings: Settings) -> Prediction:
    """The result of a temporary store, as arrays of the region's shape."""
    roi = made.plan.recipe.roi
    labels, fields = None, {}
    if "labels" in settings.save:
        labels = ArrayStore.open(store.labels / "0").read(roi)
    if "fields" in settings.save:
        for field_ in made.plan.recipe.fields:
            stored = ArrayStore.open(store.field(field_.name) / "0")
            fields[field_.name] = stored.read(field_.box(roi))
    return replace(made, out=None, labels=labels, fields=fields)
