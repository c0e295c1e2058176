"""k8s/ as kustomize renders it: valid, complete, and fitting the pods that the launcher starts."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kustomize import FOLDERS, K8S, Document, find, pod_templates, render

from components.train.cluster import manifest
from components.train.cluster.manifest import JobSetOptions

VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes."""

BASE = {
    "Namespace charloom",
    "ServiceAccount charloom-launcher",
    "ServiceAccount charloom-worker",
    "ServiceAccount charloom-tensorboard",
    "Role charloom-launcher",
    "Role charloom-worker",
    "RoleBinding charloom-launcher",
    "RoleBinding charloom-worker",
    "PersistentVolumeClaim charloom",
    "Deployment tensorboard",
    "Service tensorboard",
    "NetworkPolicy workers",
    "NetworkPolicy tensorboard",
}
CONTENT = {
    "base": BASE,
    "overlays/cpu-kind": BASE,
    "overlays/gpu": BASE | {"ConfigMap charloom-gpu"},
    "overlays/kueue": BASE | {"LocalQueue training"},
    "overlays/kueue/cluster": {"ResourceFlavor charloom-gpu", "ClusterQueue charloom"},
    "overlays/flink": BASE
    | {
        "ServiceAccount charloom-flink",
        "Role charloom-flink",
        "RoleBinding charloom-flink",
        "FlinkDeployment flink",
        "NetworkPolicy flink",
    },
}


LOADER = K8S / "loader.yaml"

# Valid


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_in_a_folder(folder: str) -> None:
    found = [f"{one['kind']} {one['metadata']['name']}" for one in render(folder)]
    assert len(found) == len(set(found))
    assert set(found) == CONTENT[folder]


def test_every_kustomization_is_tested() -> None:
    found = {str(one.parent.relative_to(K8S)) for one in K8S.rglob("kustomization.yaml")}
    assert found == set(FOLDERS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_are_valid(folder: str, version: str) -> None:
    assert [problem for one in render(folder) for problem in problems(one, version)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_loader_is_valid_and_fits_the_base(version: str) -> None:
    pod = yaml.safe_load(LOADER.read_text("utf-8"))
    assert problems(pod, version) == []
    assert dangling([*render("base"), pod]) == []


def problems(document: Document, version: str) -> list[str]:
    """Returns what is wrong by the schema of a kind; unknown fields are wrong."""
    if document["kind"] in FOREIGN:
        return foreign_problems(document, version)
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
    ) as error:
        return [str(getattr(error, "message", "") or f"no schema of {document['apiVersion']}")]
    return []


def fields(required: str, optional: str = "", **known: Any) -> dict[str, Any]:
    """Returns the schema of an object with these fields and no others."""
    every = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "properties": {name: known.get(name, {}) for name in every},
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
WHOLE = {"type": "integer", "minimum": 0}
QUANTITY = {"anyOf": [WHOLE, {"type": "string", "pattern": r"^[0-9]+(m|[KMGT]i)?$"}]}
QUOTA = fields("name nominalQuota", "borrowingLimit lendingLimit", nominalQuota=QUANTITY)
GROUP = fields(
    "coveredResources flavors",
    flavors={
        "type": "array",
        "items": fields("name resources", resources={"type": "array", "items": QUOTA}),
    },
)
RESOURCE = fields(
    "cpu memory", cpu={"type": "number"}, memory={"type": "string", "pattern": "^[0-9]+[mg]$"}
)
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "LocalQueue": ("kueue.x-k8s.io/v1beta2", fields("clusterQueue", clusterQueue=TEXT)),
    "ResourceFlavor": (
        "kueue.x-k8s.io/v1beta2",
        fields("", "nodeLabels nodeTaints tolerations topologyName", nodeLabels=TEXTS),
    ),
    "ClusterQueue": (
        "kueue.x-k8s.io/v1beta2",
        fields(
            "namespaceSelector resourceGroups",
            "queueingStrategy preemption",
            namespaceSelector=fields("", "matchLabels matchExpressions", matchLabels=TEXTS),
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            preemption=fields(
                "",
                "withinClusterQueue reclaimWithinCohort",
                withinClusterQueue={"enum": ["Never", "LowerPriority"]},
            ),
            resourceGroups={"type": "array", "minItems": 1, "items": GROUP},
        ),
    ),
    "FlinkDeployment": (
        "flink.apache.org/v1beta1",
        fields(
            "image flinkVersion serviceAccount jobManager taskManager",
            "flinkConfiguration podTemplate",
            flinkVersion={"enum": ["v1_19", "v1_20", "v2_0", "v2_1", "v2_2"]},
            flinkConfiguration=TEXTS,
            jobManager=fields("resource", "replicas podTemplate", resource=RESOURCE),
            taskManager=fields("resource", "replicas podTemplate", resource=RESOURCE),
        ),
    ),
}
"""Kind -> apiVersion and spec of what has no published schema here: written by hand from what
these projects document, so weaker than the others."""


