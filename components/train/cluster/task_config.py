"""How the train task uses its `dsl.TaskConfig`: settings of the workers, and a viewer.

KFP passes the task's settings (resources, volumes, tolerations, ...) as fragments of a pod, since
the task itself only launches. No kfp here.
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
"""Field of `dsl.TaskConfig` -> its Kubernetes name."""

_OF_THE_TASK = (RUN_VARIABLE, IMAGE_VARIABLE)
"""Environment variables that workers don't need."""


def pod_fragments(task_config: object) -> dict[str, Any]:
    """Converts a `dsl.TaskConfig` to Kubernetes names, without unset fields."""
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
    """Returns the options for the workers of this run's task.

    Args:
      fragments: result of `pod_fragments`.
      task: name of the task in its run.
      image: container image of the workers; empty: the task's image.
      queue: Kueue's queue; empty: none.
      gpus_per_worker: NVIDIA GPUs per worker.
      deadline_hours: maximum running time, starting over after each restart.

    Raises:
      InputError: a value is out of range, or the pod's environment lacks the run id.
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

    KFP's page of the task uses it to start a TensorBoard, which finds `volume://NAME/PATH` through
    a pod template that mounts the volume NAME.

    Args:
      workdir: the training's folder.
      image: container image that has the program `tensorboard` and no entry point.
      fragments: result of `pod_fragments`.

    Returns:
      None if the workdir is not on a volume with a claim.
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
    """Returns a pod template with read-only access to the volume."""
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
