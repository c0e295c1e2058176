"""Compiles the graph to YAML for Kubeflow Pipelines."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components.component_runtime import IMAGE_VARIABLE, container_image
from model.errors import InputError
from model.files import scratch_folder, write_whole
from pipelines.graph import build, train_language_model


def compile_pipeline(
    output: str, *, image: str | None = None, workspace: str = "", storage_class: str = ""
) -> None:
    """Writes the graph that `charloom run` executes to a YAML file.

    Args:
      output: file to write, ending in .yaml or .yml; an existing one is replaced.
      image: container image of the tasks; default: the environment variable CHARLOOM_IMAGE, or the
        image that belongs to this version.
      workspace: size of the volume that KFP creates for each run's data; empty: the data is on the
        claim given to the run.
      storage_class: storage class of that volume; empty: the cluster's default.

    Raises:
      InputError: `output` has another suffix or can't be written, or another argument is wrong.
    """
    suffix = os.path.splitext(output)[1]
    if suffix not in (".yaml", ".yml"):
        raise InputError(f"the output {output!r} must end in .yaml or .yml")
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise InputError(f"the folder {folder} of the output does not exist; make it first")
    graph = _with_image(
        _graph(workspace, storage_class), container_image() if image is None else image
    )
    try:
        with scratch_folder() as scratch:
            package = Path(scratch, f"pipeline{suffix}")
            compiler.Compiler().compile(graph, str(package))
            write_whole(output, package.read_bytes())
    except OSError as error:
        raise InputError(f"can't write {output} ({error.strerror})") from None


def _graph(workspace: str, storage_class: str) -> Any:
    """Returns the graph; with `workspace`, its runs keep their data on a volume created by KFP."""
    if not workspace:
        if storage_class:
            raise InputError("--storage-class has no effect without --workspace; give its size")
        return train_language_model
    # The workers are on several nodes, and the steps may be on others.
    claim: dict[str, Any] = {"accessModes": ["ReadWriteMany"]}
    if storage_class:
        claim["storageClassName"] = storage_class
    kubernetes = dsl.KubernetesWorkspaceConfig(pvcSpecPatch=claim)
    try:
        return build(dsl.WorkspaceConfig(workspace, kubernetes=kubernetes))
    except ValueError:
        raise InputError(f"--workspace {workspace} is not a size; write it as 50Gi") from None


def check_image(image: str, *, name: str) -> None:
    """Raises InputError if an image has no version; `name` says whose it is."""
    tag = re.search(r":([^@/]+)", image.rpartition("/")[2])
    if not image.strip() or not ("@sha256:" in image or (tag and tag[1] != "latest")):
        raise InputError(
            f"{name} {image!r} has no version, so runs would not record what they ran; "
            "use a tag other than latest, or a digest"
        )


def _with_image(graph: Any, image: str) -> Any:
    """Returns a copy of the graph with another image: components got theirs on import.

    Raises:
      InputError: the image has no version.
    """
    check_image(image, name="the image")
    graph = copy.deepcopy(graph)
    executors = graph.pipeline_spec.deployment_spec["executors"]
    for name in executors:
        container = executors[name]["container"]
        container["image"] = image
        for variable in container.get_or_create_list("env") if "env" in container else ():
            if variable["name"] == IMAGE_VARIABLE:
                variable["value"] = image
    return graph
