"""The roles of k8s/base in a real API server: what they allow, and that they refuse the rest."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from envtest import ControlPlane, control_plane, eventually
from envtest_cluster import NAMESPACE, Cluster, Kubelet, apply_base
from envtest_launcher import Launcher, Process, renewed
from kubernetes.client import ApiException

from components.train.cluster.manifest import jobset_name

pytestmark = [pytest.mark.envtest, pytest.mark.slow]

ELSEWHERE = "elsewhere"
RUN = "0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
NAME = jobset_name(RUN, "train")

NEEDED: dict[str, dict[str, set[str]]] = {
    "charloom-launcher": {
        "jobsets": {"create", "get", "patch", "delete"},
        "pods": {"get", "list"},
        "pods/log": {"get"},
        "leases": {"create", "get", "update"},
        "networkpolicies": {"create"},
    },
    "charloom-worker": {"leases": {"get"}},
    "charloom-tensorboard": {},
}
"""Service account -> resource -> what it has to do with it; all else must be refused."""

GROUPS = {
    "jobsets": "jobset.x-k8s.io/v1alpha2",
    "jobsets/status": "jobset.x-k8s.io/v1alpha2",
    "leases": "coordination.k8s.io/v1",
    "pods": "v1",
    "pods/log": "v1",
    "pods/exec": "v1",
    "pods/status": "v1",
    "pods/ephemeralcontainers": "v1",
    "secrets": "v1",
    "configmaps": "v1",
    "events": "v1",
    "services": "v1",
    "persistentvolumeclaims": "v1",
    "serviceaccounts": "v1",
    "serviceaccounts/token": "v1",
    "jobs": "batch/v1",
    "deployments": "apps/v1",
    "networkpolicies": "networking.k8s.io/v1",
    "roles": "rbac.authorization.k8s.io/v1",
    "rolebindings": "rbac.authorization.k8s.io/v1",
}
METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "deletecollection": "DELETE",
}
ON_ALL = ("list", "watch", "create", "deletecollection")
"""What is done to a collection, not to one object."""
ON_PARTS = ("get", "create", "update", "patch", "delete")
"""What a request can ask of a subresource."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        apply_base(plane)
        Cluster(plane).core.create_namespace({"metadata": {"name": ELSEWHERE}})
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Cluster:
    return Cluster(plane, namespace=NAMESPACE)


# What may be done


@pytest.mark.parametrize("account", NEEDED)
def test_the_rules_of_an_account_are_what_it_needs(account: str, plane: ControlPlane) -> None:
    """The server itself lists what an account may do; all accounts may ask for that list."""
    nobody = rules_of(plane, "nobody")
    assert nobody <= rules_of(plane, account)
    assert rules_of(plane, account) - nobody == {
        (GROUPS[resource].rpartition("/")[0], resource, verb)
        for resource, verbs in NEEDED[account].items()
        for verb in verbs
    }


def rules_of(plane: ControlPlane, account: str) -> set[tuple[str, str, str]]:
    """Returns group, resource and verb of all that an account may do in the namespace."""
    core = kubernetes.client.CoreV1Api(plane.client())
    if account == "nobody" and account not in _names(
        core.list_namespaced_service_account(NAMESPACE)
    ):
        core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": account}})
    reviews = kubernetes.client.AuthorizationV1Api(plane.client(plane.token(NAMESPACE, account)))
    body = {"spec": {"namespace": NAMESPACE}}
    status = reviews.create_self_subject_rules_review(body).status
    assert not status.incomplete
    return {
        (group, resource if not one.resource_names else f"{resource}:{one.resource_names}", verb)
        for one in status.resource_rules
        for group in one.api_groups
        for resource in one.resources
        for verb in one.verbs
    }


def _names(answer: Any) -> list[str]:
    return [one.metadata.name for one in answer.items]


