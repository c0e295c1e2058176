"""What every pod and every role of ours has to keep to, and that a breach is found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from kustomize import FOLDERS, K8S, Document, find, pod_templates, render
from test_components_train_cluster_manifest import CASES, IMAGE

from components.train.cluster import manifest

OPERATED = "flink-main-container"
"""Container whose image and resources Flink's operator sets, from the FlinkDeployment."""

NEEDS_TOKEN = {"charloom-worker", "charloom-flink"}
"""Service accounts of pods that call the API server."""


def jobsets() -> list[Document]:
    """Returns what the launcher creates."""
    return [
        manifest.render(options, image=IMAGE, workers=workers, arguments=[], max_restarts=3)
        for workers, options in CASES.values()
    ]


# Pods


def breaches(document: Document) -> list[str]:
    """Returns what the pods of an object do that they must not."""
    found = []
    for template in pod_templates(document).values():
        spec = template["spec"]
        found += pod_breaches(spec, account_of(document, spec))
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            name = container["name"]
            found += [f"{name}: {one}" for one in container_breaches(spec, container)]
            if name != OPERATED:
                found += [f"{name}: {one}" for one in resource_breaches(container)]
    if document["kind"] == "FlinkDeployment":
        found += image_breaches(document["spec"]["image"])
    return found


def account_of(document: Document, spec: Document) -> str:
    if document["kind"] == "FlinkDeployment":
        return str(document["spec"]["serviceAccount"])
    return str(spec.get("serviceAccountName", "default"))


def pod_breaches(spec: Document, account: str) -> list[str]:
    found = [
        f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)
    ]
    allowed = {"name", "emptyDir", "persistentVolumeClaim", "configMap", "projected", "downwardAPI"}
    for volume in spec.get("volumes", ()):
        found += [f"volume of type {kind}" for kind in sorted(set(volume) - allowed)]
    if account == "default":
        found.append("runs as the service account default")
    if account not in NEEDS_TOKEN and spec.get("automountServiceAccountToken") is not False:
        found.append("has a token that it does not need")
    if spec.get("enableServiceLinks") is not False:
        found.append("gets the addresses of all services in its environment")
    return found


def container_breaches(spec: Document, container: Document) -> list[str]:
    context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    checks = {
        "may run as root": context.get("runAsNonRoot") is not True,
        "has no fixed user, or root": not context.get("runAsUser"),
        "may gain privileges": context.get("allowPrivilegeEscalation") is not False,
        "is privileged": bool(context.get("privileged")),
        "keeps capabilities": context.get("capabilities") != {"drop": ["ALL"]},
        "has no seccomp profile": context.get("seccompProfile") != {"type": "RuntimeDefault"},
        "writes to its image": context.get("readOnlyRootFilesystem") is not True,
        "has no /tmp": "/tmp" not in {one["mountPath"] for one in container["volumeMounts"]},
        "takes a port of the node": any("hostPort" in one for one in container.get("ports", ())),
    }
    return [message for message, wrong in checks.items() if wrong]


def resource_breaches(container: Document) -> list[str]:
    found = image_breaches(container["image"])
    resources = container.get("resources", {})
    wanted = {"requests": ("cpu", "memory"), "limits": ("memory",)}
    for field, names in wanted.items():
        given = resources.get(field, {})
        found += [f"has no {field} of {name}" for name in names if name not in given]
    return found


def image_breaches(image: str) -> list[str]:
    tag = image.rpartition("/")[2].partition(":")[2]
    return [f"image {image} has no fixed tag"] if tag in ("", "latest") else []


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_of_the_manifests_keep_to_the_policy(folder: str) -> None:
    documents = render(folder)
    assert [one for document in documents for one in breaches(document)] == []
    pods = sum(len(pod_templates(document)) for document in documents)
    expected = {"overlays/kueue/cluster": 0, "overlays/flink": 3}
    assert pods == expected.get(folder, 1)


def test_pods_of_the_launcher_keep_to_the_policy() -> None:
    assert [one for document in jobsets() for one in breaches(document)] == []


def test_the_loader_keeps_to_the_policy() -> None:
    assert breaches(yaml.safe_load((K8S / "loader.yaml").read_text("utf-8"))) == []


def test_every_flink_pod_has_limits() -> None:
    spec = find(render("overlays/flink"), "FlinkDeployment")["spec"]
    assert set(spec["jobManager"]["resource"]) == set(spec["taskManager"]["resource"])
    assert set(spec["jobManager"]["resource"]) == {"cpu", "memory"}


Change = Callable[[dict[str, Any], dict[str, Any]], Any]
"""Of a pod's spec and of its first container."""

