"""What a cluster has around its API server, done by the tests: objects, pods, logs."""

from __future__ import annotations

import contextlib
import copy
import datetime
import http.server
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes
import yaml
from crd_schema import CRD
from envtest import ControlPlane, eventually
from kubernetes.client import ApiException
from surroundings import lacking

from components.train.cluster.manifest import INDEX_LABEL, JOBSET_LABEL

JOBSETS = ("jobset.x-k8s.io", "v1alpha2")
K8S = Path(__file__).parents[1] / "k8s"
NAMESPACE = "charloom"


def install_jobset(plane: ControlPlane) -> None:
    """Installs JobSet's definition, without its controller and its webhooks."""
    client = plane.client()
    definition = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    extensions = kubernetes.client.ApiextensionsV1Api(client)
    extensions.create_custom_resource_definition(definition)

    def established() -> bool:
        found = extensions.read_custom_resource_definition(definition["metadata"]["name"])
        states = {one.type: one.status for one in found.status.conditions or []}
        return states.get("Established") == "True"

    eventually(established, "the JobSet definition")
    cluster = Cluster(plane, namespace="default")

    def served() -> bool:
        with contextlib.suppress(ApiException):  # 404 and 429 for a moment
            return cluster.jobsets() == []
        return False

    eventually(served, "the API of JobSets")


