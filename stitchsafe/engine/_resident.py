"""How much memory a process has held at most."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory(pid: int | None = None) -> int:
    """Largest resident memory of a process so far, in bytes.

    Parameters
    ----------
    pid
        Of the process; this one by default. Of another, 0 where the system does not tell.
    """
    try:
        # Not what `getrusage` says: that includes the process which this one was started from.
        status = Path(f"/proc/{pid or os.getpid()}/status").read_text()
    except OSError:
        status = ""
    if found := re.search(r"VmHWM:\s+(\d+) kB", status):
        return int(found[1]) * 1024
    if pid is not None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
