"""Volume and network brought together, and every reason to refuse them found before work starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events
from stitchsafe.errors import (
    InputError,
    ModelError,
    PlanError,
    StoreError,
    UnsafeNetworkError,
    VolumeError,
)
from stitchsafe.geometry import Break
from stitchsafe.networks import (
    ModelConfig,
    Network,
    bundled_models,
    is_factory,
    load_network,
)
from stitchsafe.pipeline._origin import Origin
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._trial import by_trial
from stitchsafe.tiling import AxisTiling
from stitchsafe.volumes import (
    Place,
    PlaceError,
    Volume,
    VoxelSize,
    is_url,
    open_volume,
    planar,
    require_voxel_size,
)

__all__ = [
    "Inputs",
    "ModelLike",
    "VolumeLike",
    "default_output",
    "match_inputs",
    "open_input",
    "refuse_output_within_input",
]

VolumeLike = Any
"""A path, a URL, an array, or an opened volume."""

ModelLike = Any
"""Whatever `stitchsafe.networks.load_network` takes: a name, a path, ``package.module:factory``, a
`torch.nn.Module`, or a loaded network."""


@dataclass(frozen=True)
class Inputs:
    """A volume and the network that is to run over it, known to fit each other."""

    volume: Volume
    network: Network
    roi: Roi
    origin: Origin
    """What loads the network again."""

    linkable: bool
    """Whether the image that the volume lies in has the volume's axes, so that it can be linked."""

    breaks: tuple[Break, ...] = ()
    """Why stitching is not exact, where the user accepts that it is not."""

    @property
    def exact(self) -> bool:
        """Whether stitched will equal whole."""
        return not self.breaks


@dataclass(frozen=True)
class _Slice:
    """One slice of a 3-D volume, as a 2-D volume."""

    volume: Volume
    z: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.volume, name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.volume.shape[1:]

    @property
    def axes(self) -> str:
        return "yx"

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return self.volume.chunk_shape[1:]

    @property
    def voxel_size(self) -> VoxelSize | None:
        size = self.volume.voxel_size
        return size and VoxelSize(size.values[1:], size.unit)

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.volume.identity, "z": self.z}

    def read(self, roi: Roi) -> NDArray[Any]:
        return self.volume.read(self._within(roi))[:, 0]

    def absent_chunks(self, roi: Roi | None = None) -> Iterator[str]:
        return self.volume.absent_chunks(
            self._within(Roi.whole(self.shape) if roi is None else roi)
        )

    def stamp(self, roi: Roi) -> str | None:
        return self.volume.stamp(self._within(roi))

    def _within(self, roi: Roi) -> Roi:
        return Roi((self.z, *roi.offset), (1, *roi.shape))


_OPENING = ("axes", "level", "channel", "time", "voxel_size")


def open_input(source: VolumeLike, settings: Settings) -> Volume:
    """Open a volume as the settings say.

    Raises
    ------
    InputError
        If it has been opened already, and the settings say how.
    """
    said = {name: getattr(settings, name) for name in _OPENING}
    if not isinstance(source, Volume):
        return open_volume(source, **said)
    for name, value in said.items():
        if value != getattr(Settings, name):
            raise InputError(
                f"{name}={value!r} says how to open a volume, and this one has been opened; say "
                "it to open_volume"
            )
    return source


