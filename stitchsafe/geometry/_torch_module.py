"""A module made ready for tracing, and put back as it was."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from stitchsafe.geometry._types import Break

__all__ = ["Watcher", "fresh", "prepared", "quiet"]


class Watcher(Protocol):
    """Told which module runs, and of what is wrong with one."""

    def note(self, found: Break) -> None:
        """Take up what is wrong with a module."""

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """A hook for before a module runs."""

    def leaving(self) -> Callable[[nn.Module, Any, Any], None]:
        """A hook for after it has run."""


def fresh(module: nn.Module) -> nn.Module:
    """A copy that shares the tensors, and nothing that a pass may leave behind for the next."""
    held = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in held})


@contextmanager
def prepared(module: nn.Module, recorder: Watcher) -> Iterator[None]:
    """The module in eval mode with hooks on, and all of it put back afterwards.

    Attention runs by its single operators: what torch fuses of a whole layer tells nothing of it.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    modes = [(each, each.training) for each in module.modules()]
    held = [
        (each, {k: dict(v) if type(v) is dict else v for k, v in each.__dict__.items()})
        for each, _ in modes
    ]
    kept = [_kept(each) for each, _ in modes]
    tensors = [*module.parameters(), *module.buffers()]
    data = [(tensor, tensor.data, tensor.untyped_storage()._cdata) for tensor in tensors]
    hooks = []
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        module.eval()
        for path, each in module.named_modules():
            name = path or type(each).__name__
            hooks.append(each.register_forward_pre_hook(recorder.entering(name)))
            hooks.append(each.register_forward_hook(recorder.leaving(), always_call=True))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
        for tensor, own, place in data:
            if tensor.untyped_storage()._cdata != place:
                tensor.data = own
                recorder.note(
                    Break(
                        type(module).__name__, "forward",
                        "gives a parameter or buffer other data while it runs: not analysed",
                        "keep parameters as they are, and compute with tensors made from them",
                    )
                )  # fmt: skip
        for (each, state), before in zip(held, kept, strict=True):
            if _kept(each) != before:
                recorder.note(
                    Break(
                        type(each).__name__, "forward",
                        "changes its own attributes while it runs, so that a result may depend on "
                        "what ran before: not analysed",
                        "keep what a pass leaves behind out of the module",
                    )
                )  # fmt: skip
            for key, value in state.items():
                now = each.__dict__.get(key)
                if type(value) is dict and isinstance(now, dict):
                    now.clear()
                    now.update(value)
                elif now is not value:
                    each.__dict__[key] = value
            for key in set(each.__dict__) - set(state):
                del each.__dict__[key]
        for each, mode in modes:
            each.training = mode


def quiet(record: logging.LogRecord) -> bool:
    """Sizes that a network refuses are an answer here, and no error to be logged."""
    del record
    return False


class _Itself:
    """An object that equals none but itself, and lives as long as it may be compared."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.held is self.held

    __hash__ = None  # type: ignore[assignment]


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


def _state(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """What a module keeps, as something to compare: tensors and modules by identity, numbers and
    arrays by value, containers and plain objects by what is in them.
    """
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in (dict, OrderedDict) and not value:  # as most of what a module keeps
        return []
    if isinstance(value, torch.Tensor | nn.Module | type) or callable(value):
        return _Itself(value)
    if isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()) if value.dtype == object else value.tobytes()
        return _Itself(value), value.shape, content
    if id(value) in seen:
        return "within itself"
    within = seen | {id(value)}
    if isinstance(value, Mapping):
        return [(_state(key, within), _state(each, within)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque | Set):
        return [_state(each, within) for each in value]
    if hasattr(value, "__dict__"):
        return _Itself(value), _state(vars(value), within)
    return _Itself(value)


def _kept(module: nn.Module) -> Any:
    """The state of a module but for its mode and our own hooks."""
    ours = {"training", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called"}
    return [(name, _state(value)) for name, value in module.__dict__.items() if name not in ours]
