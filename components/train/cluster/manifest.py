"""The JobSet of a worker group, rendered as a pure function of the arguments.

JobSet (https://jobset.sigs.k8s.io, v1alpha2) restarts all workers when one is lost, which
synchronous training needs, and gives every pod a predictable host name:
`<jobset>-worker-0-<index>.<jobset>`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.train.cluster.pod import ATTEMPT_VARIABLE, PORT
from model.errors import ENDINGS, InputError, Restart

API_GROUP, API_VERSION, PLURAL = "jobset.x-k8s.io", "v1alpha2", "jobsets"

WORKER = "worker"
"""Name of the replicated job and of the container."""

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
ATTEMPT_LABEL = "jobset.sigs.k8s.io/restart-attempt"
RUN_LABEL = "charloom.dev/run-id"
WORKERS_ANNOTATION = "charloom.dev/workers"

GPU_RESOURCE = "nvidia.com/gpu"

MAX_NAME = 42
"""Keeps the longest pod name, `<jobset>-worker-0-<index>-<5 letters>`, within 63 characters."""

SERVICE_ACCOUNT = "charloom-worker"
"""Service account of the workers; only needs to read leases."""

KEPT_SECONDS = 86400
"""How long to keep a finished JobSet and its pods."""

GRACE_SECONDS = 120
"""Minimum time for a worker that is asked to stop to save and end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSetOptions:
    """Where and how a worker group runs on a cluster."""

    run_id: str
    """KFP's run id."""
    task: str = "train"
    """Name of the task in its run; must differ for each training of a loop."""
    image: str = ""
    """Container image of the workers; empty: the image of the launcher's pod."""
    queue: str = ""
    """Kueue's LocalQueue that admits the group; empty: none."""
    gpus_per_worker: int = 0
    """NVIDIA GPUs per worker; a limit set on the task takes precedence."""
    deadline_hours: float = 72.0
    """Maximum running time of a training."""
    lease_seconds: int = 30
    """Workers end if the lease is not renewed for this long."""
    task_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the KFP task, as fragments of a pod: resources, env, volumes, volumeMounts,
    nodeSelector, tolerations, affinity."""

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          InputError: a value is out of range.
        """
        if self.gpus_per_worker < 0:
            raise InputError(f"gpus_per_worker is {self.gpus_per_worker}; it must be at least 0")
        for field in ("deadline_hours", "lease_seconds"):
            if getattr(self, field) <= 0:
                raise InputError(f"{field} is {getattr(self, field)}; it must be more than 0")


def jobset_name(run_id: str, task: str) -> str:
    """Returns the JobSet name for a task of a run: the same for every retry.

    It is a DNS label (RFC 1035) of at most `MAX_NAME` characters.
    """
    plain = f"{task}-{run_id}".lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not re.match("[a-z]", name):
        name = f"train-{name}"
    if name == plain and len(name) <= MAX_NAME:
        return name
    digest = hashlib.blake2b(f"{task}\0{run_id}".encode(), digest_size=5).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def host_pattern(name: str) -> str:
    """Returns the host name of a JobSet's workers, with `{index}` in place of the rank."""
    return f"{name}-{WORKER}-0-{{index}}.{name}"


def owner_reference(jobset: Mapping[str, Any]) -> dict[str, str]:
    """Returns the reference to a JobSet from what is to be removed with it."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "JobSet",
        "name": jobset["metadata"]["name"],
        "uid": jobset["metadata"]["uid"],
    }


def render(
    options: JobSetOptions,
    *,
    image: str,
    workers: int,
    arguments: Sequence[str],
    max_restarts: int,
    grace_seconds: int = GRACE_SECONDS,
    owner: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the JobSet for the API.

    Args:
      options: where and how it runs.
      image: container image of the workers.
      workers: number of pods.
      arguments: arguments of `python -m components.train.worker`; differences between workers are
        in their environment.
      max_restarts: maximum restarts of all workers after a failure of one.
      grace_seconds: how long a worker may take to save and end.
      owner: reference to the launcher's pod; the JobSet is removed with it.

    Raises:
      InputError: `workers` is less than 1, or too many for the names.
    """
    name = jobset_name(options.run_id, options.task)
    if not 1 <= workers <= 999:
        raise InputError(f"workers is {workers}; it must be from 1 to 999")
    metadata: dict[str, Any] = {
        "name": name,
        "labels": _labels(options),
        "annotations": {WORKERS_ANNOTATION: str(workers)},
    }
    if options.queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = options.queue
    if owner:
        metadata["ownerReferences"] = [dict(owner)]
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": _failure_policy(max_restarts),
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": [WORKER]},
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "replicatedJobs": [
                {
                    "name": WORKER,
                    "replicas": 1,
                    "template": {
                        "spec": _job(options, name, image, workers, arguments, grace_seconds)
                    },
                }
            ],
        },
    }


