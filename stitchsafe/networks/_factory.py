"""Networks that the user's own, installed code makes: ``package.module:factory``.

Whoever names a factory asks for its code to be run, as by ``python -m``, so that needs no further
trust. It is found as any import finds it; the current folder is not added to where Python looks.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from stitchsafe.errors import ModelError

__all__ = ["build_from", "is_factory", "made_by"]

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_factory(model: str) -> bool:
    """Whether a text has the form ``package.module:factory``."""
    return _FACTORY.fullmatch(model) is not None


def build_from(named: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Import and call a factory (a function or a module's class).

    Raises
    ------
    ModelError
        If it is not there, fails, or makes something other than a `torch.nn.Module`.
    """
    place, _, attribute = named.partition(":")
    try:
        factory: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        absent = error.name or place
        owner = "" if place == absent or place.startswith(f"{absent}.") else f" (for {place})"
        raise ModelError(
            f"there is no module {absent!r}{owner} to import; install its package, or put its "
            "folder on PYTHONPATH (the current folder is not searched by itself)"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"importing {place} failed: {_told(error)}; repair it") from error
    return made_by(factory, attribute, arguments, named)


def made_by(
    place: Any, attribute: str, arguments: Mapping[str, Any] | None, named: str | None = None
) -> nn.Module:
    """The network that a module's function or class makes of some arguments.

    Raises
    ------
    ModelError
        As :func:`build_from`.
    """
    named, factory = named or attribute, place
    for part in attribute.split("."):
        if not hasattr(factory, part):
            known = [n for n, v in vars(factory).items() if callable(v) and n[:1] != "_"]
            near = difflib.get_close_matches(part, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ", ".join(known[:8])
            raise ModelError(
                f"there is no {named!r} in {getattr(place, '__name__', 'it')}; "
                f"{hint or 'nothing in it can be called'}"
            )
        factory = getattr(factory, part)
    if isinstance(factory, nn.Module):
        if arguments:
            raise ModelError(f"{named} is a network already made and takes no arguments; drop them")
        return factory
    if not callable(factory):
        raise ModelError(f"{named} is a {type(factory).__name__}; name a function or a class")
    try:
        module = factory(**(arguments or {}))
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in (arguments or {}).items()) or "no arguments"
        raise ModelError(
            f"{named} failed with {given}: {_told(error)}; give what it takes with --arg name=value"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{named} made a {type(module).__name__}, and a network is a torch.nn.Module; name "
            "what makes one"
        )
    return module


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
