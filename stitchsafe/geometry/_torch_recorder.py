"""What happens while a module runs on fake tensors: operators become nodes of a flow.

A dispatch mode sees every ATen call with its tensors. Each that derives from an input has a value
in the flow, others are constants. Hooks keep the path of the module that runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path, tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from stitchsafe.geometry._aten import LOCAL, pointwise
from stitchsafe.geometry._aten_call import REDUCTIONS, SIZED, Call, cost
from stitchsafe.geometry._aten_mixing import MIXING
from stitchsafe.geometry._declared import Declared, Inside
from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._graph import Port
from stitchsafe.geometry._layout import AXES, Breaking, Value
from stitchsafe.geometry._torch_constants import UNIFORM, Constants, operator_name, settings
from stitchsafe.geometry._types import Break
from stitchsafe.geometry._windows import SizeRefusal

__all__ = ["Recorder"]

_HANDLERS = {**LOCAL, **MIXING}
_WRITES_ANYWHERE = "write with plain operators that return new tensors"


class Recorder(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """Writes one node per call that depends on the input."""

    def __init__(self, module: nn.Module, space: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow, self.constants = Flow(space), Constants(module)
        self._values: Any = WeakIdKeyDictionary()
        self._places: Any = WeakIdKeyDictionary()
        self._stale: Any = WeakIdKeyDictionary()
        self._aliases: dict[int, list[weakref.ref[torch.Tensor]]] = {}
        self._storages: dict[int, int] = {}
        self._owners: dict[int, list[int]] = {}
        self._layers: list[tuple[str, nn.Module]] = []
        self._leaf: nn.Module | None = None
        self._inside = Inside()
        self.failing: str | None = None

    # modules

    def note(self, found: Break) -> None:
        self.flow.note(found)

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._layers.append((name, module))
            if self._leaf is None and callable(getattr(module, "lattice_geometry", None)):
                self._leaf, self._inside = module, Inside()

        return hook

    def leaving(self) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._leaf is module and len([1 for _, each in self._layers if each is module]) == 1:
                self._leaf = None
                self.flow.at(type(module).__name__, self.layer)
                made, *decided = output if isinstance(output, tuple) else (output,)
                if isinstance(made, torch.Tensor):
                    value = self._opaque(module, args, made)
                    if value is not None:
                        # What else comes out is a decision, and has no place.
                        rest = [t for t in tree_leaves(decided) if isinstance(t, torch.Tensor)]
                        self.constants.forget(rest, (value.index,))
                elif output is not None:
                    self.refuse(
                        "an opaque layer must return a tensor, or a tuple that begins with one",
                        "return the tensor first",
                    )
                else:  # it refused its input, and may have said why it cannot be tiled at all
                    for reason, fix in Declared.of(module).breaks:
                        self.refuse(reason, fix)
            if self._layers:
                name, _ = self._layers.pop()
                if output is None and self.failing is None:
                    self.failing = name

        return hook

    def _opaque(self, module: nn.Module, args: Any, output: torch.Tensor) -> Value | None:
        """One node of what a layer declares of itself; None where it only makes a constant."""
        given = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
        read = [(place, self._values[t]) for place, t in enumerate(given) if t in self._values]
        if not read:
            return None  # a constant that is made by it
        declared, shape = Declared.of(module), tuple(output.shape)
        try:
            value = declared.applied(self.flow, read, shape)
        except Breaking as error:
            values = [value for _, value in read]
            value = self.flow.broken(values, shape, self.refuse(error.reason, error.fix))
        self.flow.nodes[value.index] = replace(
            self.flow.nodes[value.index],
            behind=self.constants.behind(given),
            flops=self._inside.flops,
            workspace=max(0, self._inside.peak - output.numel()),
            consensus=declared.consensus,
            constants=declared.text,
        )
        self.bind(output, value)
        return value

    @property
    def layer(self) -> str:
        return self._layers[-1][0] if self._layers else "network"

    # values

    def input(self, tensor: torch.Tensor, place: int) -> Port:
        layout = "bc" + AXES[-self.flow.ndim :]
        value, port = self.flow.input(
            f"input{place}" if place else "input", tensor.shape[1], layout
        )
        self.bind(tensor, value)
        return port

    def bind(self, tensor: torch.Tensor, value: Value) -> None:
        """Remember what a tensor is, and how long its storage lives."""
        index, nodes = value.index, self.flow.nodes
        storage = tensor.untyped_storage()._cdata
        if storage not in self._storages:
            self._storages[storage] = index
            nodes[index] = replace(nodes[index], stored=tensor.numel())
            self._owners[index] = []
            self._aliases[storage] = []
        owner = self._storages[storage]
        self._values[tensor] = value
        self._places[tensor] = storage
        self._aliases[storage].append(weakref.ref(tensor))
        living = self._owners.setdefault(owner, [])
        living.append(index)
        weakref.finalize(tensor, self._release, storage, owner, index).atexit = False

    def _release(self, storage: int, owner: int, index: int) -> None:
        living, nodes = self._owners[owner], self.flow.nodes
        if index in living:
            living.remove(index)
        if not living and self._storages.get(storage) == owner:
            del self._storages[storage]
            nodes[owner] = replace(nodes[owner], dies=len(nodes))

    def refuse(self, reason: str, fix: str) -> Break:
        self.flow.layer = self.layer
        return self.flow.refuse(reason, fix)

    def returned(self, output: Any) -> tuple[Port, ...]:
        named = [
            (_key(path), t)
            for path, t in tree_flatten_with_path(output)[0]
            if isinstance(t, torch.Tensor)
        ]
        self._require_own_data([t for _, t in named])
        if any(t in self._stale for _, t in named):
            self.flow.op = "output"
            self.refuse("an output was written through another view of it", _WRITES_ANYWHERE)
        found = [(name, self._values[t]) for name, t in named if t in self._values]
        self.flow.roots += [value.index for _, value in found if self.flow.is_broken(value)]
        missing = [t for _, t in named if t not in self._values]
        self.flow.roots += self.constants.behind(missing)
        constant = any(not self.constants.is_placeless(t) for t in missing)
        if constant or (not found and not self.flow.breaks):
            self.flow.op = "output"
            self.refuse("an output does not depend on the input", "return tensors made from it")
        ports = [
            self.flow.output(value, name) for name, value in found if not self.flow.is_broken(value)
        ]
        return tuple(port for port in ports if port is not None)

    # calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        results = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        derived = [t for t in given if t in self._values]
        name = operator_name(func)
        self.flow.at(str(func), self.layer)
        if self._leaf is not None:
            if results:
                flops = cost(name, _named(func, args, kwargs), results[0])[0]
                taken = {t.untyped_storage()._cdata for t in given} - self._inside.storages
                self._inside.ran(
                    flops, [t for t in results if t.untyped_storage()._cdata not in taken]
                )
            return output
        self._require_own_data(derived)
        written = _written(func, args, kwargs)
        constants = [t for t in given if t not in self._values]
        if not results:
            if derived and name == "_local_scalar_dense":
                self.refuse("a value of the data is read: not analysed", "keep values in tensors")
            elif written:
                self.refuse("it writes into tensors: not analysed", _WRITES_ANYWHERE)
            elif name == "_local_scalar_dense":
                self.flow.roots += self.constants.behind(constants)
            return output
        if self._seen_elsewhere(written):
            self.flow.roots += self.constants.behind(constants)
        if any(map(self.constants.outlives, written)) and "batch_norm" not in name:
            self.refuse(
                "it changes a parameter, a buffer or another tensor that outlives the pass, so "
                "that a result may depend on what ran before",
                "keep what a pass leaves behind out of the module",
            )
        if torch.Tag.nondeterministic_seeded in func.tags and not derived:
            self.refuse(
                "it draws random numbers, so that no two passes are alike",
                "switch it off for prediction",
            )
            self.constants.forget(results)
        elif not derived and any(map(self.constants.is_placeless, given)):
            self.constants.forget(results, self.constants.behind(given))
        elif not derived or name in UNIFORM:
            self.constants.note(func, args, kwargs, constants, results, written)
        else:
            self._record(func, name, args, kwargs, given, derived, results, written)
        return output

    def _record(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        given: list[torch.Tensor],
        derived: list[torch.Tensor],
        results: list[torch.Tensor],
        written: list[torch.Tensor],
    ) -> None:
        flow, arguments = self.flow, _named(func, args, kwargs)
        values = {id(t): self._values[t] for t in derived}
        first, behind = len(flow.nodes), self.constants.behind(given)
        if any(flow.is_broken(value) for value in values.values()):
            # Nothing is said of what comes after a break.
            made = [flow.broken(list(values.values()), t.shape) for t in results]
        else:
            layer = self._layers[-1][1] if self._layers else nn.Module()
            call = Call(
                flow, name, arguments, values, results, layer, given, self._constants_admitted
            )
            made = self._made(func, call, written)
            if len(flow.nodes) == first and not func.is_view:  # somewhere its settings must stand
                made = [flow.pointwise([value], value.shape) for value in made]
        flops, workspace, unfolded = cost(name, arguments, results[0])
        transient = sum(t.numel() * t.element_size() for t in results[1:]) if "pool" in name else 0
        if len(flow.nodes) > first:
            flow.nodes[-1] = replace(
                flow.nodes[-1],
                constants=" ".join(
                    [flow.nodes[-1].constants, self._settings(name, args, kwargs)]
                    + [self.constants.recipe(t) for t in given if t not in self._values]
                ),
                flops=flops,
                workspace=workspace,
                unfolded=unfolded,
                extra_bytes=transient,
            )
        else:
            flow.roots += behind
        for index in range(first, len(flow.nodes)):
            if behind:
                flow.nodes[index] = replace(flow.nodes[index], behind=behind)
        elsewhere = self._seen_elsewhere(written)
        for tensor, value in zip(results, made, strict=False):
            self.bind(tensor, value)
            if elsewhere:
                flow.roots.append(value.index)
        if any(flow.nodes[index].broken for index in range(first, len(flow.nodes))):
            # Further results have no place; what comes after may be analysed further.
            rest = [t for t in results if t not in self._values]
            self.constants.forget(rest, tuple(range(first, len(flow.nodes))))

    def _require_own_data(self, tensors: Sequence[torch.Tensor]) -> None:
        """Refuse tensors that were given the data of others, past all operators."""
        for tensor in tensors:
            place = self._places.get(tensor)
            if place is not None and place != tensor.untyped_storage()._cdata:
                self.refuse(
                    "the data of a tensor were replaced, which is not analysed",
                    "use the tensor that holds them",
                )
                self._places[tensor] = tensor.untyped_storage()._cdata

    def _seen_elsewhere(self, written: Sequence[torch.Tensor]) -> bool:
        """Whether what is written may be seen through another tensor than the one that is named."""
        for target in written:
            storage = target.untyped_storage()
            if target not in self._values or storage._cdata not in self._aliases:
                return True
            if storage.nbytes() != target.numel() * target.element_size():
                return True
            seen = [each() for each in self._aliases[storage._cdata]]
            if any(other is not None and other is not target for other in seen):
                return True
        return False

    def _made(self, func: Any, call: Call, written: list[torch.Tensor]) -> list[Value]:
        """What an operator makes of its values; what breaks locality is noted."""
        flow = self.flow
        try:
            self.constants.require_known([t for t in call.given if t not in self._values])
            if any(t in self._stale for t in call.given):
                raise Breaking(
                    "it reads a tensor that was written through another view of it, which is not "
                    "analysed",
                    _WRITES_ANYWHERE,
                )
            handler = self._handler(func, call)
            found = handler(call)
            self._check_write(call, written)
        except SizeRefusal as error:
            flow.layer = self.layer
            values = list(call.values.values())
            return [flow.unfit(values, t.shape, error) for t in call.results]
        except Breaking as error:
            flow.layer = self.layer
            noted = (flow.refuse if written else flow.breaking)(error.reason, error.fix)
            if error.keeps is not None and error.keeps.shape == call.shape:
                return [flow.keep(error.keeps, noted)]
            if call.name in REDUCTIONS:
                # What is left has no place in space: what comes after may be analysed further.
                flow.broken(list(call.values.values()), call.shape, noted)
                return []
            return [flow.broken(list(call.values.values()), t.shape, noted) for t in call.results]
        if isinstance(found, list):
            return found
        if found.shape != call.shape:
            raise AssertionError(f"{call.name} gave {call.shape}, and is held for {found.shape}")
        # Several results of one operator lie alike, but for the indices of a pooling.
        count = 1 if "pool" in call.name else len(call.results)
        alike = [t for t in call.results[:count] if tuple(t.shape) == call.shape]
        return [found] * len(alike)

    def _handler(self, func: Any, call: Call) -> Callable[[Call], Value | list[Value]]:
        known = torch.Tag.pointwise in func.tags and func.namespace == "aten"
        random = (
            torch.Tag.nondeterministic_seeded in func.tags
            and call.arguments.get("dropout_p", 1.0) > 0
        )
        handler = _HANDLERS.get(call.name) or (pointwise if known else None)
        if call.name in ("max", "min") and known:
            handler = pointwise
        if handler is None or random:
            raise Breaking(
                "not analysed", "use operators that stitchsafe knows, or declare the layer's "
                "geometry in a method lattice_geometry()",
            )  # fmt: skip
        return handler

    def _settings(self, name: str, args: Any, kwargs: Any) -> str:
        """What an operator is told, but for whole numbers that follow the size."""
        told = settings(args[2:] if name == "constant_pad_nd" else (args, kwargs))
        if name in SIZED:
            told = [each for each in told if isinstance(each, bool) or not isinstance(each, int)]
        return repr(told)

    def _constants_admitted(self, value: Value, given: Sequence[torch.Tensor]) -> Value:
        constants = [tensor for tensor in given if tensor not in self._values]
        return self.constants.admitted(value, constants, self.flow)

    def _check_write(self, call: Call, written: Sequence[torch.Tensor]) -> None:
        for target in written:
            if target not in self._values:
                raise Breaking("it writes into a constant, which is not analysed", _WRITES_ANYWHERE)
            storage = target.untyped_storage()
            if storage.nbytes() != target.numel() * target.element_size():
                raise Breaking(
                    "it writes into part of a tensor, which is not analysed", _WRITES_ANYWHERE
                )
            if len(call.given) > 1:  # else all who see it still depend on what they did
                for seen in self._aliases.get(storage._cdata, ()):
                    other = seen()
                    if other is not None and other is not target:
                        self._stale[other] = True


def _key(path: Any) -> str:
    """What an output is called by the structure that it is returned in."""
    parts = [
        getattr(each, name)
        for each in path
        for name in ("key", "idx", "name")
        if hasattr(each, name)
    ]
    return ".".join(map(str, parts)) or "output"


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that an operator writes into."""
    if not func._schema.is_mutable:
        return []
    named = _named(func, args, kwargs)
    writes = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    return [t for t in tree_leaves([named.get(n) for n in writes]) if isinstance(t, torch.Tensor)]


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    schema = func._schema.arguments
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named.update({a.name: value for a, value in zip(schema, args, strict=False)})
    return {**named, **kwargs}
