"""TF_CONFIG: the addresses of a group's workers and the rank of this one. No TensorFlow here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from model.errors import InputError

_JOBS = ("chief", "worker")
"""The jobs of TF_CONFIG whose tasks are workers, in the order of their ranks."""


def format_tf_config(hosts: Sequence[str], rank: int) -> str:
    """Returns the TF_CONFIG of one worker.

    Args:
      hosts: `host:port` of every worker; worker 0 is the chief.
      rank: this worker's rank.
    """
    return json.dumps(
        {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": rank}}
    )


def parse_tf_config(text: str) -> tuple[list[str], int]:
    """Parses a TF_CONFIG; an empty one means a single worker.

    A `chief` task, as Kubeflow's TFJob writes it, is worker 0, and the tasks called `worker` follow.

    Returns:
      `host:port` of every worker, and the rank of this one.

    Raises:
      InputError: it is malformed, or has tasks other than workers.
    """
    try:
        parsed: Any = json.loads(text or "{}")
        if parsed == {}:
            return ["-"], 0
        cluster, task = dict(parsed["cluster"]), dict(parsed["task"])
        job, index = str(task.get("type", "worker")), int(task["index"])
        other = sorted({*cluster, job} - set(_JOBS))
        if other:
            raise InputError(
                f"TF_CONFIG has a task {other[0]!r}; training has workers only, of which one may be "
                "called 'chief'; remove it"
            )
        groups = {name: list(cluster.get(name, ())) for name in _JOBS}
        if len(groups["chief"]) > 1:
            raise ValueError(f"{len(groups['chief'])} chiefs")
        if not 0 <= index < len(groups[job]):
            raise ValueError(f"task index {index} of {len(groups[job])} {job} tasks")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"TF_CONFIG is malformed ({error}): {text}") from None
    hosts = [str(host) for name in _JOBS for host in groups[name]]
    return hosts, index + (len(groups["chief"]) if job == "worker" else 0)
