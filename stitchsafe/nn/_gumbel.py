"""How the temperature of Gumbel-softmax falls while LPD layers learn.

Early on samples mix the phases, which lets gradients through; late they are nearly one phase, which
is what argmax does afterwards. :func:`schedule` gives the courses of tables A10 and A11 of
Rojas-Gomez et al. (2022) by name; :func:`anneal` brings one to all layers of a network::

    course = schedule("cifar10-circular").stretched(30)
    for epoch in range(1, 31):
        anneal(network, course, epoch)
        ...

Epochs count from 1, as in the tables. After the last point of a course its value stays; so does
that of ``"segmentation-resnet18-circular"`` from epoch 90 of 125 on, where its table ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from stitchsafe.nn._selection import Pick

__all__ = ["MultirateLinear", "Schedule", "StepDecay", "anneal", "schedule"]


@dataclass(frozen=True)
class StepDecay:
    """A temperature that falls by a factor every few epochs, down to a least value.

    Parameters
    ----------
    epochs
        Length of the training that it is meant for.
    initial, every, factor, minimum
        Epoch e has the temperature ``max(minimum, initial * factor ** ((e - 1) // every))``.
    """

    epochs: int = 250
    initial: float = 1.0
    every: float = 10
    factor: float = 0.85
    minimum: float = 0.025

    def __post_init__(self) -> None:
        if not (self.initial >= self.minimum > 0 and 0 < self.factor <= 1 and self.every > 0):
            raise ValueError(
                f"{self} does not fall: give initial >= minimum > 0, 0 < factor <= 1 and every > 0"
            )

    def __call__(self, epoch: int) -> float:
        """The temperature of an epoch, from 1."""
        steps = int((_epoch(epoch) - 1) / self.every)
        return max(self.minimum, self.initial * self.factor**steps)

    def soft(self, epoch: int) -> bool:
        """Whether softmax takes the place of sampling and of argmax."""
        return False

    def stretched(self, epochs: int) -> StepDecay:
        """The same course over another number of epochs."""
        return replace(self, epochs=epochs, every=self.every * epochs / self.epochs)


@dataclass(frozen=True)
class MultirateLinear:
    """A temperature that goes in straight lines from point to point.

    Parameters
    ----------
    epochs
        Length of the training that it is meant for.
    points
        (epoch, temperature), in order.
    soft_from
        Epoch from which on softmax takes the place of sampling and of argmax, or None.
    """

    epochs: int
    points: Sequence[tuple[float, float]]
    soft_from: float | None = None

    def __post_init__(self) -> None:
        at = [epoch for epoch, _ in self.points]
        if not at or at != sorted(set(at)) or min(tau for _, tau in self.points) <= 0:
            raise ValueError(
                f"points {self.points} are no course: give rising epochs and temperatures above 0"
            )

    def __call__(self, epoch: int) -> float:
        """The temperature of an epoch, from 1."""
        (before, tau), now = self.points[0], _epoch(epoch)
        for after, aim in self.points:
            if now <= after:
                share = (now - before) / (after - before) if after > before else 1.0
                return tau * (1 - share) + aim * share
            before, tau = after, aim
        return tau

    def soft(self, epoch: int) -> bool:
        """Whether softmax takes the place of sampling and of argmax."""
        return self.soft_from is not None and epoch >= self.soft_from

    def stretched(self, epochs: int) -> MultirateLinear:
        """The same course over another number of epochs; the first epoch stays the first."""
        scale = (epochs - 1) / (self.epochs - 1)

        def moved(epoch: float) -> float:
            return 1 + (epoch - 1) * scale

        return MultirateLinear(
            epochs,
            tuple((moved(epoch), tau) for epoch, tau in self.points),
            None if self.soft_from is None else moved(self.soft_from),
        )


Schedule = StepDecay | MultirateLinear


def _epoch(epoch: int) -> int:
    if epoch < 1:
        raise ValueError(f"epochs count from 1, as in the paper's tables, not from {epoch}; add 1")
    return epoch


_A10: dict[str, Schedule] = {
    "cifar10-circular": StepDecay(),
    "imagenet-circular": MultirateLinear(90, ((1, 1.0), (62, 0.5), (82, 0.05), (90, 0.01))),
    # "The last 28 training epochs" of 90 are those from 63 on.
    "imagenet-standard": MultirateLinear(90, ((1, 1.0), (62, 0.5), (90, 0.25)), soft_from=63),
}
_A11: dict[str, tuple[tuple[int, float], ...]] = {
    "segmentation-resnet18-circular": ((60, 0.5), (82, 0.15), (90, 0.01)),
    "segmentation-resnet101": ((10, 0.5), (80, 0.3), (100, 0.125), (125, 0.01)),
}


def schedule(name: str, *, backbone: float | None = None) -> Schedule:
    """A course of tables A10 and A11 of Rojas-Gomez et al. (2022).

    Parameters
    ----------
    name
        ``"cifar10-circular"`` (250 epochs), ``"imagenet-circular"`` or ``"imagenet-standard"`` (90;
        the latter soft over its last 28), ``"segmentation-resnet18-circular"`` or
        ``"segmentation-resnet101"`` (125).
    backbone
        The temperature at which the backbone of a segmentation network was left; only these take
        it, and they need it.

    Raises
    ------
    ValueError
        If the name is not known, or `backbone` is missing or superfluous.
    """
    if name in _A11:
        if backbone is None:
            raise ValueError(f"{name!r} begins where its backbone ended; give backbone=temperature")
        return MultirateLinear(125, ((1, backbone), *_A11[name]))
    if name not in _A10:
        known = ", ".join([*_A10, *_A11])
        raise ValueError(f"schedule {name!r} is not known; choose one of {known}")
    if backbone is not None:
        raise ValueError(f"{name!r} begins at 1 and takes no backbone={backbone}; leave it out")
    return _A10[name]


def anneal(network: nn.Module, course: Schedule, epoch: int) -> None:
    """Set the temperature of all learnable polyphase layers of a network.

    Where the course is soft, they take softmax in training and in evaluation; else, what they were
    made for. The state of a network holds both.

    Parameters
    ----------
    network
        Changed in place.
    course
        From :func:`schedule`, or one of your own.
    epoch
        The epoch that begins, from 1.
    """
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Pick) and layer.learnable:
                layer.tau.fill_(course(epoch))
                layer.soften(course.soft(epoch))