def kubectl(*arguments: str, plane: ControlPlane | None = None, text: str | None = None) -> str:
    """Runs kubectl, as an admin if it needs the server, and returns what it prints."""
    program = shutil.which("kubectl")
    if not program:
        lacking("there is no kubectl on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        command = [program, *arguments]
        if plane:
            config = plane.kubeconfig(Path(folder) / "admin", namespace="default")
            command += ["--kubeconfig", str(config)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(folder: str) -> list[dict[str, Any]]:
    """Returns what kustomize makes of a folder below k8s/."""
    return list(yaml.safe_load_all(kubectl("kustomize", str(K8S / folder))))


def apply_base(plane: ControlPlane) -> None:
    """Applies k8s/base, whose namespace is `NAMESPACE`."""
    kubectl("apply", "-k", str(K8S / "base"), plane=plane)


class Cluster:
    """One namespace, seen by an admin."""

    def __init__(self, plane: ControlPlane, namespace: str = ""):
        """Makes a new namespace with the workers' service account, unless one is named."""
        self.plane = plane
        self._client = plane.client()
        self.core = kubernetes.client.CoreV1Api(self._client)
        self.custom = kubernetes.client.CustomObjectsApi(self._client)
        self.leases = kubernetes.client.CoordinationV1Api(self._client)
        self.namespace = namespace or f"test-{uuid.uuid4().hex[:8]}"
        if not namespace:
            self.core.create_namespace({"metadata": {"name": self.namespace}})
            account = {"metadata": {"name": "charloom-worker"}}
            self.core.create_namespaced_service_account(self.namespace, account)

    # JobSets

    def create(self, jobset: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Creates a JobSet; unknown or repeated fields are refused."""
        options = {"field_validation": "Strict"} | options
        return self.custom.create_namespaced_custom_object(  # type: ignore[no-any-return]
            *JOBSETS, self.namespace, "jobsets", dict(jobset), **options
        )

    def jobsets(self) -> list[dict[str, Any]]:
        answer = self.custom.list_namespaced_custom_object(*JOBSETS, self.namespace, "jobsets")
        return list(answer["items"])

    def jobset(self) -> dict[str, Any]:
        """Returns the only JobSet, once there is one."""
        found = eventually(self.jobsets, "a JobSet")
        assert len(found) == 1
        return found[0]

    def change(self, name: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Merges a change into a JobSet."""
        return self.custom.patch_namespaced_custom_object(  # type: ignore[no-any-return]
            *JOBSETS, self.namespace, "jobsets", name, dict(change)
        )

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(*JOBSETS, self.namespace, "jobsets", name)

    def set_status(self, name: str, **status: Any) -> None:
        """Merges fields into a JobSet's status, as its controller does."""
        self.custom.patch_namespaced_custom_object_status(
            *JOBSETS, self.namespace, "jobsets", name, {"status": status}
        )

    def end(self, name: str, state: str, message: str = "it ended") -> None:
        """Sets what JobSet's controller sets when a JobSet has completed or failed."""
        condition = {
            "type": state,
            "status": "True",
            "reason": "AllJobsCompleted" if state == "Completed" else "FailedJobs",
            "message": message,
            "lastTransitionTime": _now(),
        }
        self.set_status(name, terminalState=state, conditions=[condition])

    def lease(self, name: str) -> Any:
        """Returns a lease, None if there is none."""
        try:
            return self.leases.read_namespaced_lease(name, self.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    # Pods

    def create_launcher_pod(self, image: str = "registry.example/charloom:0.1.0") -> Any:
        """Creates a pod as KFP makes it for a task."""
        container = {
            "image": image,
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        sidecar = container | {"image": "registry.example/argoexec:v3.6"}
        spec = {
            "restartPolicy": "Never",
            "serviceAccountName": "charloom-worker",
            "containers": [sidecar | {"name": "wait"}, container | {"name": "main"}],
        }
        body = {"metadata": {"generateName": "train-"}, "spec": spec}
        return self.core.create_namespaced_pod(self.namespace, body)

    def start_pods(
        self, jobset: Mapping[str, Any], *, attempt: int = 0, node: str = ""
    ) -> list[str]:
        """Creates the pods of a JobSet as its controllers do, lets them run; returns names."""
        name = jobset["metadata"]["name"]
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        names = []
        for rank in range(job["completions"]):
            host = f"{name}-worker-0-{rank}"
            pod = copy.deepcopy(job["template"])
            pod["metadata"]["name"] = f"{host}-{uuid.uuid4().hex[:5]}"
            pod["metadata"]["labels"] |= {
                JOBSET_LABEL: name,
                INDEX_LABEL: str(rank),
                "jobset.sigs.k8s.io/restart-attempt": str(attempt),
            }
            pod["spec"] |= {"hostname": host, "subdomain": name}
            pod["spec"] |= {"nodeName": node} if node else {}
            names.append(self.core.create_namespaced_pod(self.namespace, pod).metadata.name)
            self.run_pod(names[-1])
        return names

    def run_pod(self, name: str) -> None:
        """Sets what a kubelet sets when the worker's container runs."""
        self._set_pod_status(name, "Running", {"running": {"startedAt": _now()}})

    def end_pod(self, name: str, code: int, message: str = "") -> None:
        """Sets what a kubelet sets when the worker's container ends."""
        ended = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "message": message,
            "finishedAt": _now(),
        }
        self._set_pod_status(name, "Failed" if code else "Succeeded", {"terminated": ended})

    def _set_pod_status(self, name: str, phase: str, state: Mapping[str, Any]) -> None:
        container = {
            "name": "worker",
            "image": "i",
            "imageID": "i",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        status = {"phase": phase, "containerStatuses": [container]}
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    def delete_pods(self, names: list[str]) -> None:
        for name in names:
            self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)


class Kubelet:
    """A node whose pods have logs; the API server calls it for those."""

    def __init__(self, cluster: Cluster):
        """Serves with the API server's own certificate, and registers the node."""
        self.lines: dict[str, list[str]] = {}
        """Pod -> lines with time stamps, which may be added to."""
        self.ended: set[str] = set()
        """Pods whose log is complete."""
        self.cut_after: dict[str, int] = {}
        """Pod -> lines after which its log breaks off, once."""
        kubelet = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # who asked has gone
                    kubelet._send_log(self)

            def log_message(self, *unused: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.plane.certificate, cluster.plane.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._core, self.node = cluster.core, f"node-{uuid.uuid4().hex[:8]}"
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        self._core.create_node({"metadata": {"name": self.node}, "status": status})

    def __enter__(self) -> Kubelet:
        return self

    def __exit__(self, *unused: object) -> None:
        self._core.delete_node(self.node)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _send_log(self, request: http.server.BaseHTTPRequestHandler) -> None:
        _, kind, _, pod, container = request.path.partition("?")[0].split("/")
        assert (kind, container) == ("containerLogs", "worker")
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()

        def send(text: str) -> None:
            data = text.encode()
            request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        sent = 0
        while True:
            complete = pod in self.ended
            for line in self.lines.get(pod, [])[sent:]:
                if sent == self.cut_after.get(pod):
                    del self.cut_after[pod]
                    send(line[:-3])
                    request.close_connection = True
                    return
                send(f"{line}\n")
                sent += 1
            if complete or "follow=true" not in request.path:
                request.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.05)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
