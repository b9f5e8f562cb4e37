"""The paper's procedure around the closed form: train, collect, fit, replace, train again.

References
----------
Birodkar, V., Mobahi, H., Krishnan, D., Bengio, S. (2019). A Closed-Form Learned Pooling for Deep
Classification Networks, sections 3.6 and 6.4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stitchsafe.nn._closed_form import Centre, ClosedFormFit, Norm

__all__ = ["replace_pooling"]


class _Collected:
    """Feature maps that enter a layer, and labels, batch by batch, as often as asked for."""

    def __init__(
        self, network: nn.Module, layer: nn.Module, batches: Iterable[tuple[Any, Any]]
    ) -> None:
        self.network, self.layer, self.batches = network, layer, batches
        self.shapes: tuple[torch.Size, torch.Size] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        for images, labels in self.batches:
            seen: list[tuple[Tensor, Tensor]] = []

            def note(
                layer: nn.Module,
                given: tuple[Tensor, ...],
                made: Tensor,
                seen: list[tuple[Tensor, Tensor]] = seen,
            ) -> None:
                seen.append((given[0], made))

            hook = self.layer.register_forward_hook(note)
            try:
                with torch.no_grad():
                    self.network(torch.as_tensor(images).to(device))
            finally:
                hook.remove()
            if len(seen) != 1:
                raise ValueError(
                    f"the layer ran {len(seen)} times in one pass, and must run once; name a layer "
                    "that the network uses once"
                )
            given, made = seen[0]
            if not isinstance(made, Tensor):
                raise ValueError(
                    f"the layer is of type {type(self.layer).__name__} and returns more than a "
                    "tensor, such as a selection of phases, which no closed-form pooling does; "
                    "name a pooling or a strided convolution"
                )
            self.shapes = given.shape, made.shape
            yield given, labels


def replace_pooling(
    network: nn.Module,
    layer: str,
    batches: Iterable[tuple[Any, Any]],
    train: Callable[[nn.Module], object] | None = None,
    *,
    alpha: float = 25.0,
    norm: Norm = "l2",
    centre: Centre = "classes",
    max_per_class: int = 10_000,
    restart: bool = True,
) -> nn.Module:
    """A network whose pooling at one layer is learned in closed form (Birodkar et al., 2019).

    A copy is trained, what enters the layer is collected over `batches` in eval mode, the pooling
    is fitted to it, and put in place of the layer in a copy that is trained once more. The given
    network stays as it is. Call it again on the result for a further layer.

    Parameters
    ----------
    network
        A classifier; takes a batch of images.
    layer
        Path of the layer to replace, as of ``named_modules()``: a pooling, or a strided convolution
        that keeps or multiplies the channels (as many eigenvectors are taken).
    batches
        (images, labels), iterated several times: a list, or a loader that does not augment.
    train
        Trains a network in place. Without it the network counts as trained, and nothing is trained
        after.
    alpha, norm, centre, max_per_class
        As in :class:`ClosedFormFit`.
    restart
        Whether the second training begins from fresh weights, as in the paper's experiments
        (``reset_parameters`` of each layer, by torch's generator); else from those of the first.

    Returns
    -------
    Module
        The new network, with a :class:`ClosedFormPool` at the layer.

    Raises
    ------
    ValueError
        If there is no such layer, it does not run once in a pass, or a closed-form pooling cannot
        stand in its place.
    """
    if layer not in {name for name, _ in network.named_modules() if name}:
        named = ", ".join(name for name, _ in network.named_modules() if name)
        raise ValueError(f"the network has no layer {layer!r}; it has: {named or 'none'}")
    if iter(batches) is batches:
        raise ValueError(
            "batches can be iterated only once, and are needed several times; give a list or a "
            "loader"
        )
    trained = copy.deepcopy(network)
    if train is not None:
        train(trained)
    modes = [(each, each.training) for each in trained.modules()]
    trained.eval()
    collected = _Collected(trained, trained.get_submodule(layer), batches)
    scale, components = _sizes(collected, layer)
    fit = ClosedFormFit(
        scale=scale, alpha=alpha, components=components, norm=norm, centre=centre,
        max_per_class=max_per_class,
    )  # fmt: skip
    pooling = fit.fit_batches(collected).module()
    for each, mode in modes:
        each.training = mode
    if restart and train is not None:
        for each in trained.modules():
            if callable(reset := getattr(each, "reset_parameters", None)):
                reset()
    like = next(trained.parameters(), None)
    trained.set_submodule(layer, pooling if like is None else pooling.to(like.device, like.dtype))
    if train is not None:
        train(trained)
    return trained


def _sizes(collected: _Collected, layer: str) -> tuple[tuple[int, ...], int]:
    """Scale per axis, and eigenvectors, that make what the layer makes."""
    if next(iter(collected), None) is None or collected.shapes is None:
        raise ValueError("there are no batches to fit the pooling to; give at least one")
    before, after = collected.shapes
    scale = [n / m for n, m in zip(before[2:], after[2:], strict=True)]
    factor = after[1] / before[1]
    if len(before) not in (4, 5) or any(not s.is_integer() for s in [*scale, factor]):
        raise ValueError(
            f"layer {layer!r} makes {tuple(after)} of {tuple(before)}, which no closed-form "
            "pooling does; it divides sizes and multiplies channels by whole numbers"
        )
    return tuple(int(s) for s in scale), int(factor)
