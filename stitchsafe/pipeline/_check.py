"""The verb check: what a network needs of its tiles, and whether they can be stitched exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitchsafe.geometry import NetworkGeometry
from stitchsafe.networks import Network, load_network
from stitchsafe.pipeline._inputs import ModelLike

__all__ = ["Verdict", "check"]


@dataclass(frozen=True)
class Verdict:
    """The answer of check.

    Parameters
    ----------
    model
        Name of the network.
    axes
        Its spatial axes.
    geometry
        The facts, and the layers that break locality.
    warnings
        What is exact and may still be inaccurate.
    """

    model: str
    axes: str
    geometry: NetworkGeometry
    warnings: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        return self.geometry.verdict == "safe"

    def to_json(self) -> dict[str, Any]:
        axes = self.geometry.axes
        return {
            "model": self.model,
            "axes": self.axes,
            "verdict": self.geometry.verdict,
            "period": [axis.period for axis in axes],
            "context": [list(axis.context) for axis in axes],
            "receptive_field": [axis.receptive_field for axis in axes],
            "input_size": [{"min": axis.input_min, "step": axis.input_step} for axis in axes],
            "output_offset": [axis.output_offset for axis in axes],
            "breaks": [
                {"layer": b.layer, "op": b.op, "reason": b.reason, "fix": b.fix}
                for b in self.geometry.breaks
            ],
            "warnings": list(self.warnings),
        }

    def describe(self) -> str:
        """The answer for people."""
        lines = [f"{self.model}: {self.geometry.verdict}"]
        if self.geometry.axes:
            lines += [
                f"  {letter}  period {axis.period}, context {axis.context[0]} before and "
                f"{axis.context[1]} after, receptive field {axis.receptive_field}, input sizes "
                f"{axis.input_min} + k * {axis.input_step}"
                for letter, axis in zip(self.axes, self.geometry.axes, strict=True)
            ]
        lines += [f"  {b.layer} ({b.op}): {b.reason}; {b.fix}" for b in self.geometry.breaks]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def check(
    model: ModelLike,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust_model: bool = False,
) -> Verdict:
    """Analyse a network.

    Parameters
    ----------
    model
        A name in ``models/``, a model folder, a bioimage.io package, an ONNX file,
        ``package.module:factory``, or a `torch.nn.Module`.
    weights, arguments
        For a factory: a file of weights, and keyword arguments.
    trust_model
        Whether code that the model brings along may run.

    Returns
    -------
    Verdict

    Raises
    ------
    ModelError
        If it cannot be loaded.
    """
    network = load_network(model, weights=weights, arguments=arguments, trust=trust_model)
    return Verdict(network.name, "zyx"[-network.ndim :], network.geometry, _warnings(network))


def _warnings(network: Network) -> tuple[str, ...]:
    if network.config is None:
        return ()
    return (*network.config.notes, *_of_the_halo(network), *_of_training(network))


def _of_the_halo(network: Network) -> Iterator[str]:
    """A description may declare less than the network needs."""
    declared = network.config.declared if network.config else None
    if declared is None or declared.halo is None:
        return
    for letter, axis, halo in zip(
        "zyx"[-network.ndim :], network.geometry.axes, declared.halo, strict=False
    ):
        if halo < max(axis.context):
            yield (
                f"along {letter} the description declares a halo of {halo}, and the network needs "
                f"{axis.context[0]} before and {axis.context[1]} after: tiles read what it needs"
            )


def _of_training(network: Network) -> Iterator[str]:
    """A padded network has only ever seen its training window, border included."""
    config = network.config
    window = config.training.get("window") if config else None
    known_as = "the training window"
    if window is None and config and config.declared and not any(config.declared.input_step):
        window, known_as = config.declared.input_min, "the one size that the description takes"
    if window is None:
        return
    for letter, axis, size in zip(
        "zyx"[-network.ndim :], network.geometry.axes, window, strict=False
    ):
        if axis.padded and max(axis.context) > size:
            yield (
                f"along {letter} the network pads, and its context of {max(axis.context)} voxels "
                f"exceeds {known_as}, {size}: it has never seen the inside of a volume; train it "
                "with valid padding or a larger window"
            )
