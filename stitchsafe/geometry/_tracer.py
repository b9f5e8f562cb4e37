"""The torch tracer: ATen calls recorded while the module runs on a fake tensor.

The module runs in eval mode under :class:`FakeTensorMode`, so that nothing is computed or
allocated and Python control flow does not matter unless it looks at data, which is refused. Hooks
keep the path of the module that runs. A module with a method ``lattice_geometry()`` is recorded as
one opaque node. It returns a mapping of plain data: ``axes``, one ``{"stride": int, "support":
[[first, last], ...]}`` per spatial axis (output element ``q*n + j`` depends on the input elements
``q*stride + first_j`` to ``q*stride + last_j``), and optionally ``consensus``, what must be
decided once for the whole volume.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from stitchsafe.geometry._axis import Taps
from stitchsafe.geometry._graph import AxisStep, Graph, Node
from stitchsafe.geometry._operators import HANDLERS, Breaking, Call, SizeRefusal, Step, pointwise
from stitchsafe.geometry._types import Break

__all__ = ["trace"]

_UNIFORM = {
    "zeros", "ones", "full", "empty", "scalar_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
}  # fmt: skip
# How many arguments of these say what shape the constant has, before those that say what it holds.
_SHAPED = dict.fromkeys(("zeros", "ones", "full", "empty"), 1) | {
    name: 2 if name.startswith("new_") else 1
    for name in _UNIFORM
    if name.startswith("new_") or name.endswith("_like")
}
_KEEPS_UNIFORM = {
    "clone", "expand", "slice", "view", "_unsafe_view", "_to_copy", "detach", "alias", "lift_fresh",
}  # fmt: skip
_WRITES_ANYWHERE = "write with plain operators that return new tensors"


def trace(
    module: nn.Module,
    shape: tuple[int, ...],
    channels: int,
    *,
    dtype: torch.dtype | None = None,
    batch: int = 1,
) -> Graph:
    """The graph of a network for one spatial shape of its input.

    Parameters
    ----------
    module
        The network; analysed in eval mode, left as it was.
    shape
        Spatial shape of the input, in voxels.
    channels, batch
        The input's other sizes.
    dtype
        Of the input; the parameters' own by default.

    Raises
    ------
    SizeRefusal
        If the network does not run at this size.
    """
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(_quiet)
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = "cpu" if first is None else first.device
    dtype = dtype or (torch.float32 if first is None else first.dtype)
    recorder = _Recorder()
    with _prepared(module, recorder), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        given = torch.empty((batch, channels, *shape), dtype=dtype, device=device)
        recorder.add(given, Node("input", "input", "input", (), tuple(given.shape)))
        returned: Any = None
        try:
            with recorder:
                returned = module(given)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            recorder.refuse(
                str(getattr(error, "func", "data")),
                "control flow or shapes depend on the data: not analysed",
                "decide by sizes or settings, not by the values of tensors",
            )
        except SizeRefusal:
            raise
        except Exception as error:
            if not recorder.breaks:
                raise SizeRefusal(f"{type(error).__name__}: {error}") from error
        outputs = recorder.returned(returned)
    stored = [*module.parameters(), *module.buffers()]
    return Graph(
        tuple(recorder.nodes),
        outputs,
        sum(t.numel() * t.element_size() for t in stored),
        tuple(dict.fromkeys(recorder.breaks)),
        tuple(recorder.constants),
    )


@contextmanager
def _prepared(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """The module in eval mode with hooks on, and all of it put back afterwards."""
    modes = [(each, each.training) for each in module.modules()]
    held = [
        (each, {k: dict(v) if type(v) is dict else v for k, v in each.__dict__.items()})
        for each, _ in modes
    ]
    hooks = []
    try:
        module.eval()
        for path, each in module.named_modules():
            name = path or type(each).__name__
            hooks.append(each.register_forward_pre_hook(recorder.entering(name)))
            hooks.append(each.register_forward_hook(recorder.leaving(), always_call=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for each, state in held:
            if _changed(each.__dict__, state):
                recorder.breaks.append(
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


def _quiet(record: logging.LogRecord) -> bool:
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


class _Recorder(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """Writes one node per call that depends on the input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self.breaks: list[Break] = []
        self._values: Any = WeakIdKeyDictionary()
        self._uniform: Any = WeakIdKeyDictionary()
        self._doubtful: Any = WeakIdKeyDictionary()
        self.constants: list[str] = []
        self._written: set[int] = set()
        self._storages: dict[int, int] = {}
        self._owners: dict[int, list[int]] = {}
        self._layers: list[tuple[str, nn.Module]] = []
        self._leaf: nn.Module | None = None
        self._leaf_flops = 0

    # modules

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._layers.append((name, module))
            if self._leaf is None and callable(getattr(module, "lattice_geometry", None)):
                self._leaf, self._leaf_flops = module, 0

        return hook

    def leaving(self) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._leaf is module and len([1 for _, each in self._layers if each is module]) == 1:
                self._leaf = None
                if isinstance(output, torch.Tensor):
                    self._opaque(module, args, output)
                elif output is not None:
                    self.refuse(
                        "opaque", "an opaque layer must return one tensor", "return one tensor"
                    )
            if self._layers:
                self._layers.pop()

        return hook

    def _opaque(self, module: Any, args: Any, output: torch.Tensor) -> None:
        read = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t in self._values]
        declared = module.lattice_geometry()
        axes = tuple(
            AxisStep(
                Taps(int(a["stride"]), tuple(tuple(range(lo, hi + 1)) for lo, hi in a["support"])),
                size,
                bool(a.get("padded", False)),
            )
            for a, size in zip(declared["axes"], output.shape[2:], strict=True)
        )
        self.add(
            output,
            Node(
                "opaque", type(module).__name__, self.layer,
                tuple(self._values[t] for t in read), tuple(output.shape), axes,
                flops=self._leaf_flops, consensus=str(declared.get("consensus") or ""),
                constants=repr(declared),
            ),
        )  # fmt: skip

    @property
    def layer(self) -> str:
        return self._layers[-1][0] if self._layers else "network"

    # values

    def add(self, tensor: torch.Tensor, node: Node) -> None:
        index = len(self.nodes)
        storage = tensor.untyped_storage()._cdata
        if storage not in self._storages:
            self._storages[storage] = index
            node = replace(node, stored=tensor.numel())
            self._owners[index] = []
        owner = self._storages[storage]
        self.nodes.append(node)
        self._values[tensor] = index
        living = self._owners.setdefault(owner, [])
        living.append(index)
        weakref.finalize(tensor, self._release, storage, owner, index).atexit = False

    def _release(self, storage: int, owner: int, index: int) -> None:
        living = self._owners[owner]
        if index in living:
            living.remove(index)
        if not living and self._storages.get(storage) == owner:
            del self._storages[storage]
            self.nodes[owner] = replace(self.nodes[owner], dies=len(self.nodes))

    def refuse(self, op: str, reason: str, fix: str) -> Break:
        found = Break(self.layer, op, reason, fix)
        self.breaks.append(found)
        return found

    def returned(self, output: Any) -> tuple[int, ...]:
        tensors = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
        found = [self._values[t] for t in tensors if t in self._values]
        if (len(found) < len(tensors) or not found) and not self.breaks:
            self.refuse(
                "output", "an output does not depend on the input", "return tensors made from it"
            )
        return tuple(found)

    # calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        results = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        derived = tuple(t for t in given if t in self._values)
        name = func._schema.name.split("::")[-1]
        if self._leaf is not None:
            if name == "convolution" and results:
                weight = args[1]
                wide = args[0] if args[6] else results[0]
                self._leaf_flops += 2 * wide.numel() * weight[0].numel()
            return output
        if not results:
            if derived and name == "_local_scalar_dense":
                self.refuse(
                    str(func), "a value of the data is read: not analysed", "keep values in tensors"
                )
            return output
        if not derived and func._schema.is_mutable and given:
            self._written.add(given[0].untyped_storage()._cdata)
        if not derived or name in _UNIFORM:
            self._note_constant(func, name, args, kwargs, given, results)
            return output
        self._record(func, name, args, kwargs, given, derived, results)
        return output

    def _note_constant(
        self, func: Any, name: str, args: Any, kwargs: Any, given: Any, results: Any
    ) -> None:
        """Follow which constants are the same everywhere, and by which numbers they are made.

        The numbers go into the program, since they may have been computed from the input's size.
        What is summed or folded out of such a constant may follow the size as well: it is doubtful.
        """
        filled, pointwise = name in _UNIFORM, torch.Tag.pointwise in func.tags
        kept = pointwise or name in _KEEPS_UNIFORM
        for tensor in results:
            if filled or (kept and given and all(t in self._uniform for t in given)):
                self._uniform[tensor] = True
            elif any(t in self._doubtful for t in given) or (
                not kept and any(t in self._uniform for t in given)
            ):
                self._doubtful[tensor] = True
        if name == "lift_fresh" and args[0].numel() == 1 and not isinstance(args[0], FakeTensor):
            self.constants.append(repr(("tensor", args[0].tolist())))
        elif filled or pointwise:
            numbers = [
                v
                for v in tree_leaves((args[_SHAPED.get(name, 0) :], kwargs))
                if isinstance(v, (int, float))
            ]
            self.constants.append(repr((name, numbers)))

    def _record(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        given: list[torch.Tensor],
        derived: tuple[torch.Tensor, ...],
        results: list[torch.Tensor],
    ) -> None:
        inputs = tuple(self._values[t] for t in derived)
        arguments = _named(func, args, kwargs)
        layer = self._layers[-1][1] if self._layers else nn.Module()
        broken: Break | None = None
        step = Step("broken")
        if any(self.nodes[i].kind == "broken" for i in inputs):
            pass  # nothing is said of what comes after a break
        else:
            try:
                step = self._step(func, name, Call(arguments, derived, results[0], layer), given)
            except Breaking as error:
                broken = self.refuse(str(func), error.reason, error.fix)
                step = Step("pointwise" if error.keeps_shape else "broken")
        scalars = [v for v in tree_leaves((args, kwargs)) if isinstance(v, (int, float))]
        plain = step.kind == "pointwise" and name not in ("slice", "view", "expand", "permute")
        if name == "constant_pad_nd":  # how much it pads may follow the size, but not with what
            plain, scalars = True, list(args[2:])
        transient = sum(t.numel() * t.element_size() for t in results[1:]) if "pool" in name else 0
        for place, tensor in enumerate(results):
            self.add(
                tensor,
                Node(
                    step.kind, str(func), self.layer, inputs, tuple(tensor.shape), step.axes,
                    repr(scalars) if plain else "", step.flops if place == 0 else 0, broken,
                    extra_bytes=transient if place == 0 else 0,
                    workspace=step.workspace if place == 0 else 0,
                ),
            )  # fmt: skip
            if "pool" in name:
                break

    def _step(self, func: Any, name: str, call: Call, given: list[torch.Tensor]) -> Step:
        known = torch.Tag.pointwise in func.tags
        random = torch.Tag.nondeterministic_seeded in func.tags
        handler = HANDLERS.get(name) or (pointwise if known else None)
        if name in ("max", "min") and known:
            handler = pointwise
        if handler is None or random:
            raise Breaking(
                "not analysed", "use operators that stitchsafe knows, or declare the layer's "
                "geometry in a method lattice_geometry()",
            )  # fmt: skip
        step = handler(call)
        rank = call.derived[0].dim()
        if call.output.dim() != rank or any(t.dim() != rank for t in call.derived):
            raise Breaking(
                "it mixes tensors of different layouts, which is not analysed",
                "keep (batch, channels, *space) throughout",
            )
        if step.kind in ("pointwise", "concat"):
            self._check_operands(func, name, call, given)
        return step

    def _check_operands(self, func: Any, name: str, call: Call, given: list[torch.Tensor]) -> None:
        space = call.output.shape[2:]
        for tensor in given:
            own = tensor.shape[-len(space) :] if tensor.dim() >= len(space) else tensor.shape
            if tensor in self._values:
                if not name.startswith(("split", "slice")) and tensor.shape[2:] != space:
                    raise Breaking(
                        "a part of space is spread over the whole of it, which is not analysed",
                        "combine tensors of one size",
                    )
            elif (
                any(size > 1 for size in own)
                and "norm" not in name
                and (
                    tensor not in self._uniform or tensor.untyped_storage()._cdata in self._written
                )
            ):
                raise Breaking(
                    "a constant that varies over space is tied to the input's origin",
                    "use constants that are the same for every voxel",
                )
            elif tensor in self._doubtful:
                raise Breaking(
                    "a constant is summed or folded from one of the input's size, so it may differ "
                    "from tile to tile",
                    "use constants that do not follow the size of the input",
                )
        if func._schema.is_mutable:
            self._check_write(call, given)

    def _check_write(self, call: Call, given: list[torch.Tensor]) -> None:
        target = given[0]
        if target not in self._values:
            raise Breaking("it writes into a constant, which is not analysed", _WRITES_ANYWHERE)
        storage = target.untyped_storage()
        seen = self._owners.get(self._storages.get(storage._cdata, -1), [])
        whole = storage.nbytes() == target.numel() * target.element_size()
        aliases = {i for i in seen if self.nodes[i].shape != tuple(target.shape)}
        if not whole or (len(call.derived) > 1 and aliases):
            raise Breaking(
                "it writes into a tensor that is also seen elsewhere, which is not analysed",
                _WRITES_ANYWHERE,
            )


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    schema = func._schema.arguments
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named.update({a.name: value for a, value in zip(schema, args, strict=False)})
    return {**named, **kwargs}
