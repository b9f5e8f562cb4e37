"""YAML as data: no tags that make objects, and no aliases that make a file larger than it is.

An alias costs nothing where it stands, but whoever walks the value pays for it each time: ten
lists of ten aliases to the list before make ten thousand million entries of a few lines. So the
entries are counted as they would be walked, before anything is made of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stitchsafe.errors import ModelError

__all__ = ["read_yaml"]

MOST_BYTES = 4_000_000
MOST_ENTRIES = 100_000


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain values.

    Raises
    ------
    ModelError
        If it cannot be read, asks for Python objects, or grows beyond all measure.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(
                f"{path} has {path.stat().st_size} bytes, and a description has at most "
                f"{MOST_BYTES}; give the model's own description"
            )
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _entries(node, {}, set()) > MOST_ENTRIES:
            raise ModelError(
                f"{path} grows to more than {MOST_ENTRIES} entries by aliases that repeat each "
                "other; write it without them"
            )
        return loader.construct_document(node)
    except ModelError:
        raise
    except RecursionError as error:
        raise ModelError(f"{path} is nested too deeply to be a description") from error
    except Exception as error:  # a tag of the standard with a value that it cannot have is any kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as YAML ({reason}); repair the file") from error


def _entries(node: yaml.Node, known: dict[int, int], open_: set[int]) -> int:
    """Entries of a node, those of an alias as often as it stands there."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise ValueError("an alias that holds itself")
    open_.add(id(node))
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_entries(each, known, open_) for each in node.value)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            count += _entries(key, known, open_) + _entries(value, known, open_)
    open_.discard(id(node))
    known[id(node)] = count
    return count