def match_inputs(
    source: VolumeLike,
    model: ModelLike | None,
    settings: Settings,
    events: Events,
) -> Inputs:
    """Open both and refuse what does not fit.

    Raises
    ------
    VolumeError, VoxelSizeError
        If the volume cannot be read, or is not what the network was trained on.
    ModelError, UnsafeNetworkError
        If the model cannot be loaded, or its tiles cannot be stitched exactly.
    """
    volume = open_input(source, settings)
    axes = volume.axes
    roi = settings.region(volume.shape)
    if model is None:
        model = _only_model_for(volume, roi)
        events.say(f"model: {model}, the one bundled model that fits this volume")
    network = load_network(
        model,
        weights=settings.weights,
        arguments=settings.arguments,
        input_channels=settings.input_channels,
        model_axes=settings.model_axes,
        trust=settings.trust_model,
    )
    for note in network.config.notes if network.config else ():
        events.say(f"model: {note}")
    _refuse_skipped_steps(network, settings, events)
    if isinstance(model, str) and is_factory(model) and settings.weights is None:
        events.say(f"model: no --weights given, so its weights are those that {model} makes")
    breaks: tuple[Break, ...] = ()
    if network.geometry.verdict == "unsafe":
        network = _accepted(network, settings, events)
        breaks = network.geometry.breaks
    volume, roi = _on_the_networks_axes(volume, roi, network)
    if volume.channels != network.channels:
        remedy = (
            f"pick one with --channel 0 to {volume.channels - 1}"
            if network.channels == 1
            else f"give a volume of {network.channels} channels"
        )
        several = network.geometry.inputs if len(network.geometry.inputs) > 1 else ()
        split = ", ".join(f"{each.channels} for {each.name!r}" for each in several)
        raise VolumeError(
            f"{volume.path or 'the array'} has {volume.channels} channels, and {network.name} "
            f"takes {network.channels}{f' ({split})' if split else ''}; {remedy}"
        )
    require_voxel_size(volume, _trained_on(network.config))
    for note in volume.notes:
        events.say(f"volume: {note}")
    _refuse_undecided(network)
    if settings.accept_inexact and not breaks:
        breaks = _too_small(network, volume.shape, events)
        if not breaks:
            events.say(f"exact: {network.name} can be stitched; --accept-inexact changes nothing")
    origin = Origin.of(
        model,
        settings.weights,
        settings.arguments,
        input_channels=settings.input_channels,
        model_axes=settings.model_axes,
    )
    return Inputs(volume, network, roi, origin, linkable=volume.axes == axes, breaks=breaks)


def _refuse_skipped_steps(network: Network, settings: Settings, events: Events) -> None:
    """Refuse a network of whose postprocessing something is not done, unless the user accepts it.

    Raises
    ------
    ModelError
        Naming the steps.
    """
    config = network.config
    skipped = config.skipped if config else ()
    finishing = any(output.finishing for output in config.outputs) if config else False
    if settings.skip_postprocessing and not skipped and not finishing:
        events.say(
            f"model: --skip-postprocessing changes nothing, as {network.name} has no step that it "
            "would leave out"
        )
    for each in skipped:
        if not settings.skip_postprocessing:
            raise ModelError(
                f"{network.name}: {each}; have the field as it is before those steps with "
                "--skip-postprocessing, and do them to it afterwards"
            )
        events.say(f"model: {each}")
    for output in config.outputs if config else ():
        if output.finishing:
            kinds = ", ".join(step.kind for step in output.finishing)
            done = "are left out" if settings.skip_postprocessing else "are done to it when saved"
            events.say(
                f"model: after the field {output.name!r} come {kinds}, with statistics of the "
                f"whole field: they {done}"
            )


def _accepted(network: Network, settings: Settings, events: Events) -> Network:
    """A network that cannot be stitched exactly, as the user wants it run all the same.

    Raises
    ------
    UnsafeNetworkError
        Unless the user does.
    """
    if not settings.accept_inexact:
        try:
            network.geometry.require_safe()
        except UnsafeNetworkError as error:
            raise UnsafeNetworkError(
                f"{error}; or run it all the same, knowing that it is not exact, with "
                "--accept-inexact"
            ) from error
    for each in network.geometry.breaks:
        events.say(f"NOT exact: {each}")
    return network if network.geometry.axes else by_trial(network, events, settings.precision)


def _too_small(network: Network, extent: tuple[int, ...], events: Events) -> tuple[Break, ...]:
    """What speaks against a network whose one input size leaves no room for its context."""
    try:
        for axis, size in zip(network.geometry.axes, extent, strict=True):
            AxisTiling.largest_tile(axis, size)
    except PlanError as error:
        reason, _, fix = str(error).partition("; ")
        found = Break(network.name, "input", reason, fix)
        events.say(f"NOT exact: {found}")
        return (found,)
    return ()


def _refuse_undecided(network: Network) -> None:
    if network.geometry.consensus:
        layer, what = network.geometry.consensus[0]
        raise UnsafeNetworkError(
            f"{network.name} can be stitched only if {what} (layer {layer}) is decided once for "
            "the whole volume, which this version cannot do; use a network without that layer"
        )


def _on_the_networks_axes(volume: Volume, roi: Roi, network: Network) -> tuple[Volume, Roi]:
    if roi.ndim == network.ndim:
        return volume, roi
    if network.ndim == 2 and roi.ndim == 3 and roi.shape[0] == 1:
        flat = planar(volume) if volume.shape[0] == 1 else _Slice(volume, roi.offset[0])
        return flat, Roi(roi.offset[1:], roi.shape[1:])
    wanted = "yx" if network.ndim == 2 else "zyx"
    remedy = (
        f"pick a slice, as in --roi {volume.shape[0] // 2}:{volume.shape[0] // 2 + 1},:,:"
        if network.ndim == 2
        else "give a 3-D volume, or say what its axes are with --axes zyx"
    )
    raise VolumeError(
        f"{volume.path or 'the array'} has the axes {volume.axes}, and {network.name} runs over "
        f"{wanted}; {remedy}"
    )


