"""The verb plan: recipe and schedule for a volume and a network, without running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from stitchsafe.coordinates import CellGrid, Roi, ceil_to, floor_to
from stitchsafe.engine import Events, Shares, Silent
from stitchsafe.errors import InputError, ModelError, PlanError
from stitchsafe.instances import MERGING_BYTES, LabelSettings, voxel_bytes
from stitchsafe.networks import ModelConfig, Network, Runtime
from stitchsafe.pipeline._devices import (
    choose_devices,
    choose_precision,
    device_budget,
    places_for,
    worker_count,
)
from stitchsafe.pipeline._inputs import Inputs, ModelLike, VolumeLike, match_inputs
from stitchsafe.pipeline._machine import allotted_memory, processor_name, usable_cores
from stitchsafe.pipeline._mask import skipping
from stitchsafe.pipeline._reading import Reading
from stitchsafe.pipeline._settings import FIELD_TYPES, Options, Settings
from stitchsafe.precision import PRECISIONS
from stitchsafe.tiling import (
    Halo,
    Normalization,
    Plan,
    Recipe,
    Shapes,
    Skipping,
    Storage,
    TileGrid,
    format_bytes,
    make_plan,
    with_seconds,
)
from stitchsafe.volumes import MOST_READ_BYTES

__all__ = ["draft_plan", "estimate_seconds", "plan"]

_WINDOW = {2: 512, 3: 64}


def plan(
    volume: VolumeLike,
    model: ModelLike | None = None,
    *,
    events: Events | None = None,
    **options: Unpack[Options],
) -> Plan:
    """Say what predict would do, and what it would cost.

    Parameters
    ----------
    volume
        A path, an array, or an opened volume.
    model
        As for `predict`; by default the bundled one that fits.
    events
        Told what is assumed.
    **options
        As for `predict`.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        As for `predict`: whatever makes the job impossible is found here.
    """
    settings, events = Settings.of(options), events or Silent()
    inputs = match_inputs(volume, model, settings, events)
    drafted = draft_plan(inputs, settings, events)
    return with_seconds(drafted, estimate_seconds(drafted, inputs.network))


def draft_plan(
    inputs: Inputs,
    settings: Settings,
    events: Events,
    stored: Recipe | None = None,
    *,
    below: Sequence[int] | None = None,
) -> Plan:
    """The plan of some inputs.

    Parameters
    ----------
    stored
        Recipe of a run that is resumed: what the user leaves open is taken from it.
    below
        A tile that memory has run out at: only smaller ones are taken.
    """
    network, volume = inputs.network, inputs.volume
    config = network.config
    values = _label_values(network, settings)
    window = None if values is None else tuple(_window(config, network))
    finishing = _finishing(config, settings)
    precision = choose_precision(settings, network, stored, events)
    field_type = _field_type(settings, PRECISIONS[precision].kept, events)
    cell_bytes, spilled = 0, tuple[str, ...]()
    if values is not None:
        labels = LabelSettings.from_json({**values, "window": window})
        _refuse_fields(labels, network)
        if labels.is_class_map and "table" in settings.save:
            raise InputError(
                "--save table lists instances, and a class map has none; leave it out, and list "
                "the classes of the result with stitchsafe export --to csv"
            )
        _refuse_finished(labels, network, finishing)
        numbers = sum(output.channels for output in network.outputs)
        if labels.needs_consensus and ("fields" not in settings.save or field_type):
            spilled = tuple(dict.fromkeys(labels.fields))
        cell_bytes = voxel_bytes(
            labels,
            fields=numbers * np.dtype(PRECISIONS[precision].kept).itemsize,
            nan_is_background=settings.nan == "keep",
        )
    layout = network.layout_for(precision)
    devices = choose_devices(settings, network, stored, events)
    workers = worker_count(settings, devices)
    region = inputs.roi
    if settings.border == "crop":
        region = region.intersect(_full_context(inputs))
    if region.size == 0:
        raise PlanError(
            f"with --border crop nothing is left of {inputs.roi}: no voxel has the whole context "
            f"{network.geometry.context}; take another border rule"
        )
    fair = max(1, usable_cores() // workers)
    threads = settings.threads or (stored.threads if stored else fair)

    def draft(shapes: Shapes, grid: TileGrid) -> Recipe:
        return Recipe(
            network=network.name,
            weights=network.fingerprint,
            extent=volume.shape,
            roi=region,
            tile_shape=shapes.tile,
            halo=grid.halo,
            cell_shape=shapes.cell,
            outputs=tuple((output.name, output.channels) for output in network.outputs),
            save_fields="fields" in settings.save,
            labels=None if values is None else _labels(values, shapes),
            border=settings.border,
            normalization=_normalization(config, settings),
            nan=settings.nan,
            device=devices.kind,
            precision=precision,
            layout=layout,
            threads=threads,
            build=network.build,
            processor=devices.model or processor_name(),
            seed=settings.seed,
            exact=inputs.exact,
            scales=tuple(tuple(map(str, output.scale)) for output in network.geometry.outputs),
            finishing=finishing if "fields" in settings.save else (),
            spilled=spilled,
            field_type=field_type,
        )

    def masked(cells: CellGrid) -> Skipping:
        found = skipping(settings.mask, volume.shape, cells, settings, events)
        events.say(
            f"mask: {found.skipped} of {found.total} cells hold no voxel of it and are skipped"
        )
        return found

    budget = settings.max_memory
    if budget is None:
        allotment = allotted_memory()
        budget = allotment.memory
        events.say(f"memory: up to {format_bytes(budget)}, {allotment.source}")
    preferred = config.tiling.tile_shape if config and config.tiling else None
    drafted = make_plan(
        network,
        extent=volume.shape,
        roi=region,
        storage=Storage(
            itemsize=volume.dtype.itemsize,
            cell_bytes=cell_bytes,
            extent=volume.shape,
            chunk_shape=volume.chunk_shape,
            decoded_bytes=volume.decoded_bytes,
            decoders=max(2, usable_cores()),
            merging_bytes=MERGING_BYTES if values is not None else 0,
            read_whole=min(volume.decoded_bytes, MOST_READ_BYTES),
        ),
        max_memory=budget,
        draft=draft,
        tile_shape=settings.tile_shape or (stored.tile_shape if stored else None),
        preferred_tile=preferred,
        window=window,
        block_shape=settings.block_shape,
        halo=_stored_halo(settings, stored),
        exact=inputs.exact,
        workers=workers,
        max_device_memory=device_budget(settings, devices, workers),
        below=below,
        masked=None if settings.mask is None else masked,
    )
    reading = Reading(volume, Shares(drafted.recipe, drafted.grid))
    reading.refuse_absent_chunks(settings, events)
    _say_what_is_taken(drafted, settings, preferred, window, events)
    return drafted


def _stored_halo(settings: Settings, stored: Recipe | None) -> Halo | None:
    """The halo of a run that is resumed, where memory chose it."""
    if stored is None or stored.exact:
        return None
    same = settings.tile_shape is None or tuple(settings.tile_shape) == stored.tile_shape
    return stored.halo if same else None


def _say_what_is_taken(
    drafted: Plan,
    settings: Settings,
    card_tile: Sequence[int] | None,
    card_window: Sequence[int] | None,
    events: Events,
) -> None:
    """Shapes that are not what was asked for, each with the reason."""
    recipe = drafted.recipe
    short = tuple(drafted.grid.extent)
    for name, asked, taken in (
        ("tile", settings.tile_shape or card_tile, recipe.tile_shape),
        ("clustering window", card_window, recipe.cell_shape),
        ("block", settings.block_shape, drafted.schedule.block_shape),
    ):
        if asked is None or tuple(asked) == tuple(taken):
            continue
        fits = all(t == a or a >= e <= t for t, a, e in zip(taken, asked, short, strict=True))
        allowed = drafted.limits[0] if drafted.limits and name == "tile" else ""
        reason = "the volume is no larger" if fits else allowed or "what the memory allows"
        if name == "tile" and not all(axis.geometry.input_step for axis in drafted.grid.axes):
            reason = "what the one input size that the network takes leaves room for"
        events.say(f"{name}: {_shape(asked)} asked for, {_shape(taken)} taken, {reason}")
    if not recipe.exact:
        read = drafted.grid.input_shapes(recipe.roi)
        largest = [max(sizes) for sizes in zip(*read, strict=True)]
        events.say(
            f"NOT exact: each tile of {_shape(recipe.tile_shape)} reads a halo of "
            f"{' '.join(f'{before}+{after}' for before, after in recipe.halo)}, the widest that "
            f"memory allows (inputs of {_shape(largest)}); more memory means fewer and weaker seams"
        )
    extended = tuple(end - begin for begin, end in (axis.domain for axis in drafted.grid.axes))
    if any(
        axis.geometry.padded and size != axis.extent
        for axis, size in zip(drafted.grid.axes, extended, strict=True)
    ):
        events.say(
            f"volume: extended from {_shape(short)} to {_shape(extended)} by the border rule "
            f"{recipe.border}, since the network takes no pass of that size; the whole is the pass "
            "over what is extended"
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _field_type(settings: Settings, computed: str, events: Events) -> str | None:
    """What fields are rounded to; None where they are kept as they are computed."""
    if settings.field_type is None:
        return None
    asked = FIELD_TYPES[settings.field_type]
    if np.dtype(asked).itemsize >= np.dtype(computed).itemsize:
        if asked != computed:
            events.say(f"field type: {asked} asked for, {computed} taken, as fields are computed")
        return None
    return asked


def _labels(values: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    return LabelSettings.from_json({**values, "window": shapes.cell}).to_json()


def _window(config: ModelConfig | None, network: Network) -> Sequence[int]:
    if config is not None and config.labels is not None:
        return config.labels.window
    size = _WINDOW[network.ndim]
    return [-(-size // period) * period for period in network.geometry.period]


def _label_values(network: Network, settings: Settings) -> dict[str, Any] | None:
    """Settings of the instances but the window: the card's, changed by what the user asks for."""
    if not settings.makes_labels:
        return None
    declared = network.config.labels if network.config else None
    if declared is None and settings.labels_from is None:
        raise ModelError(
            f"{network.name} does not say what its outputs mean; say what labels are made of with "
            "--labels-from embeddings, foreground or argmax, or keep its fields with --save fields"
        )
    values: dict[str, Any] = {}
    if declared is not None:
        values = {**declared.model_dump(exclude={"window"})}
    elif len(network.outputs) == 1:
        only = network.outputs[0].name
        values = {"embedding_field": only, "foreground_field": only, "class_field": only}
    changed = {
        "source": settings.labels_from,
        "parts": settings.parts,
        "bandwidth": settings.bandwidth,
        "bandwidth_quantile": settings.bandwidth_quantile,
        "kernel": settings.kernel,
        "clusters": settings.clusters,
        "min_size": settings.min_size,
        "foreground_threshold": settings.foreground_threshold,
    }
    values.update({key: value for key, value in changed.items() if value is not None})
    values["masked"] = settings.mask_voxels
    if settings.labels_from == "argmax":  # nothing grows there, whatever the card's own labels do
        for name in ("growth_threshold", "growth_steps", "min_core"):
            values.pop(name, None)
    if values.get("source") == "argmax" and not values.get("parts", True):
        _refuse_sizes_of_classes(settings)
        values.pop("min_size", None)  # the card's, of parts
    _refuse_unused(LabelSettings.from_json({**values, "window": (1,)}), settings)
    return values


