"""Shares this machine's GPUs among the workers. Unproven: written by reading, run on no GPU yet."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from model.errors import InputError

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = "-1"


def share_gpus(workers: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the environment variables by which each worker sees GPUs of its own.

    All get the same number; what remains is left unused. A machine without GPUs needs none of it.

    Args:
      workers: number of processes.
      environment: environment variables; `CUDA_VISIBLE_DEVICES` limits the GPUs.

    Raises:
      InputError: the user named GPUs, but fewer than there are workers.
    """
    named = VISIBLE_VARIABLE in environment
    gpus = _named_gpus(environment[VISIBLE_VARIABLE]) if named else _installed_gpus()
    if not gpus or workers == 1:
        return [{} for _ in range(workers)]
    each = len(gpus) // workers
    if not each and named:
        raise InputError(
            f"--workers is {workers}, but {VISIBLE_VARIABLE} names only {len(gpus)}; use fewer "
            f"workers, or {VISIBLE_VARIABLE}={NO_GPU} for CPUs"
        )
    if not each:  # each would claim all of a GPU's memory
        print(
            f"{workers} workers can't share {len(gpus)} GPUs and train on CPUs; --workers "
            f"{len(gpus)} trains on GPUs",
            flush=True,
        )
        return [{VISIBLE_VARIABLE: NO_GPU} for _ in range(workers)]
    return [
        {VISIBLE_VARIABLE: ",".join(gpus[rank * each : (rank + 1) * each])}
        for rank in range(workers)
    ]


def _named_gpus(text: str) -> list[str]:
    """Returns the GPUs of CUDA_VISIBLE_DEVICES; CUDA ignores those after the first bad one."""
    gpus = []
    for name in (part.strip() for part in text.split(",")):
        if not name or name.startswith("-"):
            break
        gpus.append(name)
    return gpus


def _installed_gpus() -> list[str]:
    """Returns the UUIDs of this machine's GPUs, or of their MIG slices, as the driver tells them."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.findall(r"UUID: ((?:GPU|MIG)-[\w/-]+)\)", listed.stdout)
    slices = [one for one in found if one.startswith("MIG-")]
    return slices or found
