"""A worker in a pod: derives its place in the group from the pod's index. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping

from model.errors import InputError

PORT = 2222
"""Port on which workers reach each other."""

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Environment variable that Kubernetes sets in every pod of an indexed Job."""

ATTEMPT_VARIABLE = "RESTART_ATTEMPT"
"""Environment variable: how often JobSet has restarted the group, from the downward API."""

API_VARIABLE = "KUBERNETES_SERVICE_HOST"
"""Environment variable with the API's address, set in every pod."""


def worker_hosts(pattern: str, *, workers: int, port: int) -> list[str]:
    """Returns `host:port` of every worker.

    Args:
      pattern: host name with `{index}` in place of a worker's index.
      workers: number of workers.
      port: port of each worker.

    Raises:
      InputError: an argument is invalid.
    """
    if pattern.count("{index}") != 1:
        raise InputError(f"--host-pattern {pattern} must contain {{index}} once")
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    if not 0 < port < 65536:
        raise InputError(f"--port is {port}; it must be from 1 to 65535")
    return [f"{pattern.replace('{index}', str(index))}:{port}" for index in range(workers)]


def own_index(environment: Mapping[str, str], *, workers: int) -> int:
    """Returns this worker's index.

    Raises:
      InputError: the environment lacks it, or it is too large.
    """
    text = environment.get(INDEX_VARIABLE, "")
    if not text.isdecimal():
        raise InputError(
            f"{INDEX_VARIABLE} is {text!r}; Kubernetes sets it in pods of a Job whose "
            "completionMode is Indexed"
        )
    if int(text) >= workers:
        raise InputError(f"{INDEX_VARIABLE} is {text}, but there are only {workers} workers")
    return int(text)
