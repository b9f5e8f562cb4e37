"""A trained network as a bioimage.io package, format 0.5.

::

    bioimageio.yaml    the description: axes with the valid sizes that were traced, what the network
                       takes off (offset) and what is to be cropped beyond (halo), the scaling of
                       intensities, licence, citation; under config, labels and tiles
    weights.onnx       the network with its activations
    README.md          the card
    cover.png
    test_input.npy, test_NAME.npy

A pass of a valid network over ``min + k * step`` voxels gives nothing that needs cropping, but its
size need not be a multiple of the period, and only tiles that are can be put side by side. So the
halo is half of what remains; of a padded network it is the context, in whole periods, since tiles
must begin on the lattice.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from stitchsafe.coordinates import ceil_to
from stitchsafe.engine import Events
from stitchsafe.errors import ModelError
from stitchsafe.geometry import AxisGeometry
from stitchsafe.networks import ModelConfig, TorchNetwork, quietly
from stitchsafe.training._onnx import OPSET, input_name
from stitchsafe.volumes import VoxelSize

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["INSTEAD", "pack", "refuse_unpackable"]

INSTEAD = "; export it to onnx alone"
"""The remedy, at the end of what is said of a network that becomes no package."""

_ABOUT = {2: 160, 3: 64}
"""Voxels per axis of the test input, rounded to the valid size above."""
_TRIES = 8
"""Test inputs, until one gives every output positive values."""
_OFF = 1e-4
"""Of an output's largest value, what other implementations may be off: ten times what onnxruntime
may here, and a hundredth of the relative tolerance that the format has beside it."""
_EPS = 1e-9
"""The format adds some positive number to what it divides by; this one no float32 sees."""
_LICENCE = re.compile(r"[A-Za-z0-9.+-]+")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_CITE = {
    "text": "Rumberger, J. L. et al. (2021). How Shift Equivariance Impacts Metric Learning for "
    "Instance Segmentation. ICCV 2021.",
    "doi": "10.48550/arXiv.2101.05846",
}


@dataclass(frozen=True)
class _Sizes:
    """Of one axis, in the terms of the format."""

    min: int
    step: int
    offset: int
    halo: int

    @classmethod
    def of(cls, axis: AxisGeometry) -> _Sizes:
        period, step = axis.period, axis.input_step
        halo = ceil_to(max(axis.context), period) if axis.padded else 0
        if not axis.padded:
            over = axis.output_size(axis.input_min) % period
            # Of an odd rest of an even period no halo of two equal sides is left over.
            halo = next((h for h in range(period) if (over - 2 * h) % period == 0), 0)
        least = axis.covering(2 * halo + period)
        return cls(least, step, -axis.shrinkage, halo)


def refuse_unpackable(network: TorchNetwork) -> None:
    """Refuse a network that the format cannot state as it is.

    Raises
    ------
    ModelError
        Saying why, and what can be had instead.
    """
    config, geometry = network.config, network.geometry
    assert config is not None
    problem = ""
    if geometry.verdict != "safe":
        why = geometry.breaks or [f"{what} (layer {layer})" for layer, what in geometry.consensus]
        problem = (
            f"programs that cut it into tiles would get seams: it is {geometry.verdict}, {why[0]}"
        )
    elif any(axis.input_step == 0 for axis in geometry.axes):
        problem = "it takes one input size only"
    elif any(a.scale != 1 or any(a.surplus) for out in geometry.outputs for a in out.axes):
        problem = "an output has another scale than the input, or no size that follows from one"
    elif config.input.tensors:
        problem = "its intensities are scaled by single steps"
    else:
        names = [output.name for output in config.outputs]
        bad = next((name for name in names if not _PLAIN.fullmatch(name)), None)
        if bad is not None:
            problem = f"the output {bad!r} needs a name of small letters, digits and _"
    if problem:
        raise ModelError(f"{network.name} cannot be a bioimage.io package: {problem}{INSTEAD}")


def pack(network: TorchNetwork, model: ModelProto, card: str, events: Events) -> bytes:
    """The package, as the bytes of a zip; validated by the format's own library.

    Parameters
    ----------
    model
        The network as ONNX.
    card
        Its ``card.md``.

    Raises
    ------
    ModelError
        If the library finds fault with it.
    """
    config = network.config
    assert config is not None
    tests = _positive_tests(network, config)
    files = {"weights.onnx": model.SerializeToString(), "README.md": _readme(config, card).encode()}
    files |= {f"test_{name}.npy": _npy(array) for name, array in tests.items()}
    files["cover.png"] = _cover(tests)
    description = _description(network, config, files, _tolerances(config, tests))
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=100)
    files = {"bioimageio.yaml": text.encode(), **files}
    _validate(files, network.name, events)
    return _zipped(files)


def _positive_tests(network: TorchNetwork, config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """Test arrays whose outputs have positive values, if some have: the format asks for those."""
    for seed in range(_TRIES):
        tests = _tests(network, config, seed)
        if all(array.max() > 0 for array in tests.values()):
            break
    return tests


def _tolerances(
    config: ModelConfig, tests: Mapping[str, NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """How far other implementations may be off, by the size of what each output gives.

    The format's own absolute tolerance is 1e-3, and it refuses one above a hundredth of the largest
    value: of small outputs that is too much.
    """
    found = []
    for output in config.outputs:
        values = tests[output.name]
        off = min(_OFF * float(np.abs(values).max()), float(values.max()) / 101)
        found.append({"output_ids": [output.name], "absolute_tolerance": max(0.0, off)})
    return found


def _tests(network: TorchNetwork, config: ModelConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """An input and what the network makes of it, as the format says that it is scaled."""
    from scipy.ndimage import gaussian_filter

    axes = network.geometry.axes
    about = _ABOUT[len(axes)] // (2 if len(axes) == 3 else 1)
    shape = [axis.covering(max(about, 2 * _Sizes.of(axis).halo + axis.period)) for axis in axes]
    noise = np.random.default_rng(seed).standard_normal((1, network.channels, *shape))
    image = gaussian_filter(noise, (0, 0, *[3] * len(axes)))
    image = ((image - image.min()) / np.ptp(image) * 255).astype(np.float32)
    space = tuple(range(2, image.ndim))
    scaled = image.astype(np.float64)
    if config.input.normalize == "none":
        image = scaled = (image / 255).astype(np.float32)
    elif config.input.normalize == "zscore":
        scaled = (scaled - scaled.mean(space, keepdims=True)) / scaled.std(space, keepdims=True)
    else:
        low, high = np.percentile(scaled, config.input.percentiles, axis=space, keepdims=True)
        scaled = (scaled - low) / (high - low)
    results = network.run(scaled.astype(np.float32))
    named = zip(config.outputs, results, strict=True)
    return {input_name(config): image} | {
        output.name: np.asarray(result, np.float32) for output, result in named
    }


def _description(
    network: TorchNetwork,
    config: ModelConfig,
    files: Mapping[str, bytes],
    tolerances: list[dict[str, Any]],
) -> dict[str, Any]:
    from bioimageio.spec.model.v0_5 import ModelDescr

    geometry, given = network.geometry, input_name(config)
    letters = config.input.axes
    sizes = {letter: _Sizes.of(axis) for letter, axis in zip(letters, geometry.axes, strict=True)}
    scales = _scales(config)
    licence = _LICENCE.match(config.license)
    inputs = [
        {
            "type": "space",
            "id": letter,
            "size": {"min": own.min, "step": own.step},
            **scales[letter],
        }
        for letter, own in sizes.items()
    ]
    described: dict[str, Any] = {
        "type": "model",
        "format_version": ModelDescr.implemented_format_version,
        "name": _name(config.name),
        "description": config.description or f"{config.name}, a network that can be tiled exactly",
        "authors": [{"name": name} for name in config.authors],
        "cite": [_CITE],
        "license": licence and licence[0],
        "documentation": _file("README.md", files),
        "covers": [_file("cover.png", files)],
        "tags": ["instance-segmentation", f"{len(letters)}d", "unet", "stitchsafe"],
        "inputs": [
            {
                "id": given,
                "axes": [{"type": "batch"}, _channels("channel", config.input.channels), *inputs],
                "test_tensor": _file(f"test_{given}.npy", files),
                "data": {"type": "float32"},
                "preprocessing": _preprocessing(config),
            }
        ],
        "outputs": [
            {
                "id": output.name,
                "axes": [
                    {"type": "batch"},
                    _channels(output.name, output.channels),
                    *(_output_axis(a, own, given, scales[a]) for a, own in sizes.items()),
                ],
                "test_tensor": _file(f"test_{output.name}.npy", files),
                "data": {"type": "float32"},
            }
            for output in config.outputs
        ],
        "weights": {"onnx": {**_file("weights.onnx", files), "opset_version": OPSET}},
        "config": {
            "bioimageio": {
                "model_parameter_count": _parameters(network),
                "reproducibility_tolerance": tolerances,
            },
            "stitchsafe": {
                "period": list(geometry.period),
                "context": [list(each) for each in geometry.context],
                **config.model_dump(
                    mode="json",
                    by_alias=True,
                    include={"labels", "tiling", "training", "scores"},
                    exclude_none=True,
                ),
            },
        },
    }
    return described


def _channels(name: str, count: int) -> dict[str, Any]:
    return {"type": "channel", "channel_names": [f"{name}{k}" for k in range(count)]}


def _output_axis(
    letter: str, sizes: _Sizes, given: str, scale: Mapping[str, Any]
) -> dict[str, Any]:
    size = {"tensor_id": given, "axis_id": letter, "offset": sizes.offset}
    halo = {"halo": sizes.halo} if sizes.halo else {}
    return {"type": "space", "id": letter, "size": size, **halo, **scale}


def _scales(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Unit and voxel size of each axis, where the card states them."""
    own = config.input
    if own.voxel_size is None:
        return {letter: {} for letter in own.axes}
    size = VoxelSize(own.voxel_size, own.unit)
    return {
        letter: {"unit": size.unit, "scale": value}
        for letter, value in zip(own.axes, size.values, strict=True)
    }