@pytest.mark.parametrize("namespace", [NAMESPACE, ELSEWHERE])
@pytest.mark.parametrize("account", NEEDED)
def test_every_request_is_allowed_or_refused_as_it_should_be(
    account: str, namespace: str, plane: ControlPlane
) -> None:
    client = plane.client(plane.token(NAMESPACE, account))
    wrong = []
    for resource in GROUPS:
        for verb in ON_PARTS if "/" in resource else METHODS:
            needed = namespace == NAMESPACE and verb in NEEDED[account].get(resource, ())
            allowed = is_allowed(client, namespace, resource, verb)
            code = status_of_request(client, namespace, resource, verb)
            if (allowed, code != 403) != (needed, needed) or code == 401:
                wrong.append((resource, verb, needed, allowed, code))
    assert wrong == []


def is_allowed(client: Any, namespace: str, resource: str, verb: str) -> bool:
    """Returns what the server says of a request that might be made."""
    kind, _, part = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": GROUPS[resource].rpartition("/")[0],
        "resource": kind,
        "subresource": part,
    }
    reviews = kubernetes.client.AuthorizationV1Api(client)
    body = {"spec": {"resourceAttributes": attributes}}
    return bool(reviews.create_self_subject_access_review(body).status.allowed)


def status_of_request(client: Any, namespace: str, resource: str, verb: str) -> int:
    """Makes a request, of an object that is not there, and returns the code of the answer."""
    kind, _, part = resource.partition("/")
    group = GROUPS[resource]
    parts = ["apis" if "/" in group else "api", group, "namespaces", namespace, kind]
    parts += ["nothing-there"] if part or verb not in ON_ALL else []
    parts += [part] if part else []
    options = {"watch": "true", "timeoutSeconds": "1"} if verb == "watch" else {}
    body = {} if METHODS[verb] in ("POST", "PUT", "PATCH") else None
    types = {"PATCH": "application/merge-patch+json"}
    try:
        _, code, _ = client.call_api(
            "/" + "/".join(parts),
            METHODS[verb],
            query_params=list(options.items()),
            header_params={"Content-Type": types.get(METHODS[verb], "application/json")},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
    except ApiException as error:
        return int(error.status)
    return int(code)


@pytest.mark.parametrize("path", ["/api/v1/nodes", "/api/v1/namespaces", "/api/v1/secrets"])
@pytest.mark.parametrize("account", NEEDED)
def test_nothing_of_the_whole_cluster_can_be_read(
    account: str, path: str, plane: ControlPlane
) -> None:
    client = plane.client(plane.token(NAMESPACE, account))
    with pytest.raises(ApiException) as refused:
        client.call_api(path, "GET", auth_settings=["BearerToken"], _preload_content=False)
    assert refused.value.status == 403


# The launcher with these rights only


def server(cluster: Cluster) -> dict[str, str]:
    """Returns what every pod's environment has of the API server."""
    port = str(cluster.plane.port)
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}


def launcher(cluster: Cluster, folder: Path, secrets: Path) -> Launcher:
    """Starts a launcher that finds the server as a pod does."""
    pod = cluster.create_launcher_pod()
    environment = server(cluster) | {
        "KFP_POD_NAME": pod.metadata.name,
        "KFP_POD_UID": pod.metadata.uid,
    }
    return Launcher(folder, {"run_id": RUN}, environment=environment, secrets=secrets)


