"""Reads what `charloom compile` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

COMMITTED = Path(__file__).resolve().parent.parent / "pipelines" / "train_language_model.yaml"


def read_specs(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the specs of the pipeline and of its platform, Kubernetes."""
    pipeline, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return pipeline, platform["platforms"]["kubernetes"]


def list_tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns all tasks that have a container, those of the branches too."""
    found: dict[str, dict[str, Any]] = {}
    dags = [spec["root"]["dag"]]
    while dags:
        for name, task in dags.pop()["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                dags.append(component["dag"])
            else:
                found[name] = task
    return found


def list_shared(spec: dict[str, Any]) -> dict[str, str]:
    """Returns where each task that shares data expects it."""
    return {
        name: task["inputs"]["parameters"]["shared"]["runtimeValue"]["constant"]
        for name, task in list_tasks(spec).items()
        if "shared" in task["inputs"].get("parameters", {})
    }
