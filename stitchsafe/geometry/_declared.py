"""What a layer declares of itself in a method ``lattice_geometry()``, and what runs inside it.

The method returns a mapping of plain data, so that layers need not know this package:

``axes``
    One ``{"stride": int, "support": [[first, last], ...]}`` per spatial axis: the output's element
    ``q*n + j``, of n phases, depends on the input's elements ``q*stride + first_j`` to
    ``q*stride + last_j``. All tensors that the layer takes lie on one lattice.
``inputs``
    Instead, one such list per tensor that the layer takes, in the order of its arguments: each may
    lie on a lattice of its own, as what is decoded and what decodes it do.
``consensus``
    What must be decided once for the whole volume; optional.
``breaks``
    Why the layer can never be tiled, each ``{"reason": str, "fix": str}``; optional. With axes
    beside it, what follows is analysed as if the layer were mended.

The layer returns one tensor, or a tuple that begins with one: what else is in that is a decision
about the whole input, which later layers may read and which has no place.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stitchsafe.geometry._axis import Taps
from stitchsafe.geometry._flow import Flow
from stitchsafe.geometry._graph import AxisStep
from stitchsafe.geometry._layout import Breaking, Value

__all__ = ["Declared", "Inside"]

_Axes = tuple[Taps, ...]


def _taps(axes: Sequence[Mapping[str, Any]]) -> _Axes:
    return tuple(
        Taps(int(a["stride"]), tuple(tuple(range(lo, hi + 1)) for lo, hi in a["support"]))
        for a in axes
    )


@dataclass(frozen=True)
class Declared:
    """The declaration of one layer.

    Parameters
    ----------
    together
        Taps per axis for all tensors that it takes, if these lie on one lattice.
    apart
        Taps per axis for each of them, if they do not.
    consensus
        What must be decided once for the whole volume, or nothing.
    breaks
        (reason, fix), why it can never be tiled.
    text
        All of it, for comparing.
    """

    together: _Axes
    apart: tuple[_Axes, ...]
    consensus: str
    breaks: tuple[tuple[str, str], ...]
    text: str

    @classmethod
    def of(cls, module: Any) -> Declared:
        found = module.lattice_geometry()
        return cls(
            together=_taps(found.get("axes", ())),
            apart=tuple(map(_taps, found.get("inputs", ()))),
            consensus=str(found.get("consensus") or ""),
            breaks=tuple((str(b["reason"]), str(b["fix"])) for b in found.get("breaks", ())),
            text=repr(found),
        )

    def applied(
        self, flow: Flow, read: Sequence[tuple[int, Value]], shape: tuple[int, ...]
    ) -> Value:
        """The layer's output.

        Parameters
        ----------
        flow
            Takes up its nodes.
        read
            What it reads, each with its place among the tensors that the layer takes.
        shape
            Of the output.

        Raises
        ------
        Breaking
            If it reads what does not lie over space as declared.
        """
        values = [value for _, value in read]
        noted = [flow.breaking(reason, fix) for reason, fix in self.breaks]
        if any(map(flow.is_broken, values)) or (noted and not self.together and not self.apart):
            value = flow.broken(values, shape)
        elif self.apart:
            if max(place for place, _ in read) >= len(self.apart):
                raise Breaking(
                    f"its lattice_geometry() declares {len(self.apart)} inputs, and it takes more",
                    "declare the axes of every tensor that it takes",
                )
            found = [self._local(flow, own, self.apart[place], shape) for place, own in read]
            value = found[0] if len(found) == 1 else flow.pointwise(found, shape, "opaque")
        else:
            together = values[0]
            if len(values) > 1:
                channels = sum(value.shape[1] for value in values)
                together = flow.concat(values, 1, (1, channels, *together.shape[2:]))
            value = self._local(flow, together, self.together, shape)
        for each in noted:
            if flow.nodes[value.index].broken is not None:  # one break for each node
                value = flow.keep(value, each)
            else:
                flow.nodes[value.index] = replace(flow.nodes[value.index], broken=each)
        return value

    @staticmethod
    def _local(flow: Flow, value: Value, axes: _Axes, shape: tuple[int, ...]) -> Value:
        steps = {2 + axis: AxisStep(taps, shape[2 + axis]) for axis, taps in enumerate(axes)}
        return flow.local("opaque", value, steps, shape, mixes=[1])


class Inside:
    """What runs inside such a layer: its operations, and the elements that live at one time."""

    def __init__(self) -> None:
        self.flops = self.peak = 0
        self._live: dict[int, int] = {}
        self._elements: dict[int, int] = {}

    @property
    def storages(self) -> set[int]:
        """Of what was made inside and lives."""
        return set(self._live)

    def ran(self, flops: int, results: Sequence[torch.Tensor]) -> None:
        """Take up an operator, and the results that have a storage of their own."""
        self.flops += flops
        for tensor in results:
            storage = tensor.untyped_storage()._cdata
            self._live[storage] = self._live.get(storage, 0) + 1
            self._elements.setdefault(storage, tensor.numel())
            weakref.finalize(tensor, self._release, storage).atexit = False
        self.peak = max(self.peak, sum(self._elements.values()))

    def _release(self, storage: int) -> None:
        self._live[storage] -= 1
        if not self._live[storage]:
            del self._live[storage], self._elements[storage]
