"""Where a result's network came from, kept with the result so that verify can load it again.

A result is a folder that somebody else may have made. So what it says of its network is used as far
as that runs no code: a path is read as data, and a factory, or a model that needs trust, is not run
because the result names it, but only if the user does, or trusts it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stitchsafe.errors import IntegrityError, ModelError
from stitchsafe.networks import Network, is_factory, load_network

__all__ = ["Origin"]


@dataclass(frozen=True)
class Origin:
    """What was given to load a network.

    Parameters
    ----------
    model
        A bundled name, an absolute path, or a factory; None for what lies in memory only.
    weights
        Absolute path of the file of weights.
    arguments
        Keyword arguments, each as a Python literal.
    input_channels, model_axes
        As `load_network` takes them.
    """

    model: str | None
    weights: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    input_channels: tuple[int, ...] | None = None
    model_axes: str | dict[str, str] | None = None

    @classmethod
    def of(
        cls,
        model: object,
        weights: str | Path | None,
        arguments: Mapping[str, Any] | None,
        *,
        input_channels: Sequence[int] | None = None,
        model_axes: str | Mapping[str, str] | None = None,
    ) -> Origin:
        if not isinstance(model, str | Path):
            return cls(None)
        literals = {name: repr(value) for name, value in (arguments or {}).items()}
        if any(_read(text) != (arguments or {})[name] for name, text in literals.items()):
            return cls(None)  # an object in memory
        place = str(Path(model).absolute()) if Path(model).exists() else str(model)
        file = None if weights is None else str(Path(weights).absolute())
        channels = None if input_channels is None else tuple(map(int, input_channels))
        axes = dict(model_axes) if isinstance(model_axes, Mapping) else model_axes
        return cls(place, file, literals, channels, axes)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "weights": self.weights,
            "arguments": dict(self.arguments),
            "input_channels": None if self.input_channels is None else list(self.input_channels),
            "model_axes": self.model_axes,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Origin:
        """What a result says; older ones say the model alone.

        Raises
        ------
        IntegrityError
            If it is damaged.
        """
        model, weights = content.get("model"), content.get("weights")
        arguments = content.get("arguments") or {}
        channels, axes = content.get("input_channels"), content.get("model_axes")
        texts = [each for each in (model, weights) if each is not None]
        texts += axes.values() if isinstance(axes, dict) else () if axes is None else (axes,)
        if (
            not isinstance(arguments, dict)
            or not all(isinstance(each, str) for each in (*texts, *arguments.values()))
            or not isinstance(channels, list | None)
            or not all(isinstance(each, int) for each in channels or ())
        ):
            raise IntegrityError(
                "the result's record of its network is damaged; give the network with --model"
            )
        return cls(model, weights, arguments, None if channels is None else tuple(channels), axes)

    def load(self, *, trust: bool) -> Network:
        """The network again.

        Raises
        ------
        ModelError
            If it lay in memory, or to load it would run code that the user did not name.
        """
        if self.model is None:
            raise ModelError("the result was made with a module in memory; give it as model=")
        if is_factory(self.model) and not Path(self.model).exists() and not trust:
            options = "".join(f" --arg {name}={text}" for name, text in self.arguments.items())
            if self.weights is not None:
                options = f" --weights {self.weights}{options}"
            if self.input_channels is not None:
                options += f" --input-channels {','.join(map(str, self.input_channels))}"
            raise ModelError(
                f"the result, and not you, names the code {self.model} that makes its network; "
                f"name it with --model {self.model}{options}, or add --trust-model"
            )
        return load_network(
            self.model,
            weights=self.weights,
            arguments={name: _read(text) for name, text in self.arguments.items()},
            input_channels=self.input_channels,
            model_axes=self.model_axes,
            trust=trust,
        )


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _UNREADABLE


_UNREADABLE = object()
