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

__all__ = ["UNIFORM", "Constants", "operator_name", "settings"]

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


_ALIASES = {"detach", "alias", "_reshape_alias"}
"""Operators that give the same data in another tensor, beside those that are views."""


class Constants:
    """The constants of one trace.

    Parameters
    ----------
    module
        Its parameters and buffers are constants known by name.
    """

    def __init__(self, module: nn.Module) -> None:
        held = [*module.named_parameters(), *module.named_buffers()]
        self._stored = {id(tensor): name for name, tensor in held}
        self._uniform: Any = WeakIdKeyDictionary()
        self._sized: Any = WeakIdKeyDictionary()
        self._doubtful: Any = WeakIdKeyDictionary()
        self._placeless: Any = WeakIdKeyDictionary()
        self._lasting: Any = WeakIdKeyDictionary()
        self._recipes: Any = WeakIdKeyDictionary()
        self._writes: dict[int, str] = {}

    def outlives(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was there before the pass: parameters, buffers, and whatever is kept."""
        return not isinstance(tensor, FakeTensor) or tensor in self._lasting

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
        name = operator_name(func)
        filled = name in UNIFORM
        kept = torch.Tag.pointwise in func.tags or name in _KEEPS_UNIFORM
        uniform = filled or (kept and bool(given) and all(map(self._is_uniform, given)))
        sized = filled or name == "expand" or any(t in self._sized for t in given)
        follows_size = name == "expand" or (uniform and name in _KEEPS_UNIFORM)
        told = () if follows_size else (args[_SHAPED.get(name, 0) :], kwargs)
        # Of what is written, the place counts: it may be a part of a larger tensor.
        places = [(t.storage_offset(), t.shape, t.stride()) for t in written]
        digest = _digest(name, settings(told), [self.recipe(t) for t in given], places)
        for place, tensor in enumerate(results):
            self._recipes[tensor] = f"{digest}.{place}"
            if uniform:
                self._uniform[tensor] = True
            # What is summed or folded out of a constant of the input's size may follow it.
            folded = sized and not (kept or filled)
            if folded or any(t in self._doubtful for t in given):
                self._doubtful[tensor] = True
            elif sized:
                self._sized[tensor] = True
        if name in _ALIASES or func.is_view:
            for tensor in results if any(map(self.outlives, given)) else ():
                self._lasting[tensor] = True
        for tensor in written:
            self._writes[tensor.untyped_storage()._cdata] = f" then {digest}"

    def _is_uniform(self, tensor: torch.Tensor) -> bool:
        """Whether it holds one number everywhere, and nothing was written into it since."""
        return tensor in self._uniform and tensor.untyped_storage()._cdata not in self._writes

    def require_known(self, given: Sequence[torch.Tensor]) -> None:
        """Refuse constants of which it cannot be said that they do not follow the input's size.

        Raises
        ------
        Breaking
            If there is one.
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
            if isinstance(tensor, FakeTensor) and tensor not in self._recipes:
                raise Breaking(
                    "it reads a tensor that was made where it could not be followed, as in another "
                    "thread: not analysed",
                    "make it with plain operators within the forward pass",
                )

    def admitted(self, value: Value, given: Sequence[torch.Tensor], flow: Flow) -> Value:
        """A value that constants were combined into, told apart by place where they differ.

        Raises
        ------
        Breaking
            If a constant varies over the whole of space.
        """
        for tensor in given:
            if tensor in self._placeless or self._is_uniform(tensor):
                continue
            varying = [
                value.rank - back
                for back in range(1, min(tensor.dim(), value.rank) + 1)
                if tensor.shape[-back] > 1 and tensor.stride()[-back] != 0
            ]
            value = flow.by_place(value, varying)
        return value


def operator_name(func: Any) -> str:
    """An ATen operator's name without overload; of others, with their namespace.

    An operator of another library that is called like one of ATen's need not do what that does.
    """
    name: str = func._schema.name
    return name.removeprefix("aten::")


def settings(arguments: Any) -> list[object]:
    """All that an operator is told beside tensors."""
    return [v for v in tree_leaves(arguments) if v is not None and not _is_tensor(v)]


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _content(tensor: torch.Tensor) -> str:
    """Digest of a tensor's numbers, where they are known."""
    if isinstance(tensor, FakeTensor):
        return f"a constant of shape {tuple(tensor.shape)}"
    with torch.utils._python_dispatch._disable_current_modes():
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(array.numpy().tobytes()).hexdigest() + str(tuple(tensor.shape))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
