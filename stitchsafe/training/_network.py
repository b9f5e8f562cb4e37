"""The network that a training begins with, and a loss of one's own: from names to objects."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import torch
from torch import nn

from stitchsafe.errors import InputError, ModelError
from stitchsafe.geometry import NetworkGeometry
from stitchsafe.instances import LabelSettings
from stitchsafe.networks import LabelsConfig, build_from, is_factory, load_weights, models_root
from stitchsafe.nn import UNet
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._impossible import refuse_impossible
from stitchsafe.training._step import OwnLoss

__all__ = ["build_network", "find_loss", "head_channels"]


def build_network(config: TrainingConfig, *, folder: Path, trust: bool) -> nn.Module:
    """The network with fresh weights that depend on the seed alone, or with those to start from.

    Parameters
    ----------
    folder
        What a relative path of weights is relative to.
    trust
        Whether code that the configuration names may run.

    Raises
    ------
    ModelError
        If it names code without trust, the network cannot be built, or the weights are another's.
    """
    name = config.network.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if is_factory(name):
            _refuse_untrusted(name, "the network", trust)
            module = build_from(name, config.network.arguments)
        else:
            refuse_impossible(config)
            try:
                module = UNet(**config.network.arguments)
            except (TypeError, ValueError) as error:
                raise ModelError(
                    f"the network of {config.name!r} cannot be built: {error}; correct "
                    "network.arguments"
                ) from error
    if config.init is not None:
        load_weights(module, _weights(config.init, folder))
    return module


def _weights(init: str, folder: Path) -> Path:
    """The file of weights that is meant: itself, or that of a model folder or a bundled model."""
    path = Path(init).expanduser()
    path = path if path.is_absolute() else folder / path
    bundled = models_root() / init
    if not path.exists() and "/" not in init and bundled.is_dir():
        path = bundled
    return path / "weights.safetensors" if path.is_dir() else path


def find_loss(config: TrainingConfig, *, trust: bool) -> OwnLoss | None:
    """The loss of one's own that a configuration names, if any.

    Raises
    ------
    ModelError
        If there is no trust, or nothing of that name that can be called with fields and a batch.
    """
    if config.loss is None:
        return None
    _refuse_untrusted(config.loss, "the loss", trust)
    place, _, attribute = config.loss.partition(":")
    try:
        found = importlib.import_module(place)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the loss {config.loss} cannot be imported ({type(error).__name__}: {reason}); put "
            "its folder on PYTHONPATH, and check the name"
        ) from error
    if not callable(found):
        raise ModelError(
            f"the loss {config.loss} is a {type(found).__name__}; name a function of the fields "
            "and the batch"
        )
    try:
        taken = inspect.signature(found)
    except ValueError:  # not written in Python
        taken = None
    try:
        if taken is not None:
            taken.bind({}, None)
    except TypeError as error:
        raise ModelError(
            f"the loss {config.loss} takes {taken}, and is called with two things: the fields and "
            "the batch; let it take these"
        ) from error
    loss: OwnLoss = found
    return loss


def head_channels(config: TrainingConfig, geometry: NetworkGeometry) -> list[int]:
    """Channels of each head, in order.

    Raises
    ------
    ModelError
        If the network does not give as many outputs as are trained, or one of other channels.
    """
    found = geometry.outputs
    if len(found) != len(config.heads):
        raise ModelError(
            f"{config.network.name} returns {len(found)} tensors, and the training needs "
            f"{len(config.heads)}: {', '.join(config.heads)}; return them in this order"
        )
    channels = [output.channels for output in found]
    pairs = config.affinities
    wanted = {"foreground": 1, "affinities": len(pairs.offsets) if pairs else None}
    for name, count in zip(config.heads, channels, strict=True):
        if getattr(config, name, None) and wanted.get(name) not in (None, count):
            raise ModelError(
                f"the output {name} of {config.network.name} has {count} channels, and its loss "
                f"takes {wanted[name]}; return as many, and outputs in the order "
                f"{', '.join(config.heads)}"
            )
    return channels


def refuse_unfit_labels(labels: LabelsConfig | None, config: TrainingConfig) -> None:
    """Refuse labels of heads that there are not, and a validation that would have no labels.

    Raises
    ------
    InputError
        Naming the heads.
    """
    heads = ", ".join(config.heads)
    if labels is None:
        if config.validation is not None:
            raise InputError(
                f"validation scores labels, and nothing says what they are made of: the heads are "
                f"{heads}, without a loss embedding or foreground; give labels, or leave "
                "validation out"
            )
        return
    settings = LabelSettings.from_json(labels.model_dump(mode="json", by_alias=True))
    absent = [name for name in settings.fields if name not in config.heads]
    if absent:
        raise InputError(
            f"labels from {settings.source} are made of the head {absent[0]}, and the network has "
            f"{heads}; change labels, or the heads and their losses"
        )


def _refuse_untrusted(name: str, what: str, trust: bool) -> None:
    if not trust:
        raise ModelError(
            f"{what} {name} is code that the configuration names; add --trust-model if you trust "
            "what is installed under that name"
        )
