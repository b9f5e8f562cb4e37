"""How many threads torch computes with: a setting of the process, which belongs to its user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["own_threads"]


@contextmanager
def own_threads() -> Iterator[None]:
    """Threads that are set within are what they were afterwards; a decorator, too."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