def _labels(options: JobSetOptions) -> dict[str, str]:
    labels = {
        "app.kubernetes.io/name": "charloom",
        "app.kubernetes.io/component": WORKER,
    }
    run = re.sub(r"[^A-Za-z0-9_.-]+", "-", options.run_id)[:63].strip("-_.")
    return labels | ({RUN_LABEL: run} if run else {})


def _failure_policy(max_restarts: int) -> dict[str, Any]:
    """Translates `ENDINGS` to JobSet rules.

    JobSet's message contains the code: "... failed with exit code 2 matching FailJob rule ...".
    """
    policy = "PodFailurePolicy"
    return {
        "maxRestarts": max_restarts,
        # Host names are reused, so no old pod may remain when new ones start.
        "restartStrategy": "BlockingRecreate",
        "rules": [
            *(
                {
                    "name": ending.rule,
                    "action": "FailJobSet",
                    "onJobFailureReasons": [policy],
                    "onJobFailureMessagePatterns": [f"exit code {ending.code} "],
                }
                for ending in ENDINGS
                if ending.rule
            ),
            {
                "name": "deadline",
                "action": "FailJobSet",
                "onJobFailureReasons": ["DeadlineExceeded"],
            },
            {
                "name": "stoppedOrDisrupted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": [policy],
            },
        ],
    }


def _job(
    options: JobSetOptions,
    name: str,
    image: str,
    workers: int,
    arguments: Sequence[str],
    grace_seconds: int,
) -> dict[str, Any]:
    uncounted = {one.code for one in ENDINGS if one.cluster is Restart.UNCOUNTED}
    codes = sorted(uncounted | {one.code for one in ENDINGS if one.rule})
    return {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        "backoffLimit": 0,  # the JobSet handles a lost worker by restarting all
        "activeDeadlineSeconds": round(options.deadline_hours * 3600),
        "podFailurePolicy": {
            "rules": [
                *(
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": WORKER,
                            "operator": "In",
                            "values": [code],
                        },
                    }
                    for code in codes
                ),
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {
            "metadata": {
                "labels": _labels(options),
                "annotations": {"sidecar.istio.io/inject": "false"},
            },
            "spec": _pod(options, name, image, workers, arguments)
            | {"terminationGracePeriodSeconds": grace_seconds},
        },
    }


def _pod(
    options: JobSetOptions, name: str, image: str, workers: int, arguments: Sequence[str]
) -> dict[str, Any]:
    given = options.task_config
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": SERVICE_ACCOUNT,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(options, name, image, workers, arguments)],
        "volumes": [
            {"name": "charloom-tmp", "emptyDir": {}},
            # NCCL and TensorFlow use shared memory here; the default of 64 MiB is too small.
            {"name": "charloom-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            *(given.get("volumes") or []),
        ],
    }
    for field in ("nodeSelector", "tolerations", "affinity"):
        if given.get(field):
            pod[field] = given[field]
    return pod


def _container(
    options: JobSetOptions, name: str, image: str, workers: int, arguments: Sequence[str]
) -> dict[str, Any]:
    given = options.task_config
    command = ["python", "-m", "components.train.worker", *arguments]
    command += ["--host-pattern", host_pattern(name), "--workers", str(workers)]
    command += ["--port", str(PORT)]
    command += ["--lease", name, "--lease-seconds", str(options.lease_seconds)]
    resources = _resources(options)
    if GPU_RESOURCE in resources["limits"]:
        command += ["--gpus", resources["limits"][GPU_RESOURCE]]
    attempt = f"metadata.labels['{ATTEMPT_LABEL}']"
    return {
        "name": WORKER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [
            *(given.get("env") or []),
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "TF_CPP_MIN_LOG_LEVEL", "value": "1"},
            {"name": "HOME", "value": "/tmp"},
            _downward("POD_NAMESPACE", "metadata.namespace"),
            _downward(ATTEMPT_VARIABLE, attempt),
        ],
        "ports": [{"name": "tensorflow", "containerPort": PORT}],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "charloom-tmp", "mountPath": "/tmp"},
            {"name": "charloom-shm", "mountPath": "/dev/shm"},
            *(given.get("volumeMounts") or []),
        ],
    }


def _downward(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _resources(options: JobSetOptions) -> dict[str, Any]:
    """Returns the task's resources, or else modest requests; adds GPUs to either."""
    given = options.task_config.get("resources") or {}
    limits = {name: str(amount) for name, amount in (given.get("limits") or {}).items()}
    requests = {name: str(amount) for name, amount in (given.get("requests") or {}).items()}
    if options.gpus_per_worker:
        limits.setdefault(GPU_RESOURCE, str(options.gpus_per_worker))
    for resource, amount in (("cpu", "2"), ("memory", "8Gi")):
        requests.setdefault(resource, limits.get(resource, amount))
    limits.setdefault("memory", requests["memory"])
    return {"limits": limits, "requests": requests}
