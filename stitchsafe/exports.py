"""The verb export: which things can be exported, and to what.

========================  ==================================
what                      to
========================  ==================================
a result of ``predict``   ``tiff``, ``csv``, ``parquet``
a trained network         ``onnx``, ``bioimageio``
========================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, get_args

from stitchsafe.errors import InputError
from stitchsafe.pipeline import Export, ExportOptions, ResultForm, export_result, is_result
from stitchsafe.training import NetworkForm, export_network, is_network
from stitchsafe.volumes import is_url

__all__ = ["export"]


@dataclass(frozen=True)
class _Kind:
    """A kind of thing that can be exported."""

    name: str
    matches: Callable[[str | Path], bool]
    forms: tuple[str, ...]
    export: Callable[..., Export]
    option: str
    """The one that only this kind takes."""


_KINDS = (
    _Kind("a result of predict", is_result, get_args(ResultForm), export_result, "max_memory"),
    _Kind("a trained network", is_network, get_args(NetworkForm), export_network, "trust_model"),
)


class Options(ExportOptions, total=False):
    """Keyword options of `export`."""

    trust_model: bool


def export(
    source: str | Path,
    to: str | Sequence[str],
    out: str | Path | None = None,
    **options: Unpack[Options],
) -> Export:
    """Write what stitchsafe made in a form that other programs read.

    Parameters
    ----------
    source
        A result of predict, as a path or URL; or a model folder, such as a training's run, or the
        name of a bundled model.
    to
        One form or several: ``tiff``, ``csv``, ``parquet`` of a result, ``onnx``, ``bioimageio`` of
        a network.
    out
        A folder for the files, or of one form the file; by default they lie beside the source.
    **options
        See `stitchsafe.pipeline.export_result` and `stitchsafe.training.export_network`.

    Returns
    -------
    Export

    Raises
    ------
    InputError
        If the source is none of these, or cannot have that form; nothing was written.
    """
    forms = (to,) if isinstance(to, str) else tuple(to)
    for kind in _KINDS:
        if kind.matches(source):
            for form in forms:
                if form not in kind.forms:
                    raise InputError(
                        f"{source} is {kind.name}, which has no form {form!r}; it can be exported "
                        f"to {', '.join(kind.forms)}"
                    )
            for other in _KINDS:
                if other is not kind and options.get(other.option):
                    flag = other.option.replace("_", "-")
                    raise InputError(
                        f"--{flag} is for {other.name}, and {source} is {kind.name}; leave it out"
                    )
            return kind.export(source, forms, out, **options)
    raise InputError(f"{_what_else(source)}; give {_known()}")


def _what_else(source: Any) -> str:
    if Path(source).expanduser().exists() or is_url(str(source)):
        return f"{source} is nothing that can be exported"
    return f"there is no {source}"


def _known() -> str:
    return " or ".join(f"{kind.name} ({', '.join(kind.forms)})" for kind in _KINDS)
