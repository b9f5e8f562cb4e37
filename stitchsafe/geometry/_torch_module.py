"""A module made ready for tracing, and put back as it was."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

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
        for each, state in held:
            if _changed(each.__dict__, state):
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


def _changed(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a module's attributes are other objects than before."""
    if now.keys() != before.keys():
        return True
    for key, value in before.items():
        if key == "training":
            continue
        if isinstance(value, dict) and isinstance(now[key], dict):
            if now[key].keys() != value.keys() or any(
                now[key][k] is not v for k, v in value.items()
            ):
                return True
        elif now[key] is not value:
            return True
    return False