def _refuse_sizes_of_classes(settings: Settings) -> None:
    if settings.min_size is not None:
        raise InputError(
            f"--min-size {settings.min_size} drops instances, and a class map has none; leave it "
            "out"
        )


def _refuse_unused(labels: LabelSettings, settings: Settings) -> None:
    """Refuse what labels of this kind have no use for."""
    embeddings = labels.source == "embeddings"
    for option, value, used, for_what in (
        ("--bandwidth", settings.bandwidth, embeddings, "labels of embeddings"),
        (
            "--bandwidth-quantile",
            settings.bandwidth_quantile,
            embeddings and labels.bandwidth == "auto",
            "a bandwidth that is estimated (--bandwidth auto)",
        ),
        ("--kernel", settings.kernel, embeddings, "labels of embeddings"),
        ("--clusters", settings.clusters, embeddings, "labels of embeddings"),
        (
            "--foreground-threshold",
            settings.foreground_threshold,
            labels.needs_foreground,
            "labels that a foreground is read for",
        ),
    ):
        if value is not None and not used:
            background = (
                f" without a foreground (background: {labels.background})" if embeddings else ""
            )
            raise InputError(
                f"{option} {value} is for {for_what}, and these are made of {labels.source}"
                f"{background}; leave it out, or choose another --labels-from"
            )