@pytest.fixture
def secrets(cluster: Cluster, tmp_path: Path) -> Path:
    """What a kubelet puts into a pod of the launcher's account."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    shutil.copy(cluster.plane.certificate, folder / "ca.crt")
    (folder / "namespace").write_text(NAMESPACE)
    (folder / "token").write_text(cluster.plane.token(NAMESPACE, "charloom-launcher"))
    return folder


def test_the_launcher_needs_all_of_its_rights_and_no_more(
    cluster: Cluster, secrets: Path, tmp_path: Path
) -> None:
    before = cluster.plane.audited
    with Kubelet(cluster) as kubelet, launcher(cluster, tmp_path, secrets) as killed:
        pods = cluster.start_pods(cluster.jobset(), node=kubelet.node)
        kubelet.lines[pods[0]] = ["2026-11-25T10:00:00Z step 10"]
        killed.wait_for("step 10")
        lease = eventually(lambda: cluster.lease(NAME), "the lease")
        killed.kill()
    with launcher(cluster, tmp_path, secrets) as process:
        process.wait_for("of an earlier attempt exists; following it")
        renewed(cluster, lease)
        cluster.set_status(NAME, restarts=1)
        process.wait_for("restarting from step 0")
        process.process.send_signal(signal.SIGTERM)
        eventually(lambda: not cluster.jobsets(), "the removal of the JobSet")
        cluster.delete_pods(pods)
        assert process.ended() == 75
        assert "403" not in process.output
    needed = NEEDED["charloom-launcher"].items()
    assert cluster.plane.requests_of(NAMESPACE, "charloom-launcher", after=before) == {
        (verb, resource) for resource, verbs in needed for verb in verbs
    }


def test_a_token_that_was_replaced_is_read_again(
    cluster: Cluster, secrets: Path, tmp_path: Path
) -> None:
    """The kubelet writes a new token in time; the old one is refused at the end of its life."""
    holder = cluster.core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "holder"}})
    bound = {"apiVersion": "v1", "kind": "Secret", "name": "holder", "uid": holder.metadata.uid}
    old = cluster.plane.token(NAMESPACE, "charloom-launcher", bound_to=bound)
    (secrets / "token").write_text(old)
    with launcher(cluster, tmp_path, secrets) as process:
        process.wait_for("was created")
        (secrets / "new").write_text(cluster.plane.token(NAMESPACE, "charloom-launcher"))
        os.replace(secrets / "new", secrets / "token")
        cluster.core.delete_namespaced_secret("holder", NAMESPACE)
        eventually(lambda: is_refused(cluster.plane, old), "the end of the old token")
        renewed(cluster, cluster.lease(NAME))
        cluster.set_status(NAME, restarts=1)
        process.wait_for("restarting from step 0")
        cluster.end(NAME, "Completed")
        assert process.ended() == 0
    cluster.delete(NAME)


def is_refused(plane: ControlPlane, token: str) -> bool:
    try:
        kubernetes.client.VersionApi(plane.client(token)).get_code()
        kubernetes.client.CoreV1Api(plane.client(token)).list_namespaced_pod(NAMESPACE)
    except ApiException as error:
        return bool(error.status == 401)
    return False


WATCH = """
import json, sys, threading
from components.train.orphan import LeaseWatch

ended = threading.Event()
print("watching")
watch = LeaseWatch(sys.argv[1].strip('"'), seconds=6, orphaned=lambda why: (print(why), ended.set()))
watch.start()
ended.wait()
"""


def test_a_worker_watches_the_lease_with_its_own_rights(
    cluster: Cluster, secrets: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(secrets, tmp_path / "worker")
    (own / "token").write_text(cluster.plane.token(NAMESPACE, "charloom-worker"))
    environment = server(cluster) | {"POD_NAMESPACE": NAMESPACE}
    with launcher(cluster, tmp_path, secrets) as process:
        lease = eventually(lambda: cluster.lease(NAME), "the lease")
        with Process(tmp_path, WATCH, NAME, environment=environment, secrets=own) as worker:
            worker.wait_for("watching")
            for _ in range(12):  # one a second
                lease = renewed(cluster, lease)
            assert worker.output == "watching\n"
            process.kill()
            assert worker.ended() == 0
            assert worker.output.endswith("the launcher's lease was not renewed for 6 s\n")
            assert worker.error == ""
    cluster.delete(NAME)


@pytest.mark.parametrize("account", ["charloom-worker", "charloom-tensorboard"])
def test_a_launcher_without_rights_says_which_are_missing(
    account: str, cluster: Cluster, secrets: Path, tmp_path: Path
) -> None:
    (secrets / "token").write_text(cluster.plane.token(NAMESPACE, account))
    options = {"run_id": RUN, "image": "registry.example/charloom:0.1.0"}
    with Launcher(tmp_path, options, environment=server(cluster), secrets=secrets) as process:
        assert process.ended() == 2
    assert f'User "system:serviceaccount:charloom:{account}" cannot get resource "jobsets"' in (
        process.error
    )
    assert process.error.endswith("apply the roles of k8s/base")
    assert process.output == ""
