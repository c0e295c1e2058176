"""How many worker processes fit on this machine or in this container."""

from __future__ import annotations

import math
import os

WORKER_BYTES = 1_250_000_000
"""Memory that one worker process may need."""

_CGROUP = "/sys/fs/cgroup"  # version 2


def count_workers() -> int:
    """Returns how many worker processes fit, by cores and by memory; at least 1."""
    return max(1, min(_cores(), _free_bytes() // WORKER_BYTES))


def _cores() -> int:
    """Returns the number of usable cores; a container's fraction of a core counts as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read(f"{_CGROUP}/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        return min(cores or 1, math.ceil(int(quota) / int(period)))
    return cores or 1


def _free_bytes() -> int:
    """Returns the machine's free memory in bytes, or the container's limit if lower."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) << 10)
    limit = _read(f"{_CGROUP}/memory.max")
    if limit.isdecimal():
        free.append(int(limit))
    return min(free)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # another system, or no limits
        return ""