def _trained_on(config: ModelConfig | None) -> VoxelSize | None:
    if config is None or config.input.voxel_size is None:
        return None
    return VoxelSize(config.input.voxel_size, config.input.unit)


def _only_model_for(volume: Volume, roi: Roi) -> str:
    models = bundled_models()
    fitting = [name for name, config in models.items() if _fits(config, volume, roi)]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(
        f"{name}: {config.input.axes}, {config.input.channels} channel(s), "
        f"{_trained_on(config) or 'any voxel size'}"
        for name, config in models.items()
    )
    size = volume.voxel_size or "unknown voxel size"
    found = f"{', '.join(fitting)} all fit" if fitting else "no bundled model fits"
    raise ModelError(
        f"{found} this volume ({volume.axes}, {volume.channels} channel(s), {size}); name one with "
        f"--model [{listed}]"
    )


def _fits(config: ModelConfig, volume: Volume, roi: Roi) -> bool:
    flat = len(config.input.axes) == 2 and roi.ndim == 3 and roi.shape[0] == 1
    if config.input.channels != volume.channels or not (
        flat or len(config.input.axes) == len(volume.axes)
    ):
        return False
    expected = _trained_on(config)
    return expected is None or (
        volume.voxel_size is not None
        and VoxelSize(
            volume.voxel_size.values[-len(expected.values) :], volume.voxel_size.unit
        ).agrees(expected)
    )


def default_output(volume: Volume) -> Path | Place:
    """Where a result goes without ``--out``: beside the volume.

    Raises
    ------
    InputError
        If the volume lies nowhere.
    """
    if volume.path is None:
        raise InputError("an array has no place beside it; give out=, a folder for the result")
    if is_url(volume.path):
        return _beside_url(Place.of(volume.path))
    file, inner = _file_of(volume.path)
    root = _zarr_root(Place.of(file)).local
    assert root is not None  # as the file is
    names = [*file.relative_to(root).parts, *filter(None, inner.split("/"))]
    if root != file and names[-1].isdecimal():
        names.pop()  # the level of a pyramid
    stem = root.stem if root.is_file() else root.name.removesuffix(".zarr").removesuffix(".ome")
    return root.parent / f"{'-'.join([stem, *names])}-stitchsafe.zarr"


def _beside_url(place: Place) -> Place:
    if not place.writable_kind or ".zip" in place.key or "/" not in place.key:
        raise StoreError(
            f"nothing can be written beside {place}; say where the result goes with --out"
        )
    root = _zarr_root(place)
    names = [name for name in place.key.removeprefix(root.key).split("/") if name]
    if names and names[-1].isdecimal():
        names.pop()  # the level of a pyramid
    stem = root.name.removesuffix(".zarr").removesuffix(".ome")
    return root.parent / f"{'-'.join([stem, *names])}-stitchsafe.zarr"


def _file_of(path: str) -> tuple[Path, str]:
    """The file or folder of a volume's path, and what is named inside it."""
    if Path(path).exists():
        return Path(path), ""
    file, _, inner = path.rpartition(":")
    return Path(file), inner


def _zarr_root(path: Place) -> Place:
    """The outermost Zarr group that holds a path; the path itself if there is none."""
    root = path
    while root.parent != root and any(
        (root.parent / name).is_file() for name in ("zarr.json", ".zgroup")
    ):
        root = root.parent
    return root


def refuse_output_within_input(out: Place, volume: Volume) -> None:
    """An output must be neither the input nor a part of it or of its container, nor hold it.

    Raises
    ------
    StoreError
        If it is.
    """
    if volume.path is None:
        return
    if is_url(volume.path):
        source = Place.of(volume.path)
    else:
        source = Place.of(_file_of(volume.path)[0].resolve())
    if source.kind != out.kind:
        return
    try:
        source = _zarr_root(source)
    except PlaceError as error:
        raise error.refusal(StoreError) from error
    if source.holds(out) or out.holds(source):
        raise StoreError(
            f"the output {out} and the input {volume.path} are the same or lie within each other; "
            "choose another place with --out"
        )
