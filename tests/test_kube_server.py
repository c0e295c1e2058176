"""The stand-in API server, seen by Kubernetes' own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import urllib3
from kube_controller import EVICTED, Attempt, Controller, failure_action, job_failure, wait_until
from kube_server import Faults, KubeServer
from kubernetes.client.exceptions import ApiException
from test_components_train_cluster_manifest import rendered

from components.train.cluster.manifest import INDEX_LABEL, JOBSET_LABEL

JOBSETS = ("jobset.x-k8s.io", "v1alpha2", "charloom", "jobsets")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    with KubeServer(tmp_path) as server:
        yield server


class Client:
    def __init__(self, server: KubeServer):
        configuration = kubernetes.client.Configuration()
        configuration.retries = urllib3.Retry(0)
        kubernetes.config.load_kube_config(
            str(server.kubeconfig), client_configuration=configuration
        )
        client = kubernetes.client.ApiClient(configuration)
        self.custom = kubernetes.client.CustomObjectsApi(client)
        self.core = kubernetes.client.CoreV1Api(client)
        self.leases = kubernetes.client.CoordinationV1Api(client)


@pytest.fixture
def client(server: KubeServer) -> Client:
    return Client(server)


def status_of(send: Callable[[], Any]) -> dict[str, Any]:
    with pytest.raises(ApiException) as caught:
        send()
    status = json.loads(caught.value.body)
    assert (status["kind"], status["code"]) == ("Status", caught.value.status)
    return dict(status)


def jobset(name: str = "train-1", **metadata: Any) -> dict[str, Any]:
    made = rendered("2-plain")
    return made | {"metadata": made["metadata"] | {"name": name} | metadata}


def lease(**spec: Any) -> dict[str, Any]:
    given = {"holderIdentity": "a", "renewTime": "2026-11-25T10:00:00.000000Z"}
    return {"metadata": {"name": "l"}, "spec": given | spec}


def test_a_jobset_is_made_once_and_versions_grow(client: Client) -> None:
    made = client.custom.create_namespaced_custom_object(*JOBSETS, jobset(status={}))
    again = status_of(lambda: client.custom.create_namespaced_custom_object(*JOBSETS, jobset()))
    assert (again["reason"], again["code"]) == ("AlreadyExists", 409)
    assert again["details"] == {"name": "train-1", "group": "jobset.x-k8s.io", "kind": "jobsets"}
    client.custom.create_namespaced_custom_object(*JOBSETS, jobset("train-2"))
    listed = client.custom.list_namespaced_custom_object(*JOBSETS)
    assert [one["metadata"]["name"] for one in listed["items"]] == ["train-1", "train-2"]
    first, second = (int(one["metadata"]["resourceVersion"]) for one in listed["items"])
    assert first < second == int(listed["metadata"]["resourceVersion"])
    assert made["metadata"]["uid"] != listed["items"][1]["metadata"]["uid"]
    one = client.custom.list_namespaced_custom_object(*JOBSETS, field_selector="metadata.name=x")
    assert one["items"] == []


def test_what_is_not_there_or_not_allowed_is_refused(client: Client, server: KubeServer) -> None:
    custom = client.custom
    missing = status_of(lambda: custom.get_namespaced_custom_object(*JOBSETS, "no"))
    assert (missing["reason"], missing["code"]) == ("NotFound", 404)
    elsewhere = ("jobset.x-k8s.io", "v1alpha2", "other", "jobsets")
    assert status_of(lambda: custom.list_namespaced_custom_object(*elsewhere))["code"] == 404
    old = jobset(resourceVersion="7")
    assert status_of(lambda: custom.create_namespaced_custom_object(*JOBSETS, old))["code"] == 400
    bad = jobset("Bad_Name")
    assert status_of(lambda: custom.create_namespaced_custom_object(*JOBSETS, bad))["code"] == 422
    server.rotate_token()
    refused = status_of(lambda: custom.list_namespaced_custom_object(*JOBSETS))
    assert (refused["reason"], refused["code"]) == ("Unauthorized", 401)
    assert Client(server).custom.list_namespaced_custom_object(*JOBSETS)["items"] == []


def test_a_patch_changes_metadata_and_not_the_status(client: Client) -> None:
    custom = client.custom
    made = custom.create_namespaced_custom_object(*JOBSETS, jobset())
    custom.patch_namespaced_custom_object_status(*JOBSETS, "train-1", {"status": {"restarts": 2}})
    change = {"metadata": {"labels": {"a": "b"}}, "status": {"restarts": 7}}
    merged = custom.patch_namespaced_custom_object(*JOBSETS, "train-1", change)
    assert (merged["metadata"]["labels"]["a"], merged["status"]) == ("b", {"restarts": 2})
    assert merged["metadata"]["generation"] == 1
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    conflict = status_of(lambda: custom.patch_namespaced_custom_object(*JOBSETS, "train-1", stale))
    assert (conflict["reason"], conflict["code"]) == ("Conflict", 409)


def test_a_json_patch_is_applied_whole_or_not_at_all(client: Client) -> None:
    client.leases.create_namespaced_lease("charloom", lease())
    held = {"op": "test", "path": "/spec/holderIdentity", "value": "a"}
    steps = [held, {"op": "replace", "path": "/spec/holderIdentity", "value": "b"}]
    patched = client.leases.patch_namespaced_lease("l", "charloom", steps)
    assert patched.spec.holder_identity == "b"
    again = status_of(lambda: client.leases.patch_namespaced_lease("l", "charloom", steps))
    assert (again["reason"], again["code"]) == ("Invalid", 422)


def test_a_lease_is_replaced_by_its_newest_version_only(client: Client) -> None:
    made = client.leases.create_namespaced_lease("charloom", lease())
    version = made.metadata.resource_version

    def replace(version: str | None, **spec: Any) -> Any:
        body = lease(**spec) | {"metadata": {"name": "l", "resourceVersion": version}}
        return client.leases.replace_namespaced_lease("l", "charloom", body)

    assert replace(version, holderIdentity="b").spec.holder_identity == "b"
    assert status_of(lambda: replace(version, holderIdentity="c"))["reason"] == "Conflict"
    assert status_of(lambda: replace(None))["code"] == 422
    newest = client.leases.read_namespaced_lease("l", "charloom").metadata.resource_version
    assert status_of(lambda: replace(newest, renewTime="2026-11-25T10:00:00Z"))["code"] == 400


def test_a_deletion_takes_what_belongs_to_it_along(client: Client, server: KubeServer) -> None:
    launcher = server.store.create("pods", {"metadata": {"name": "launcher"}})
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "launcher"}
    owner["uid"] = launcher["metadata"]["uid"]
    made = client.custom.create_namespaced_custom_object(*JOBSETS, jobset(ownerReferences=[owner]))
    uid = made["metadata"]["uid"]
    held = {"kind": "JobSet", "apiVersion": made["apiVersion"], "name": "train-1", "uid": uid}
    server.store.create("leases", {"metadata": {"name": "l", "ownerReferences": [held]}})
    options = {"preconditions": {"uid": "another"}}
    conflict = status_of(
        lambda: client.custom.delete_namespaced_custom_object(*JOBSETS, "train-1", body=options)
    )
    assert conflict["reason"] == "Conflict"
    client.core.delete_namespaced_pod("launcher", "charloom")
    for _ in range(4):
        server.store.collect()
    assert server.store.objects == {}


def test_a_deletion_in_the_foreground_waits_for_the_pods(
    client: Client, server: KubeServer
) -> None:
    with Controller(server, [[Attempt((None, None))]]) as controller:
        client.custom.create_namespaced_custom_object(*JOBSETS, jobset())
        wait_until(lambda: len(client.core.list_namespaced_pod("charloom").items) == 2, "pods")
        controller.hold.set()
        gone = client.custom.delete_namespaced_custom_object(
            *JOBSETS, "train-1", propagation_policy="Foreground"
        )
        assert "deletionTimestamp" in gone["metadata"]
        wait_until(lambda: not server.store.objects, "the end of all")
    events = [(plural, event) for _, plural, event, _ in server.store.history]
    assert events[-3:] == [("pods", "DELETED"), ("pods", "DELETED"), ("jobsets", "DELETED")]


def test_a_log_is_followed_to_the_pods_end(client: Client, server: KubeServer) -> None:
    lines = tuple(f"line {number}" for number in range(5))
    with Controller(server, [[Attempt((0, 0), lines)]]) as controller:
        controller.hold.set()
        client.custom.create_namespaced_custom_object(*JOBSETS, jobset())
        server.store.create("pods", {"metadata": {"name": "p"}})
        waiting = status_of(lambda: client.core.read_namespaced_pod_log("p", "charloom"))
        assert "waiting to start" in waiting["message"]
        controller.hold.clear()

        def chief() -> Any:
            selector = f"{JOBSET_LABEL}=train-1,{INDEX_LABEL}=0"
            pods = client.core.list_namespaced_pod("charloom", label_selector=selector).items
            return pods and pods[0].status.phase != "Pending" and pods[0].metadata.name

        name = wait_until(chief, "worker 0")
        log = client.core.read_namespaced_pod_log(name, "charloom", follow=True, timestamps=True)
        stamps, texts = zip(*(line.split(" ", 1) for line in log.splitlines()), strict=True)
        assert texts == lines
        tail = client.core.read_namespaced_pod_log(name, "charloom", tail_lines=2)
        assert tail.splitlines() == ["line 3", "line 4"]
        since = client.core.read_namespaced_pod_log(
            name, "charloom", _preload_content=False, tail_lines=5
        )
        assert since.data.decode().splitlines() == list(lines)
        assert list(stamps) == sorted(stamps, key=lambda one: one.rstrip("Z").ljust(29, "0"))


@pytest.mark.parametrize(
    ("fault", "expected", "made"),
    [
        ("429", 429, 0),
        ("500", 500, 0),
        ("503", 503, 0),
        ("401", 401, 0),
        ("500 after", 500, 1),
        ("drop", 0, 0),
        ("drop after", 0, 1),
    ],
)
def test_faults_come_before_or_after_the_effect(
    fault: str, expected: int, made: int, client: Client, server: KubeServer
) -> None:
    server.faults.planned.append(("create jobsets", fault))
    with pytest.raises((ApiException, urllib3.exceptions.HTTPError)) as caught:
        client.custom.create_namespaced_custom_object(*JOBSETS, jobset())
    assert getattr(caught.value, "status", 0) == expected
    assert len(server.store.created("jobsets")) == made
    if fault == "429":
        assert caught.value.headers["Retry-After"] == "1"
    assert server.faults.seen == {fault: 1}


def test_a_log_is_cut_in_the_middle_of_a_line(client: Client, server: KubeServer) -> None:
    pod = server.store.create("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    for name in ("a", "b", "c", "d"):
        server.store.add_line(pod["metadata"]["uid"], name)
    server.faults.planned += [("log pods", "cut")]
    response = client.core.read_namespaced_pod_log("p", "charloom", _preload_content=False)
    content = b""
    with pytest.raises(urllib3.exceptions.ProtocolError):  # noqa: PT012
        for block in response.stream(amt=None):
            content += block
    assert content
    assert not content.endswith(b"\n")


def test_a_log_is_read_from_a_time_on(client: Client, server: KubeServer) -> None:
    pod = server.store.create("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    server.store.logs[pod["metadata"]["uid"]] = [("2026-01-01T00:00:00Z", "old")]
    server.store.add_line(pod["metadata"]["uid"], "new")

    def read(**options: int) -> str:
        return str(client.core.read_namespaced_pod_log("p", "charloom", **options))

    assert read() == "old\nnew\n"
    assert read(since_seconds=3600) == "new\n"


def test_faults_are_the_same_for_a_seed() -> None:
    verbs = ["list pods", "get jobsets", "log pods", "create jobsets"] * 50

    def planned(seed: int) -> list[str]:
        faults = Faults(seed, share=0.3, most=40)
        return [faults.of(verb) for verb in verbs]

    assert planned(1) == planned(1) != planned(2)
    assert sum(map(bool, planned(1))) == 40


@pytest.mark.parametrize(
    ("code", "reason", "action"),
    [
        (2, "PodFailurePolicy", "FailJobSet"),
        (78, "PodFailurePolicy", "FailJobSet"),
        (75, "PodFailurePolicy", "RestartJobSetAndIgnoreMaxRestarts"),
        (EVICTED, "PodFailurePolicy", "RestartJobSetAndIgnoreMaxRestarts"),
        (137, "BackoffLimitExceeded", "RestartJobSet"),
        (1, "BackoffLimitExceeded", "RestartJobSet"),
    ],
)
def test_the_rendered_policy_is_followed(code: int, reason: str, action: str) -> None:
    spec = jobset()["spec"]
    status: dict[str, Any] = {
        "containerStatuses": [{"name": "worker", "state": {"terminated": {"exitCode": code}}}]
    }
    if code == EVICTED:
        status = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}
    job = spec["replicatedJobs"][0]["template"]["spec"]
    said = job_failure(job, [{"metadata": {"name": "p"}, "status": status}])
    assert said[0] == reason
    assert failure_action(spec["failurePolicy"], *said) == action


def test_restarts_are_counted_as_jobset_does(client: Client, server: KubeServer) -> None:
    script = [Attempt((75, None)), Attempt((None, 137)), Attempt((1, 1)), Attempt((0, 0))]
    with Controller(server, [script]):
        client.custom.create_namespaced_custom_object(*JOBSETS, jobset())

        def ended() -> Any:
            found = client.custom.get_namespaced_custom_object(*JOBSETS, "train-1")
            return found.get("status", {}).get("terminalState") and found["status"]

        status = wait_until(ended, "the end")
    assert (status["restarts"], status["restartsCountTowardsMax"]) == (3, 2)
    assert [one["type"] for one in status["conditions"]] == ["Completed"]
    first = [one for _, kind, _, one in server.store.history if kind == "jobsets"][1]
    assert first["status"] == {"restarts": 1}  # nothing counted is nothing said
    pods = server.store.created("pods")
    assert len({one["metadata"]["name"] for one in pods}) == 8