def _refuse_fields(labels: LabelSettings, network: Network) -> None:
    """Labels are made of fields that exist and have an element for every voxel."""
    names = [output.name for output in network.outputs]
    for field in labels.fields:
        if field not in names:
            raise ModelError(
                f"labels from {labels.source} need the field {field!r}, and {network.name} has "
                f"{', '.join(names)}; choose another --labels-from, or --save fields"
            )
        channels = network.outputs[names.index(field)].channels
        if labels.source == "argmax" and channels < 2:
            raise ModelError(
                f"labels from argmax are the channel with the largest value, and the field "
                f"{field!r} of {network.name} has {channels}; choose another --labels-from, or "
                "--save fields"
            )
        scale = network.geometry.outputs[names.index(field)].scale
        if any(each != 1 for each in scale):
            raise ModelError(
                f"labels are made of one element per voxel, and the field {field!r} of "
                f"{network.name} has {' x '.join(map(str, scale))}; keep it with --save fields"
            )


def _finishing(
    config: ModelConfig | None, settings: Settings
) -> tuple[tuple[dict[str, Any], ...], ...]:
    """For each output, the steps that take statistics of all of it and what follows them."""
    outputs = config.outputs if config else ()
    if settings.skip_postprocessing or not any(output.finishing for output in outputs):
        return ()
    return tuple(
        tuple(step.model_dump(mode="json") for step in output.finishing) for output in outputs
    )


