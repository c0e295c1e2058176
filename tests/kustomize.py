"""Renders k8s/ as `kubectl apply -k` does, and finds what is in it."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from surroundings import lacking

K8S = Path(__file__).resolve().parents[1] / "k8s"

FOLDERS = (
    "base",
    "overlays/cpu-kind",
    "overlays/flink",
    "overlays/gpu",
    "overlays/kueue",
    "overlays/kueue/cluster",
)
"""All that can be applied."""

MIN_KUSTOMIZE = 5
"""Major version; older ones do not know `labels:`."""

Document = dict[str, Any]


def render(folder: str | Path) -> list[Document]:
    """Returns the objects of a folder below k8s/, or of any other."""
    return copy.deepcopy(_render(str(K8S / folder)))


@functools.cache
def _render(folder: str) -> list[Document]:
    text = subprocess.run(
        [_kubectl(), "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert text.returncode == 0, text.stderr
    return list(yaml.safe_load_all(text.stdout))


@functools.cache
def _kubectl() -> str:
    program = shutil.which("kubectl")
    if not program:
        lacking("there is no kubectl on the PATH")
    version = subprocess.run(
        [program, "version", "--client"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"Kustomize Version: v(\d+)", version)
    if not found or int(found[1]) < MIN_KUSTOMIZE:
        pytest.skip(f"kubectl on the PATH is too old, its kustomize is below {MIN_KUSTOMIZE}")
    return program


def find(documents: Sequence[Document], kind: str, name: str = "") -> Document:
    """Returns the one object of a kind (and name)."""
    (found,) = (
        one for one in documents if one["kind"] == kind and name in ("", one["metadata"]["name"])
    )
    return found


def pod_templates(document: Document) -> dict[str, Document]:
    """Returns where -> metadata and spec of every pod that an object leads to."""
    kind, spec = document["kind"], document.get("spec", {})
    where = f"{kind} {document['metadata']['name']}"
    if kind == "Pod":
        return {where: document}
    if kind == "Deployment":
        return {where: spec["template"]}
    if kind == "JobSet":
        return {
            f"{where} {job['name']}": job["template"]["spec"]["template"]
            for job in spec["replicatedJobs"]
        }
    if kind == "FlinkDeployment":
        common = spec.get("podTemplate", {})
        return {
            f"{where} {part}": _merge(common, spec[part].get("podTemplate", {}))
            for part in ("jobManager", "taskManager")
        }
    assert "template" not in spec, f"{where} has pods that this function does not know"
    return {}


def _merge(base: Any, over: Any) -> Any:
    """Returns what Flink's operator makes of two pod templates: lists are joined by name."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {
            key: _merge(base[key], over[key])
            if key in base and key in over
            else copy.deepcopy(over.get(key, base.get(key)))
            for key in {**base, **over}
        }
    if isinstance(base, list) and isinstance(over, list):
        named = {one["name"]: one for one in base}
        added = {one["name"]: one for one in over}
        return list(_merge(named, added).values())
    return copy.deepcopy(over)
