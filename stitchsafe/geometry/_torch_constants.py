"""Tensors that do not depend on the input: what they are made of, and where they may be used.

A network may make constants while it runs, and may choose or compute them by the size of its
input: then tiles of other sizes would see other constants. So each constant has a *recipe*, a
digest of all that it is made of; the recipes of the constants that an operator reads go into the
program, which must be the same for all sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._layout import Breaking, Value

__all__ = ["UNIFORM", "Constants"]

UNIFORM = {
    "zeros", "ones", "full", "empty", "scalar_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
}  # fmt: skip
"""Operators that give the same number everywhere."""

# How many arguments of these say what shape the constant has, before those that say what it holds.
_SHAPED = dict.fromkeys(("zeros", "ones", "full", "empty"), 1) | {
    name: 2 if name.startswith("new_") else 1
    for name in UNIFORM
    if name.startswith("new_") or name.endswith("_like")
}
_KEEPS_UNIFORM = {
    "clone", "expand", "slice", "view", "_unsafe_view", "_to_copy", "detach", "alias", "lift_fresh",
}  # fmt: skip


class Constants:
    """The constants of one trace.

    Parameters
    ----------
    module
        Its parameters and buffers are constants known by name.
    """

    def __init__(self, module: nn.Module) -> None:
        self._stored = {
            id(tensor): name
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        self._uniform: Any = WeakIdKeyDictionary()
        self._doubtful: Any = WeakIdKeyDictionary()
        self._placeless: Any = WeakIdKeyDictionary()
        self._recipes: Any = WeakIdKeyDictionary()
        self._writes: dict[int, str] = {}

    def is_stored(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the module."""
        return id(tensor) in self._stored

    def is_placeless(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor comes after a break, and is taken for a constant."""
        return tensor in self._placeless

    def forget(self, results: Sequence[torch.Tensor], behind: Sequence[int] = ()) -> None:
        """Take tensors behind a break for constants, so that what follows is analysed further.

        Parameters
        ----------
        results
            The tensors.
        behind
            The nodes that broke.
        """
        for tensor in results:
            self._placeless[tensor] = (*self._placeless.get(tensor, ()), *behind)

    def behind(self, given: Sequence[torch.Tensor]) -> tuple[int, ...]:
        """The nodes that broke, whose results some of these tensors are made of."""
        found = [self._placeless.get(tensor, ()) for tensor in given]
        return tuple(sorted({index for each in found for index in each}))

    def recipe(self, tensor: torch.Tensor) -> str:
        """Digest of what a constant is made of."""
        made = self._recipes.get(tensor)
        if made is None:
            made = self._stored.get(id(tensor)) or _content(tensor)
        return f"{made}{self._writes.get(tensor.untyped_storage()._cdata, '')}"

    def note(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        given: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
        written: Sequence[torch.Tensor],
    ) -> None:
        """Follow an operator that reads constants alone.

        Parameters
        ----------
        func, args, kwargs
            The call.
        given, results
            Tensors among the arguments that are constants, and what came out.
        written
            Those that it changed.
        """
        name = func._schema.name.split("::")[-1]
        filled = name in UNIFORM
        kept = torch.Tag.pointwise in func.tags or name in _KEEPS_UNIFORM
        uniform = filled or (kept and bool(given) and all(t in self._uniform for t in given))
        follows_size = name == "expand" or (uniform and name in _KEEPS_UNIFORM)
        told = () if follows_size else (args[_SHAPED.get(name, 0) :], kwargs)
        numbers = [v for v in tree_leaves(told) if isinstance(v, int | float | str)]
        digest = _digest(name, numbers, [self.recipe(t) for t in given])
        for place, tensor in enumerate(results):
            self._recipes[tensor] = f"{digest}.{place}"
            if uniform:
                self._uniform[tensor] = True
            elif any(t in self._doubtful for t in given) or (
                not kept and any(t in self._uniform for t in given)
            ):
                # What is summed or folded out of a constant of the input's size may follow it.
                self._doubtful[tensor] = True
        for tensor in written:
            self._writes[tensor.untyped_storage()._cdata] = f" then {digest}"

    def admitted(self, value: Value, given: Sequence[torch.Tensor], flow: Flow) -> Value:
        """A value that constants were combined into, told apart by place where they differ.

        Raises
        ------
        Breaking
            If a constant varies over the whole of space, or may follow the size of the input.
        """
        for tensor in given:
            if tensor in self._placeless:
                continue
            if tensor in self._doubtful:
                raise Breaking(
                    "a constant is summed or folded from one of the input's size, so it may differ "
                    "from tile to tile",
                    "use constants that do not follow the size of the input",
                )
            written = tensor.untyped_storage()._cdata in self._writes
            if tensor in self._uniform and not written:
                continue
            varying = [
                value.rank - back
                for back in range(1, min(tensor.dim(), value.rank) + 1)
                if tensor.shape[-back] > 1 and tensor.stride()[-back] != 0
            ]
            value = flow.by_place(value, varying)
        return value


def _content(tensor: torch.Tensor) -> str:
    """Digest of a tensor's numbers, where they are known."""
    if isinstance(tensor, FakeTensor):
        return f"a constant of shape {tuple(tensor.shape)}"
    with torch.utils._python_dispatch._disable_current_modes():
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(array.numpy().tobytes()).hexdigest() + str(tuple(tensor.shape))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