BREACHES: dict[str, Change] = {
    "hostNetwork is set": lambda pod, _: pod.update(hostNetwork=True),
    "hostPID is set": lambda pod, _: pod.update(hostPID=True),
    "volume of type hostPath": lambda pod, _: pod["volumes"].append(
        {"name": "root", "hostPath": {"path": "/"}}
    ),
    "volume of type secret": lambda pod, _: pod["volumes"].append(
        {"name": "key", "secret": {"secretName": "key"}}
    ),
    "runs as the service account default": lambda pod, _: pod.pop("serviceAccountName"),
    "has a token that it does not need": lambda pod, _: pod.update(
        automountServiceAccountToken=True, serviceAccountName="other"
    ),
    "gets the addresses of all services in its environment": lambda pod, _: pod.pop(
        "enableServiceLinks"
    ),
    "may run as root": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "has no fixed user, or root": lambda pod, _: pod["securityContext"].update(runAsUser=0),
    "has no seccomp profile": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "may gain privileges": lambda _, one: one["securityContext"].pop("allowPrivilegeEscalation"),
    "is privileged": lambda _, one: one["securityContext"].update(privileged=True),
    "keeps capabilities": lambda _, one: one["securityContext"]["capabilities"].update(
        add=["SYS_ADMIN"]
    ),
    "writes to its image": lambda _, one: one["securityContext"].update(
        readOnlyRootFilesystem=False
    ),
    "has no /tmp": lambda _, one: one.update(volumeMounts=[]),
    "takes a port of the node": lambda _, one: one["ports"][0].update(hostPort=80),
    "has no requests of cpu": lambda _, one: one["resources"]["requests"].pop("cpu"),
    "has no limits of memory": lambda _, one: one["resources"]["limits"].pop("memory"),
    "image charloom has no fixed tag": lambda _, one: one.update(image="charloom"),
    "image a.b:5000/charloom has no fixed tag": lambda _, one: one.update(
        image="a.b:5000/charloom"
    ),
    "image charloom:latest has no fixed tag": lambda _, one: one.update(image="charloom:latest"),
}


@pytest.mark.parametrize("kind", ["Deployment", "JobSet"])
@pytest.mark.parametrize("message", BREACHES)
def test_a_breach_is_found(message: str, kind: str) -> None:
    document = copy.deepcopy(find([*render("base"), jobsets()[0]], kind))
    (template,) = pod_templates(document).values()
    BREACHES[message](template["spec"], template["spec"]["containers"][0])
    found = [one.rpartition(": ")[2] if "image" not in one else one for one in breaches(document)]
    assert any(one.endswith(message) for one in found)
    assert len(found) <= 2  # the account default has a token, too


def test_a_second_container_is_looked_at() -> None:
    document = find(render("overlays/flink"), "FlinkDeployment")
    (beam,) = document["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    del beam["securityContext"]["readOnlyRootFilesystem"]
    assert breaches(document) == ["beam: writes to its image"]


# Roles

RULES = {
    "charloom-launcher": {
        "jobset.x-k8s.io jobsets": "create get patch delete",
        " pods": "get list",
        " pods/log": "get",
        "coordination.k8s.io leases": "create get update",
        "networking.k8s.io networkpolicies": "create",
    },
    "charloom-worker": {"coordination.k8s.io leases": "get"},
    "charloom-flink": {
        " pods": "create get list watch delete",
        " configmaps": "get list watch",
        " services": "get list watch",
        "apps deployments": "get list watch",
    },
}


def rules(role: Document) -> dict[str, str]:
    """Returns group and resource -> verbs."""
    assert all(set(one) == {"apiGroups", "resources", "verbs"} for one in role["rules"])
    return {
        f"{group} {resource}": " ".join(one["verbs"])
        for one in role["rules"]
        for group in one["apiGroups"]
        for resource in one["resources"]
    }


def role_breaches(documents: Sequence[Document]) -> list[str]:
    """Returns what roles allow beyond `RULES`, and what reaches beyond the namespace."""
    found = []
    for one in documents:
        name = one["metadata"]["name"]
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            found.append(f"{one['kind']} {name}")
        if one["kind"] == "Role" and rules(one) != RULES.get(name):
            found.append(f"Role {name} allows {rules(one)}")
        if one["kind"] == "RoleBinding":
            account = {"kind": "ServiceAccount", "name": name}
            namespace = one["metadata"]["namespace"]
            if one["roleRef"]["name"] != name or one["subjects"] != [
                account | {"namespace": namespace}
            ]:
                found.append(f"RoleBinding {name} gives a role to others")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_roles_allow_what_is_needed_only(folder: str) -> None:
    documents = render(folder)
    assert role_breaches(documents) == []
    assert not {one["kind"] for one in documents} & {"Secret", "ClusterRole", "ClusterRoleBinding"}


def test_a_role_that_allows_more_is_found() -> None:
    def broken(kind: str, change: Callable[[Document], Any]) -> int:
        documents = render("base")
        change(find(documents, kind, "charloom-worker"))
        return len(role_breaches(documents))

    assert broken("Role", lambda one: None) == 0
    assert broken("Role", lambda one: one["rules"][0].update(verbs=["*"])) == 1
    assert broken("Role", lambda one: one["rules"][0].update(resources=["*"])) == 1
    assert broken("Role", lambda one: one["rules"][0]["verbs"].append("delete")) == 1
    assert broken("Role", lambda one: one.update(kind="ClusterRole")) == 1
    assert broken("RoleBinding", lambda one: one["roleRef"].update(name="charloom-launcher")) == 1
    group = {"kind": "Group", "name": "system:authenticated"}
    assert broken("RoleBinding", lambda one: one["subjects"].append(group)) == 1


@pytest.mark.parametrize("folder", [one for one in FOLDERS if one != "overlays/kueue/cluster"])
def test_the_namespace_refuses_other_pods(folder: str) -> None:
    labels = find(render(folder), "Namespace")["metadata"]["labels"]
    modes = ("enforce", "audit", "warn")
    assert [labels[f"pod-security.kubernetes.io/{mode}"] for mode in modes] == ["restricted"] * 3


def test_tensorboard_reads_only() -> None:
    (container,) = find(render("base"), "Deployment")["spec"]["template"]["spec"]["containers"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "charloom")
    assert mount == {"name": "charloom", "mountPath": "/mnt/charloom", "readOnly": True}
