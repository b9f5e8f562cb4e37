"""One pass of a step: examples to losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stitchsafe.errors import ModelError
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._examples import Example
from stitchsafe.training._losses import affinity_loss, discriminative_loss, foreground_loss
from stitchsafe.training._own_code import own_code
from stitchsafe.training._window import TrainingWindow

__all__ = ["Batch", "Objective", "OwnLoss", "stack"]


@dataclass(frozen=True)
class Batch:
    """Examples of one pass as tensors; see `stitchsafe.training.Example` for what they hold.

    Attributes
    ----------
    image
        ``(batch, c, *input)``, float32, of the box around all windows of an example.
    instances, clusters, foreground, weight
        ``(batch, *window)``, of that box.
    """

    image: Tensor
    instances: Tensor
    clusters: Tensor
    foreground: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})


OwnLoss = Callable[[Mapping[str, Tensor], Batch], Tensor | Mapping[str, Tensor]]
"""A loss of one's own: from the network's fields by name to a scalar, or to terms to be added."""


def stack(examples: Sequence[Example], window: TrainingWindow) -> Batch:
    """Examples as one batch; what no window of theirs covers takes part in nothing."""
    if window.places and len(window.places) < 2 ** len(window.window):
        examples = [_hollow(example, window) for example in examples]

    def each(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(example, name) for example in examples]))

    return Batch(
        each("image"),
        each("instances").long(),
        each("clusters").long(),
        each("foreground"),
        each("weight"),
    )


def _hollow(example: Example, window: TrainingWindow) -> Example:
    covered = np.zeros(example.clusters.shape, dtype=np.bool_)
    for shift in window.shifts():
        covered[tuple(slice(a, a + n) for a, n in zip(shift, window.window, strict=True))] = True
    if covered.all():
        return example
    return replace(
        example,
        instances=np.where(covered, example.instances, -1).astype(np.int32),
        clusters=np.where(covered, example.clusters, -1).astype(np.int32),
        weight=np.where(covered, example.weight, 0).astype(np.float32),
    )


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Parameters
    ----------
    config
        Which losses, with which weights.
    window
        Shapes of the windows of an example.
    own
        A loss of the user's, added to the others.
    """

    config: TrainingConfig
    window: TrainingWindow
    own: OwnLoss | None = None

    def __call__(
        self, forward: Callable[[Tensor], Any], batch: Batch, share: float = 1.0
    ) -> dict[str, Tensor]:
        """The loss and its terms, by name.

        Parameters
        ----------
        forward
            The network: ``(n, c, *input)`` to one tensor per head, or several, in their order.
        share
            Of the foreground's weights in this batch, relative to the mean over all batches of the
            step: its loss is a mean over all of them.
        """
        fields = self._fields(forward, batch.image)
        terms: dict[str, Tensor] = {}
        total = batch.image.new_zeros(())
        if (wish := self.config.embedding) is not None:
            parts = discriminative_loss(
                fields["embedding"],
                batch.clusters,
                delta_pull=wish.delta_pull,
                delta_push=wish.delta_push,
                weights=wish.weights,
                norm=wish.norm,
                pairs=wish.pairs,
                reach=wish.neighbours,
                neighbourhood=batch.instances,
            )
            terms |= {"pull": parts.pull, "push": parts.push, "regular": parts.regular}
            total = total + wish.weight * parts.total
        if (mask := self.config.foreground) is not None:
            terms["foreground"] = foreground_loss(
                fields["foreground"], batch.foreground, batch.weight, dice=mask.dice, share=share
            )
            total = total + mask.weight * terms["foreground"]
        if (pairs := self.config.affinities) is not None:
            terms["affinities"] = affinity_loss(
                fields["affinities"], batch.instances, pairs.offsets
            )
            total = total + pairs.weight * terms["affinities"]
        if self.own is not None:
            with own_code("loss", self.config.loss):
                own = self._own_terms(self.own(fields, batch))
            terms |= own
            for term in own.values():
                total = total + term
        if not total.requires_grad:
            raise ModelError(
                f"the loss {self.config.loss or ''} does not depend on the network's fields, so "
                "nothing can be learnt from it; compute it from them by torch alone, undetached"
            )
        return {"loss": total} | terms

    def _fields(self, forward: Callable[[Tensor], Any], image: Tensor) -> dict[str, Tensor]:
        """Each head's field over the box of all windows, which are passed as one batch."""
        window = self.window
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        shifts = window.shifts()
        inputs = torch.cat([_cut(image, shift, window.input) for shift in shifts])
        with own_code("network", self.config.network.name):
            outputs = forward(inputs.contiguous(memory_format=layout))
        tensors = self._refuse_unlike(outputs, len(inputs))
        found = {}
        for name, tensor in tensors.items():
            field = _cut(tensor, window.crop, window.window).float()
            parts = torch.split(field, len(image))
            found[name] = parts[0] if len(parts) == 1 else _assembled(parts, shifts, window)
        return found

    def _refuse_unlike(self, outputs: Any, count: int) -> dict[str, Tensor]:
        """Each head's tensor, if they are those for so many inputs that were found on analysis.

        A network may return others while it trains.
        """
        heads, who = self.config.heads, f"the network {self.config.network.name}"
        wanted = f"and the training needs {', '.join(heads)}; return"
        if isinstance(outputs, Mapping) and list(outputs) != list(heads):
            names = ", ".join(map(str, outputs))
            raise ModelError(f"{who} returns {names}, {wanted} them in this order, by these names")
        tensors = [outputs] if isinstance(outputs, Tensor) else outputs
        if isinstance(tensors, Mapping):
            tensors = list(tensors.values())
        if not isinstance(tensors, list | tuple) or len(tensors) != len(heads):
            number = len(tensors) if isinstance(tensors, list | tuple) else "no"
            raise ModelError(f"{who} returns {number} tensors, {wanted} them in this order")
        pairs = self.config.affinities
        channels = {"foreground": 1, "affinities": len(pairs.offsets) if pairs else None}
        for name, tensor in zip(heads, tensors, strict=True):
            if not isinstance(tensor, Tensor):
                raise ModelError(f"{who} returns a {type(tensor).__name__}, {wanted} tensors")
            shape: list[Any] = list(tensor.shape)
            learnt = getattr(self.config, name, None) is not None
            expected = [count, channels.get(name) if learnt else None, *(self.window.output or ())]
            unlike = [want not in (None, size) for want, size in zip(expected, shape, strict=False)]
            if len(shape) != 2 + len(self.window.window) or any(unlike):
                text = ", ".join("channels" if size is None else str(size) for size in expected)
                raise ModelError(
                    f"{who} returns {name} of the shape ({', '.join(map(str, shape))}) in "
                    f"training, and ({text}) was expected, as it is when not in training; return "
                    "the same shape in both"
                )
        return dict(zip(heads, tensors, strict=True))

    def _own_terms(self, value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = {"own": value} if isinstance(value, Tensor) else value
        if not isinstance(terms, Mapping):
            raise ModelError(
                f"{self.config.loss} returned {value!r}, a {type(value).__name__}; a loss is one "
                "scalar tensor, or several by name"
            )
        reserved = {"loss", "pull", "push", "regular", "foreground", "affinities"}
        if any(not isinstance(term, Tensor) or term.numel() != 1 for term in terms.values()) or (
            reserved & terms.keys()
        ):
            raise ModelError(
                f"{self.config.loss} returned {', '.join(map(str, terms)) or 'nothing'}; a loss is "
                f"one scalar tensor, or several by names other than {', '.join(sorted(reserved))}"
            )
        return {name: term.reshape(()) for name, term in terms.items()}


def _cut(tensor: Tensor, begin: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for axis, (first, size) in enumerate(zip(begin, sizes, strict=True), start=2):
        tensor = tensor.narrow(axis, first, size)
    return tensor


def _assembled(
    parts: Sequence[Tensor], shifts: Sequence[tuple[int, ...]], window: TrainingWindow
) -> Tensor:
    """Windows side by side, 0 where there is none."""
    whole = parts[0].new_zeros((*parts[0].shape[:2], *window.joint.window))
    for part, shift in zip(parts, shifts, strict=True):
        _cut(whole, shift, window.window).copy_(part)
    return whole


def layout_weights(module: nn.Module, ndim: int) -> None:
    """Lay the kernels out with channels last, which convolutions on processors like best."""
    layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
    for parameter in module.parameters():
        if parameter.ndim == ndim + 2:
            parameter.data = parameter.data.contiguous(memory_format=layout)
