"""A module whose tensors have another order of axes, as one with the order that is used here.

Inputs and outputs then are (batch, channels, *space), one tensor for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["adapted"]


def adapted(module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> nn.Module:
    """The module itself where it has that order, else wrapped.

    Parameters
    ----------
    inputs, outputs
        Layout of each, such as ``bcyx``.
    """
    plain = "bc" + "".join(sorted((c for c in inputs[0] if c in "zyx"), reverse=True))
    if all(layout == plain for layout in (*inputs, *outputs)):
        return module
    return _Adapted(module, tuple(inputs), tuple(outputs), plain)


class _Adapted(nn.Module):
    def __init__(
        self, network: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], plain: str
    ) -> None:
        super().__init__()
        self.network = network
        self._inputs, self._outputs, self._plain = inputs, outputs, plain

    def extra_repr(self) -> str:
        return f"inputs={self._inputs}, outputs={self._outputs}"

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = [self._to(t, layout) for t, layout in zip(tensors, self._inputs, strict=True)]
        found = [t for t in tree_leaves(self.network(*given)) if isinstance(t, Tensor)]
        if len(found) != len(self._outputs):
            raise ValueError(f"{len(self._outputs)} outputs are described, and {len(found)} given")
        return tuple(self._back(t, layout) for t, layout in zip(found, self._outputs, strict=True))

    def _to(self, tensor: Tensor, layout: str) -> Tensor:
        letters = self._plain
        for letter in "bc":
            if letter not in layout:  # of length 1, which the network has not
                tensor = tensor.select(letters.index(letter), 0)
                letters = letters.replace(letter, "")
        order = [letters.index(letter) for letter in layout]
        return tensor if order == sorted(order) else tensor.permute(order)

    def _back(self, tensor: Tensor, layout: str) -> Tensor:
        order = [layout.index(letter) for letter in self._plain if letter in layout]
        if order != sorted(order):
            tensor = tensor.permute(order)
        for place, letter in enumerate(self._plain[:2]):
            if letter not in layout:
                tensor = tensor.unsqueeze(place)
        return tensor
