"""Checks the sizes of a run's pods before it starts: only the pods that have them would notice.

KFP's own program that starts a step ends on a wrong amount without a line in the step's log.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from model.config import Config
from model.data.plan import nearest_lanes
from model.errors import InputError

_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGTPE]i|[mkMGTPE])?")
"""An amount as Kubernetes writes it, without exponents
(https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity)."""
_BYTES = {"": 1, **{unit: 1000**power for power, unit in enumerate("kMGTPE", start=1)}}
_BYTES |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)}
_CPUS = {"": 1.0, "m": 0.001}
LEAST_MEMORY = 128 << 20
"""Python alone takes half of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodSizes:
    """The parameters of the pipeline that say how large its pods are, and how many workers train."""

    prepare_memory: str
    worker_memory: str
    worker_cpu: str
    worker_gpus: int
    workers: int

    def check(self, config: Config) -> None:
        """Checks the values, and that the workers can share the lanes of a config.

        Raises:
          InputError: a value is no amount, out of range, or does not fit the config.
        """
        for name, least in (("workers", 1), ("worker_gpus", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name):g}; it must be at least {least}")
        for name in ("prepare_memory", "worker_memory"):
            if _read_amount(getattr(self, name), _BYTES) < LEAST_MEMORY:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; it must be an amount of memory such as 8Gi, "
                    "at least 128Mi"
                )
        if _read_amount(self.worker_cpu, _CPUS) < 0.001:
            raise InputError(
                f"worker_cpu is {self.worker_cpu!r}; it must be a number of CPUs such as 2 or 500m"
            )
        lanes, share = config.train.lanes, self.workers * max(1, self.worker_gpus)
        if lanes % share:
            gpus = f" with {self.worker_gpus} GPUs each" if self.worker_gpus > 1 else ""
            raise InputError(
                f"train.lanes is {lanes}, which {self.workers} workers{gpus} can't share; set "
                f"train.lanes={nearest_lanes(lanes, count=share)}"
            )


def _read_amount(text: str, units: Mapping[str, float]) -> float:
    """Returns an amount; -1 if it is none."""
    found = _AMOUNT.fullmatch(text)
    unit = found[2] or "" if found else ""
    return float(found[1]) * units[unit] if found and unit in units else -1.0
