"""Writes the graph as YAML that Kubeflow Pipelines takes."""

from __future__ import annotations

import contextlib
import copy
import os

from kfp import compiler

from components.task import container_image
from model.errors import InputError
from pipelines.training import train_language_model


def compile_pipeline(output: str, *, image: str | None = None) -> None:
    """Writes the graph that `charloom run` executes to a YAML file.

    Args:
      output: file to write, ending in .yaml or .yml; an existing one is replaced.
      image: container image of the tasks; by default that of the environment variable
        CHARLOOM_IMAGE, else the one that belongs to this version.

    Raises:
      InputError: `output` has another suffix or can't be written.
    """
    suffix = os.path.splitext(output)[1]
    if suffix not in (".yaml", ".yml"):
        raise InputError(f"the output {output!r} must end in .yaml or .yml")
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise InputError(f"the folder {folder} of the output does not exist; make it first")
    # A copy, as the image is in the graph's spec: components got theirs when imported.
    graph = copy.deepcopy(train_language_model)
    executors = graph.pipeline_spec.deployment_spec["executors"]
    for name in executors:
        executors[name]["container"]["image"] = image or container_image()
    # The compiler looks at the suffix, so the temporary name has it too.
    temporary = f"{os.path.abspath(output).removesuffix(suffix)}.{os.getpid()}.tmp{suffix}"
    try:
        compiler.Compiler().compile(graph, temporary)
        os.replace(temporary, output)
    except OSError as error:
        raise InputError(f"can't write {output} ({error.strerror})") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
