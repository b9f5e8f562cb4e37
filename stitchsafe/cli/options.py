"""The options that commands share, each group declared once as a dataclass.

`accepts_groups` lets a command take a group as one parameter: on the command line each field of
the group becomes an option of its own. A group's `keywords` are the arguments of the Python
function of the same name; what was not given is left out, so that defaults stand in one place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, get_type_hints

import typer

from stitchsafe.cli.parsing import (
    parse_arguments,
    parse_bandwidth,
    parse_bytes,
    parse_counts,
    parse_layouts,
    parse_roi,
    parse_shape,
)

__all__ = [
    "MODEL_HELP",
    "ModelOption",
    "ModelOptions",
    "OutputOptions",
    "PredictOptions",
    "VolumeArgument",
    "VolumeOptions",
    "accepts_groups",
]

VolumeArgument = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME",
        help=(
            "A path: OME-Zarr, Zarr, HDF5 (file.h5:raw), TIFF or NumPy; of OME-Zarr and Zarr also "
            "a URL (s3://bucket/key, https://host/path) or a zip (archive.zip:inner)."
        ),
        show_default=False,
    ),
]
MODEL_HELP = (
    "A bundled model's name, a model folder, a bioimage.io package, an ONNX file, a .pt2, or "
    "package.module:factory"
)
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"{MODEL_HELP}; by default the bundled one that fits.",
    ),
]


def _option(help_: str, metavar: str | None = None, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help_, metavar=metavar, rich_help_panel=panel, **more)


def _flag(name: str, help_: str, panel: str) -> Any:
    """An option without a value, and without a ``--no-`` twin."""
    return typer.Option(name, help=help_, rich_help_panel=panel)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How a command talks."""

    json: Annotated[bool, _flag("--json", "Print one JSON object on stdout.", "Output")] = False
    progress: Annotated[
        Literal["text", "json"],
        _option("How progress is told on stderr: for people, or for a program.", None, "Output"),
    ] = "text"
    quiet: Annotated[bool, _flag("--quiet", "Say nothing on stderr but errors.", "Output")] = False
    debug: Annotated[bool, _flag("--debug", "Show the traceback of an error.", "Output")] = False


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a model does not say itself, and whether its code may run."""

    weights: Annotated[
        str | None,
        _option("Weights for package.module:factory, as safetensors or .pth.", "FILE", "Model"),
    ] = None
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            metavar="NAME=VALUE",
            help="An argument of package.module:factory, as a Python literal; once for each.",
            rich_help_panel="Model",
        ),
    ] = None
    input_channels: Annotated[
        str | None,
        _option(
            "Channels of each input of package.module:factory, in order, where it does not tell.",
            "1,2",
            "Model",
        ),
    ] = None
    model_axes: Annotated[
        str | None,
        _option(
            "Axes of an ONNX model's tensors, where they are guessed wrongly; of single inputs and "
            "outputs as in image=byxc,scores=bcyx.",
            "bczyx",
            "Model",
        ),
    ] = None
    trust_model: Annotated[
        bool, _flag("--trust-model", "Run code that the model brings along.", "Model")
    ] = False

    def keywords(self) -> dict[str, Any]:
        values = _given(
            self,
            arg=parse_arguments,
            input_channels=lambda text: parse_counts(text, "--input-channels"),
            model_axes=lambda text: parse_layouts(text, "--model-axes"),
        )
        if "arg" in values:
            values["arguments"] = values.pop("arg")
        return values


@dataclass(frozen=True, kw_only=True)
class VolumeOptions:
    """Which part of a file is the volume, and what the file fails to say about it."""

    roi: Annotated[
        str | None, _option("Only this region, in voxels.", "0:64,128:512,:", "Volume")
    ] = None
    level: Annotated[
        int | None, _option("Level of the pyramid; 0 is the finest.", "N", "Volume", min=0)
    ] = None
    channel: Annotated[int | None, _option("Only this channel.", "N", "Volume", min=0)] = None
    time: Annotated[int | None, _option("This time point.", "N", "Volume", min=0)] = None
    axes: Annotated[
        str | None, _option("Names of the axes, where the file has none.", "zyx", "Volume")
    ] = None
    voxel_size: Annotated[
        str | None,
        _option(
            "Voxel size where the file has none or a wrong one; micrometres, or with a unit.",
            "10,10,10nm",
            "Volume",
        ),
    ] = None
    nan: Annotated[
        Literal["refuse", "zero", "keep"] | None,
        _option("What to do about NaN and infinite voxels.", None, "Volume"),
    ] = None
    mask: Annotated[
        str | None,
        _option(
            "Skip cells where this volume, of the same shape or coarser by whole factors, is 0.",
            "MASK",
            "Volume",
        ),
    ] = None
    mask_voxels: Annotated[
        bool,
        _flag("--mask-voxels", "Take voxels where the mask is 0 for background.", "Volume"),
    ] = False
    refuse_missing_chunks: Annotated[
        bool,
        _flag(
            "--refuse-missing-chunks",
            "Refuse a volume with chunks that were never written.",
            "Volume",
        ),
    ] = False

    def keywords(self) -> dict[str, Any]:
        return _given(self, roi=lambda text: parse_roi(text, "--roi"))


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How a network is run and labels are made: shared by ``predict`` and ``plan``."""

    labels_from: Annotated[
        Literal["embeddings", "foreground", "argmax"] | None,
        _option("What instances are made from (the model's own by default).", None, "Labels"),
    ] = None
    parts: Annotated[
        bool | None,
        typer.Option(
            "--parts/--no-parts",
            help="Whether connected parts of a class, or of a cluster, are labels of their own.",
            show_default=False,
            rich_help_panel="Labels",
        ),
    ] = None
    bandwidth: Annotated[
        str | None,
        _option(
            "Bandwidth of mean shift in embedding space; auto estimates it from the whole volume.",
            "X|auto",
            "Labels",
        ),
    ] = None
    bandwidth_quantile: Annotated[
        float | None,
        _option(
            "Share of all voxels that a bandwidth of auto reaches; 0.3 by default.",
            "Q",
            "Labels",
            min=0,
            max=1,
        ),
    ] = None
    kernel: Annotated[
        Literal["flat", "gaussian"] | None, _option("Kernel of mean shift.", None, "Labels")
    ] = None
    clusters: Annotated[
        Literal["window", "volume"] | None,
        _option(
            "Where clusters are found: in each window, or once in the volume, where an embedding "
            "means the same everywhere.",
            None,
            "Labels",
        ),
    ] = None
    min_size: Annotated[
        int | None, _option("Drop instances of fewer voxels.", "VOXELS", "Labels", min=0)
    ] = None
    foreground_threshold: Annotated[
        float | None, _option("What counts as foreground, 0 to 1.", "P", "Labels", min=0, max=1)
    ] = None
    field_type: Annotated[
        str | None,
        _option(
            "Round fields that are kept to fp16 or fp32; the result says by how much.",
            "TYPE",
            "Running",
        ),
    ] = None
    tile_shape: Annotated[
        str | None, _option("Output voxels of one forward pass.", "64,128,128", "Running")
    ] = None
    block_shape: Annotated[
        str | None, _option("Output voxels of one resumable block.", "128,512,512", "Running")
    ] = None
    chunk_shape: Annotated[
        str | None,
        _option("Chunks of the output; makes each cell a shard of them.", "32,64,64", "Running"),
    ] = None
    max_memory: Annotated[
        str | None,
        _option("Resident memory of all processes together.", "8GB", "Running"),
    ] = None
    border: Annotated[
        Literal["reflect", "edge", "zero", "crop"] | None,
        _option("How the volume goes on beyond its border.", None, "Running"),
    ] = None
    normalize: Annotated[
        Literal["none", "zscore", "percentile"] | None,
        _option("Intensity normalisation (the model's own by default).", None, "Running"),
    ] = None
    max_device_memory: Annotated[
        str | None,
        _option("Memory of each device that is used.", "40GB", "Running"),
    ] = None
    device: Annotated[
        str | None,
        _option("Where to run: auto, cpu, cuda or cuda:0,1.", "DEVICE", "Running"),
    ] = None
    precision: Annotated[
        str | None,
        _option("Arithmetic of the network: auto, fp64, fp32, bf16 or fp16.", "TYPE", "Running"),
    ] = None
    threads: Annotated[
        int | None, _option("Threads of one forward pass.", "N", "Running", min=1)
    ] = None
    workers: Annotated[
        int | None,
        _option("Processes of this machine that share the blocks.", "N", "Running", min=1),
    ] = None
    dask: Annotated[
        str | None,
        _option(
            "A dask cluster that does the blocks: its scheduler's address, or a file that "
            "describes it.",
            "tcp://HOST:PORT|FILE.yaml",
            "Running",
        ),
    ] = None
    part: Annotated[
        str | None,
        _option(
            "Share i of n, for n runs of one command side by side; the last one finishes.",
            "I/N",
            "Running",
        ),
    ] = None
    accept_inexact: Annotated[
        bool,
        _flag(
            "--accept-inexact",
            "Run a network that cannot be stitched exactly too; the result says so.",
            "Running",
        ),
    ] = False
    skip_postprocessing: Annotated[
        bool,
        _flag(
            "--skip-postprocessing",
            "Leave out a package's steps with statistics of an output, and what is not done here.",
            "Running",
        ),
    ] = False
    seed: Annotated[
        int | None, _option("Seed of the voxels that verify re-predicts.", "N", "Running", min=0)
    ] = None

    def keywords(self) -> dict[str, Any]:
        return _given(
            self,
            bandwidth=lambda text: parse_bandwidth(text, "--bandwidth"),
            tile_shape=lambda text: parse_shape(text, "--tile-shape"),
            block_shape=lambda text: parse_shape(text, "--block-shape"),
            chunk_shape=lambda text: parse_shape(text, "--chunk-shape"),
            max_memory=lambda text: parse_bytes(text, "--max-memory"),
            max_device_memory=lambda text: parse_bytes(text, "--max-device-memory"),
        )


def _given(group: Any, **parsers: Callable[[str], Any]) -> dict[str, Any]:
    values = {field.name: getattr(group, field.name) for field in fields(group)}
    return {
        name: parsers[name](value) if name in parsers else value
        for name, value in values.items()
        if value is not None
    }


def accepts_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Spread every parameter that is a group of options into one option per field."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if not is_dataclass(hints[name]):
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        groups[name] = hints[name]
        field_hints = get_type_hints(hints[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field_hints[field.name],
            )
            for field in fields(hints[name])
        ]

    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