def _refuse_finished(
    labels: LabelSettings, network: Network, finishing: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Labels are made cell by cell, of fields that a cell knows."""
    for output, steps in zip(network.outputs, finishing, strict=False):
        if steps and output.name in labels.fields:
            kinds = ", ".join(step["kind"] for step in steps)
            raise ModelError(
                f"labels would be made of the field {output.name!r}, after which {network.name} "
                f"lists {kinds} with statistics of the whole field, and labels are made before it "
                "is whole; choose another --labels-from, or make them of the field as it is before "
                "those steps with --skip-postprocessing"
            )


def _normalization(config: ModelConfig | None, settings: Settings) -> Normalization:
    declared = config.input if config else None
    if declared and declared.tensors and settings.normalize is None:
        return Normalization(
            "steps", tensors=tuple(each.model_dump(mode="json") for each in declared.tensors)
        )
    kind = settings.normalize or (declared.normalize if declared else "none")
    return Normalization(kind, declared.percentiles if declared else (1.0, 99.0))


def _full_context(inputs: Inputs) -> Roi:
    """The voxels whose context lies within the volume.

    The context is that of whole periods; a voxel amid a period needs up to a period more on one
    side. So whole periods count.
    """
    axes, extent = inputs.network.geometry.axes, inputs.volume.shape
    return Roi.from_bounds(
        [ceil_to(axis.context[0], axis.period) for axis in axes],
        [floor_to(e - axis.context[1], axis.period) for axis, e in zip(axes, extent, strict=True)],
    )


def estimate_seconds(drafted: Plan, network: Network) -> float:
    """Time of all forward passes, from one pass over a small input on this machine."""
    recipe = drafted.recipe
    place = places_for(recipe, network)[0]
    network.prepare(Runtime(place, recipe.precision, recipe.layout, recipe.threads))
    shape = tuple(
        axis.input_min + (ceil_to(24, axis.input_step) if axis.input_step else 0)
        for axis in network.geometry.axes
    )
    sample = np.zeros((1, network.channels, *shape), recipe.kept)
    network.run(sample)
    start = time.perf_counter()
    network.run(sample)
    elapsed = time.perf_counter() - start
    return elapsed * drafted.flops / max(1, network.trace(shape).flops())
