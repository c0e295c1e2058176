"""What the train task does with its `dsl.TaskConfig`: settings of the workers, and a viewer.

KFP hands the task what it was given (resources, volumes, tolerations, ...) as fragments of a
pod, as the task itself only launches. No kfp in here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from components.component_runtime import IMAGE_VARIABLE, RUN_VARIABLE, run_id
from components.train.cluster.manifest import JobSetOptions

LOGDIR = "tensorboard"
"""Folder of event files in a workdir."""

FIELDS = {
    "resources": "resources",
    "env": "env",
    "volumes": "volumes",
    "volume_mounts": "volumeMounts",
    "node_selector": "nodeSelector",
    "tolerations": "tolerations",
    "affinity": "affinity",
}
"""Field of `dsl.TaskConfig` -> its name in Kubernetes' spelling."""

_OF_THE_TASK = (RUN_VARIABLE, IMAGE_VARIABLE)
"""Environment variables that mean nothing to a worker."""


def pod_fragments(task_config: object) -> dict[str, Any]:
    """Returns a `dsl.TaskConfig` in Kubernetes' spelling, without what is not set."""
    given = {name: getattr(task_config, field, None) for field, name in FIELDS.items()}
    if given["env"]:
        given["env"] = [one for one in given["env"] if one.get("name") not in _OF_THE_TASK]
    return {name: value for name, value in given.items() if value}


def jobset_options(
    fragments: Mapping[str, Any],
    *,
    task: str,
    image: str,
    queue: str,
    gpus_per_worker: int,
    deadline_hours: float,
) -> JobSetOptions:
    """Returns where and how the workers of this run's task run.

    Args:
      fragments: what `pod_fragments` returned.
      task: name of the task in its run.
      image: container image of the workers; empty: that of the task.
      queue: Kueue's queue; empty: none.
      gpus_per_worker: NVIDIA GPUs of each worker.
      deadline_hours: how long they may run, counted anew after each restart.

    Raises:
      InputError: a value out of its range, or the pod does not tell the run's id.
    """
    return JobSetOptions(
        run_id=run_id(),
        task=task,
        image=image,
        queue=queue,
        gpus_per_worker=gpus_per_worker,
        deadline_hours=deadline_hours,
        task_config=fragments,
    )


def describe_viewer(
    workdir: str, *, image: str, fragments: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the content of an output named `mlpipeline_ui_metadata`, or None.

    From it, KFP's page of the task starts a TensorBoard. It knows `volume://NAME/PATH` by a
    pod template that mounts the volume NAME.

    Args:
      workdir: the training's folder.
      image: container image that has the program `tensorboard` and no entry point.
      fragments: what `pod_fragments` returned.

    Returns:
      None if no claim among the volumes holds the workdir.
    """
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in fragments.get("volumes", ())
        if volume.get("persistentVolumeClaim")
    }
    logdir = os.path.join(os.path.abspath(workdir), LOGDIR)
    for mount in fragments.get("volumeMounts", ()):
        name, path = mount["name"], os.path.abspath(mount["mountPath"])
        if name in claims and not mount.get("subPath") and logdir.startswith(f"{path}/"):
            viewer = {
                "type": "tensorboard",
                "source": f"volume://{name}/{os.path.relpath(logdir, path)}",
                "image": image,
                "pod_template_spec": _viewer_pod(name, claim=claims[name], path=path),
            }
            return {"version": 1, "outputs": [viewer]}
    return None


def _viewer_pod(name: str, *, claim: str, path: str) -> dict[str, Any]:
    """Returns a pod template that may look at the volume, and no more."""
    container = {
        "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": name, "persistentVolumeClaim": {"claimName": claim}}],
            "containers": [container],
        }
    }
