"""A module with several inputs or tensors of another order, as one that takes and gives one order.

What goes in is one tensor (batch, channels, *space), whose channels are those of all inputs, one
after the other; what comes out is one tensor of that order per output.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["adapted"]


def adapted(
    module: nn.Module, inputs: Sequence[tuple[int, str]], outputs: Sequence[str]
) -> nn.Module:
    """The module itself where it is of that form, else wrapped.

    Parameters
    ----------
    inputs
        Channels and layout of each, such as ``(3, "bcyx")``.
    outputs
        Layout of each.
    """
    space = "".join(sorted((c for c in inputs[0][1] if c in "zyx"), reverse=True))
    plain = f"bc{space}"
    if len(inputs) == 1 and all(layout == plain for layout in (inputs[0][1], *outputs)):
        return module
    return _Adapted(module, tuple(inputs), tuple(outputs), plain)


class _Adapted(nn.Module):
    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[tuple[int, str], ...],
        outputs: tuple[str, ...],
        plain: str,
    ) -> None:
        super().__init__()
        self.network = network
        self._inputs, self._outputs, self._plain = inputs, outputs, plain

    def extra_repr(self) -> str:
        return f"inputs={self._inputs}, outputs={self._outputs}"

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        given, begin = [], 0
        for channels, layout in self._inputs:
            part = volume[:, begin : begin + channels]
            given.append(self._to(part, layout))
            begin += channels
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