def _preprocessing(config: ModelConfig) -> list[dict[str, Any]]:
    axes: dict[str, Any] = {"axes": list(config.input.axes), "eps": _EPS}
    if config.input.normalize == "zscore":
        return [{"id": "zero_mean_unit_variance", "kwargs": axes}]
    if config.input.normalize == "percentile":
        low, high = config.input.percentiles
        bounds = {"min_percentile": low, "max_percentile": high}
        return [{"id": "scale_range", "kwargs": {**axes, **bounds}}]
    return []


def _name(name: str) -> str:
    """In the characters that the format allows, and not shorter than it allows."""
    plain = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)[:128]
    return plain if len(plain) >= 5 else f"{plain} (stitchsafe)"


def _parameters(network: TorchNetwork) -> int:
    return sum(each.numel() for each in network.module.parameters())


def _file(name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _readme(config: ModelConfig, card: str) -> str:
    return f"""{card.rstrip()}

## Tiles

The sizes that the description states were derived from the network's layers. Tiles of these sizes,
cropped by the halo and put side by side, give what one pass over the whole image gives. Tiles of
other sizes, or blended ones, do not.

## Validation

On images that the network was not trained on, labels can be made and judged with

    stitchsafe predict IMAGE -m PACKAGE.zip -o labels.zarr
    stitchsafe evaluate labels.zarr TRUTH
"""


def _cover(tests: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Input and first output side by side, in the middle slice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 2), dpi=128)
    FigureCanvasAgg(figure)
    for place, array in enumerate(list(tests.values())[:2]):
        plane = array[0, 0] if array.ndim == 4 else array[0, 0, array.shape[2] // 2]
        shown = figure.add_axes((place / 2, 0, 1 / 2, 1))
        shown.imshow(plane, cmap="gray" if place == 0 else "viridis", aspect="auto")
        shown.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _validate(files: Mapping[str, bytes], name: str, events: Events) -> None:
    """Have the format's own library look at everything, the arrays included."""
    with TemporaryDirectory(prefix="stitchsafe-export-") as folder, quietly():
        from bioimageio.spec import InvalidDescr, load_description

        for each, content in files.items():
            (Path(folder) / each).write_bytes(content)
        found = load_description(Path(folder) / "bioimageio.yaml", perform_io_checks=True)
        summary = found.validation_summary
    if isinstance(found, InvalidDescr) or summary.status == "failed":
        first = next(error for detail in summary.details for error in detail.errors)
        raise ModelError(
            f"{name} cannot be a bioimage.io package: the format's own library says of "
            f"{'.'.join(map(str, first.loc))} that {first.msg}{INSTEAD}"
        )
    for detail in summary.details:
        for warning in detail.warnings:
            where = ".".join(map(str, warning.loc))
            events.say(f"package: {where}: {' '.join(warning.msg.split())}")


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Equal content is equal bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return made.getvalue()