def foreign_problems(document: Document, version: str) -> list[str]:
    api_version, schema = FOREIGN[document["kind"]]
    whole = fields("apiVersion kind metadata spec", spec=schema, apiVersion={"const": api_version})
    found = [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(whole).iter_errors(document)
    ]
    if found:
        return found
    for name, template in pod_templates(document).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        found += [f"{name}: {problem}" for problem in problems(pod, version)]
    return found


def at(path: str, value: Any) -> Callable[[Document], None]:
    """Returns a change of one field; numbers in the path are indices."""

    def change(document: Document) -> None:
        part: Any = document
        *parents, last = (int(one) if one.isdigit() else one for one in path.split("/"))
        for one in parents:
            part = part[one]
        part[last] = value

    return change


SLIPS: dict[str, tuple[str, str, Callable[[Document], None]]] = {
    "unknown field": (
        "base",
        "Deployment",
        at("spec/template/spec/containers/0/redinessProbe", {}),
    ),
    "wrong type": ("base", "Service", at("spec/ports/0/port", "6006")),
    "missing field": ("base", "Role", lambda one: one["rules"][0].pop("verbs")),
    "wrong version": ("base", "NetworkPolicy", at("apiVersion", "networking.k8s.io/v1beta1")),
    "Kueue's field": ("overlays/kueue", "LocalQueue", at("spec/cluster_queue", "charloom")),
    "Kueue's version": ("overlays/kueue", "LocalQueue", at("apiVersion", "kueue.x-k8s.io/v1")),
    "Kueue's quota": (
        "overlays/kueue/cluster",
        "ClusterQueue",
        at("spec/resourceGroups/0/flavors/0/resources/1/nominalQuota", "1TB"),
    ),
    "Flink's field": ("overlays/flink", "FlinkDeployment", at("spec/taskmanager", {})),
    "Flink's pod": (
        "overlays/flink",
        "FlinkDeployment",
        at("spec/taskManager/podTemplate/spec/containers/0/port", 50000),
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_found(slip: str) -> None:
    folder, kind, change = SLIPS[slip]
    document = next(one for one in render(folder) if one["kind"] == kind)
    assert problems(document, VERSIONS[-1]) == []
    change(document)
    assert len(problems(document, VERSIONS[-1])) == 1


# Fitting together


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_named_is_there(folder: str) -> None:
    assert dangling(render(folder)) == []


def dangling(documents: Sequence[Document]) -> list[str]:
    """Returns names of accounts, roles and claims that nothing in the folder has."""
    there = {(one["kind"], one["metadata"]["name"]) for one in documents}
    named = set()
    for one in documents:
        if one["kind"] == "RoleBinding":
            named.add((one["roleRef"]["kind"], one["roleRef"]["name"]))
            named |= {(subject["kind"], subject["name"]) for subject in one["subjects"]}
        if one["kind"] == "FlinkDeployment":
            named.add(("ServiceAccount", one["spec"]["serviceAccount"]))
        for template in pod_templates(one).values():
            spec = template["spec"]
            if "serviceAccountName" in spec:
                named.add(("ServiceAccount", spec["serviceAccountName"]))
            for volume in spec.get("volumes", ()):
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    named.add(("PersistentVolumeClaim", claim))
    return sorted(f"{kind} {name}" for kind, name in named - there)


def test_a_name_of_nothing_is_found() -> None:
    documents = render("base")
    find(documents, "RoleBinding", "charloom-worker")["subjects"][0]["name"] = "worker"
    find(documents, "PersistentVolumeClaim")["metadata"]["name"] = "data"
    assert dangling(documents) == ["PersistentVolumeClaim charloom", "ServiceAccount worker"]


def test_the_service_finds_tensorboard() -> None:
    documents = render("base")
    template = find(documents, "Deployment")["spec"]["template"]
    service = find(documents, "Service")["spec"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    assert port["name"] == service["ports"][0]["targetPort"] == "http"
    assert f"--port={port['containerPort']}" in container["command"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"


def test_the_queue_leads_to_the_cluster_s() -> None:
    cluster = render("overlays/kueue/cluster")
    queue = find(cluster, "ClusterQueue")
    local = find(render("overlays/kueue"), "LocalQueue")
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (flavor,) = queue["spec"]["resourceGroups"][0]["flavors"]
    assert flavor["name"] == find(cluster, "ResourceFlavor")["metadata"]["name"]
    covered = queue["spec"]["resourceGroups"][0]["coveredResources"]
    assert [one["name"] for one in flavor["resources"]] == covered
    # All that a worker asks for has to be covered, else Kueue never admits it.
    worker = worker_pod(JobSetOptions(run_id="r", gpus_per_worker=1))["spec"]["containers"][0]
    assert {*worker["resources"]["requests"], *worker["resources"]["limits"]} == set(covered)
    selector = queue["spec"]["namespaceSelector"]["matchLabels"]
    assert selector == {"kubernetes.io/metadata.name": local["metadata"]["namespace"]}


def worker_pod(options: JobSetOptions) -> Document:
    """Returns the template of a worker's pod."""
    jobset = manifest.render(
        options, image="charloom:0.1.0", workers=2, arguments=[], max_restarts=3
    )
    (template,) = pod_templates(jobset).values()
    return template


def test_the_gpu_settings_are_parameters_of_a_run() -> None:
    from pipelines.graph import train_language_model

    data = find(render("overlays/gpu"), "ConfigMap")["data"]
    inputs = train_language_model.pipeline_spec.root.input_definitions.parameters
    assert set(data) <= set(inputs)
    assert int(data["worker_gpus"]) == 1
    (selector,) = json.loads(data["worker_node_selector"]).items()
    # The example's queue gives the same nodes, which all have the taint that runs tolerate.
    flavor = find(render("overlays/kueue/cluster"), "ResourceFlavor")["spec"]
    assert dict([selector]) == flavor["nodeLabels"]
    worker = find(render("overlays/gpu"), "NetworkPolicy", "workers")["spec"]["podSelector"]
    assert (
        worker["matchLabels"].items()
        <= worker_pod(JobSetOptions(run_id="r"))["metadata"]["labels"].items()
    )
    assert data["worker_image"].rpartition(":")[2] == importlib.metadata.version("charloom")


# In another namespace, as the README says


def move(tmp_path: Path, text: str) -> list[Document]:
    """Renders a kustomization that lies outside of the repository."""
    text = text.replace("../charloom/k8s", os.path.relpath(K8S, tmp_path.resolve()))
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    return render(tmp_path.resolve())


def readme_example() -> str:
    """Returns the README's kustomization for a profile's namespace."""
    blocks = re.findall(r"```yaml\n(.*?)```", (K8S / "README.md").read_text("utf-8"), re.DOTALL)
    (block,) = (one for one in blocks if "kind: Kustomization" in one)
    return str(block)


def test_the_example_for_a_profile(tmp_path: Path) -> None:
    documents = move(tmp_path, readme_example())
    assert [problem for one in documents for problem in problems(one, VERSIONS[-1])] == []
    assert "Namespace" not in {one["kind"] for one in documents}  # it is the profile's
    assert {one["metadata"]["namespace"] for one in documents} == {"team-a"}
    subjects = find(documents, "RoleBinding", "charloom-launcher")["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team-a"}]
    claim = find(documents, "PersistentVolumeClaim")["spec"]
    assert claim["storageClassName"] == "nfs-csi"
    assert claim["accessModes"] == ["ReadWriteMany"]
    (container,) = find(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/ml/charloom:0.1.0"


@pytest.mark.parametrize("folder", ["base", "overlays/gpu", "overlays/kueue", "overlays/flink"])
def test_everything_moves_to_another_namespace(folder: str, tmp_path: Path) -> None:
    header = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    documents = move(tmp_path, f"{header}namespace: other\nresources: [../charloom/k8s/{folder}]\n")
    text = yaml.safe_dump_all(copy.deepcopy(documents))
    assert "namespace: charloom" not in text
    assert {one["metadata"].get("namespace", "other") for one in documents} == {"other"}


def test_kind_s_volume_can_be_had_there() -> None:
    claim = find(render("overlays/cpu-kind"), "PersistentVolumeClaim")["spec"]
    assert claim == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "standard",
        "resources": {"requests": {"storage": "5Gi"}},
    }
