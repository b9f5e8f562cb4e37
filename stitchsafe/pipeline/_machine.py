"""What this machine, or the job that runs on it, has been allotted."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Allotment", "allotted_memory", "cores_for", "processor_name", "usable_cores"]


@dataclass(frozen=True, slots=True)
class Allotment:
    """Bytes that a run may take, and who says so."""

    memory: int
    source: str


def allotted_memory() -> Allotment:
    """Memory of the batch job, the container, or the machine: whichever is least.

    What happens to be free is not asked: it would make the result depend on the moment.
    """
    found = [Allotment(psutil.virtual_memory().total, "the machine's memory")]
    if (slurm := os.environ.get("SLURM_MEM_PER_NODE", "")).isdigit() and int(slurm):
        found.append(Allotment(int(slurm) * 2**20, "the batch job's allotment"))
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            found.append(Allotment(int(limit), "the container's limit"))
    return min(found, key=lambda allotment: allotment.memory)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_for(workers: int, threads: int) -> list[list[int]]:
    """Cores of its own for each worker; none where they do not suffice, or cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    if workers * threads > len(cores):
        return []
    return [cores[at * threads : (at + 1) * threads] for at in range(workers)]


def processor_name() -> str:
    """The processor's model, which decides which kernels run."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
