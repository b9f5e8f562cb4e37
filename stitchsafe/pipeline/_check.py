"""The verb check: what a network needs of its tiles, and whether they can be stitched exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stitchsafe.engine import Events, Silent
from stitchsafe.errors import InputError
from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import Network, load_network
from stitchsafe.pipeline._inputs import ModelLike
from stitchsafe.pipeline._probing import probe_network
from stitchsafe.pipeline._verdict import Verdict

__all__ = ["check"]


def check(
    model: ModelLike,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_channels: int | Sequence[int] | None = None,
    model_axes: str | Mapping[str, str] | None = None,
    trust_model: bool = False,
    probe: bool = False,
    trained_on: Sequence[int] | None = None,
    events: Events | None = None,
) -> Verdict:
    """Analyse a network.

    Parameters
    ----------
    model
        A name in ``models/``, a model folder, a bioimage.io package, an ONNX file,
        ``package.module:factory``, or a `torch.nn.Module`.
    weights, arguments
        For a factory: a file of weights, and keyword arguments.
    input_channels
        For a factory or a module: channels of each of its inputs, in order.
    model_axes
        For an ONNX file: layout of its inputs, such as ``bczyx``, or of inputs and outputs by name.
    trust_model
        Whether code that the model brings along may run.
    probe
        Also run the network, and compare what it depends on with what was traced.
    trained_on
        Shape of the patches that it was trained on, where its card does not say.
    events
        Told what is being done.

    Returns
    -------
    Verdict

    Raises
    ------
    ModelError
        If it cannot be loaded.
    InputError
        If `trained_on` is no shape for it.
    """
    if trained_on is not None and not all(size > 0 for size in trained_on):
        raise InputError(
            f"trained_on {tuple(trained_on)} is not a shape; give one positive size per axis"
        )
    network = load_network(
        model,
        weights=weights,
        arguments=arguments,
        input_channels=input_channels,
        model_axes=model_axes,
        trust=trust_model,
    )
    letters = "zyx"[-network.ndim :]
    if trained_on is not None and len(trained_on) != network.ndim:
        raise InputError(
            f"trained_on {tuple(trained_on)} has {len(trained_on)} sizes, and {network.name} runs "
            f"over {letters}; give one per axis"
        )
    geometry, found = network.geometry, None
    if probe:
        found = probe_network(network, events or Silent())
        geometry = found.judge(geometry, network.name)
    geometry = _named(geometry, network)
    skipped = network.config.skipped if network.config else ()
    warnings = _warnings(network, trained_on)
    return Verdict(network.name, letters, geometry, warnings, found, skipped)


def _named(geometry: NetworkGeometry, network: Network) -> NetworkGeometry:
    """The outputs called as the card calls them."""
    if network.config is None or len(network.config.outputs) != len(geometry.outputs):
        return geometry
    pairs = zip(geometry.outputs, network.config.outputs, strict=True)
    return replace(geometry, outputs=tuple(replace(each, name=known.name) for each, known in pairs))


def _warnings(network: Network, trained_on: Sequence[int] | None) -> tuple[str, ...]:
    notes = network.config.notes if network.config else ()
    return (*notes, *_of_the_halo(network), *_of_training(network, trained_on))


def _of_the_halo(network: Network) -> Iterator[str]:
    """A description may declare less than the network needs."""
    declared = network.config.declared if network.config else None
    if declared is None or declared.halo is None:
        return
    for letter, axis, halo in zip(
        "zyx"[-network.ndim :], network.geometry.axes, declared.halo, strict=False
    ):
        # What a valid network takes off itself is no part of the halo.
        if axis.padded and halo < max(axis.context):
            yield (
                f"along {letter} the description declares a halo of {halo}, and the network needs "
                f"{axis.context[0]} before and {axis.context[1]} after: tiles read what it needs"
            )


def _of_training(network: Network, given: Sequence[int] | None) -> Iterator[str]:
    """A padded network has only ever seen its training patch, border included."""
    patch, known_as = _patch(network, given)
    if patch is None:
        return
    beyond = [
        f"{axis.receptive_field} voxels against {size} along {letter}"
        for letter, axis, size in zip(
            "zyx"[-network.ndim :], network.geometry.axes, patch, strict=False
        )
        if axis.padded and axis.receptive_field > size
    ]
    if beyond:
        yield (
            f"the network pads, and what an output depends on exceeds {known_as} "
            f"({', '.join(beyond)}): stitched equals whole, but a whole without padding nearby it "
            "has never seen; compare its scores on large and on patch-sized images, or train it "
            "with valid padding or larger patches"
        )


def _patch(network: Network, given: Sequence[int] | None) -> tuple[Sequence[int] | None, str]:
    """The patch that a network was trained on, as given or as its source says, and what it is."""
    trained = "the patches that it was trained on"
    if given is not None or network.config is None:
        return given, trained
    window, declared = network.config.training.get("window"), network.config.declared
    if window is None and declared is not None and not any(declared.input_step):
        return declared.input_min, "the one size that its description takes"
    return window, trained
