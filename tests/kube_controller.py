"""JobSet's and Job's controllers and the kubelets of a stand-in cluster, by script."""

from __future__ import annotations

import dataclasses
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kube_server import KubeServer
from kube_store import RefusedError, now

from components.train.cluster.manifest import INDEX_LABEL, JOBSET_LABEL

ATTEMPT_LABEL = "jobset.sigs.k8s.io/restart-attempt"
EVICTED = -1
"""In place of an exit code: the node is drained."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How one attempt of all workers goes."""

    codes: tuple[int | None, ...]
    """Exit code of each worker; None: it runs until it is removed, or another one failed."""
    lines: tuple[str, ...] = ()
    """What worker 0 says."""
    last: str = ""
    """Last words of the workers that fail."""


class Controller:
    """Runs the workers of JobSets: those of the n-th one by the n-th script."""

    def __init__(
        self,
        server: KubeServer,
        scripts: Sequence[Sequence[Attempt]],
        *,
        seed: int = 0,
        waits: bool = False,
    ):
        """Does nothing yet.

        Args:
          server: whose JobSets.
          scripts: for each JobSet that is made, its attempts.
          seed: of the moments at which things happen.
          waits: pods come only once the JobSet has its lease. True pods take seconds to start,
            so that a launcher follows by then; here all could be over before that.
        """
        self._server = server
        self._store = server.store
        self._scripts = scripts
        self._random = random.Random(seed)
        self._waits = waits
        self._stop = threading.Event()
        self._seen: list[str] = []
        self.hold = threading.Event()
        """While it is set, workers say and do nothing."""
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Controller:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._random.uniform(0.001, 0.006)):
                with self._store.changed:
                    self._store.collect()
                    for (plural, _), jobset in list(self._store.objects.items()):
                        if plural == "jobsets" and "deletionTimestamp" not in jobset["metadata"]:
                            self._step(jobset)
        except Exception as error:
            self.error = error

    def _step(self, jobset: Mapping[str, Any]) -> None:
        """Does one thing for a JobSet that has not ended."""
        uid, status = jobset["metadata"]["uid"], jobset.get("status", {})
        if status.get("terminalState") or self.hold.is_set():
            return
        if uid not in self._seen:
            self._seen.append(uid)
        script = self._scripts[self._seen.index(uid)]
        attempt = status.get("restarts", 0)
        pods = self._pods(jobset)
        if any(pod["metadata"]["labels"][ATTEMPT_LABEL] != str(attempt) for pod in pods):
            for pod in pods:  # BlockingRecreate: all of them go before new ones come
                self._store.delete("pods", pod["metadata"]["name"], {})
        elif not pods:
            if self._waits and ("leases", jobset["metadata"]["name"]) not in self._store.objects:
                return
            self._create_pods(jobset, attempt)
        else:
            self._go_on(jobset, pods, script[attempt])

    def _pods(self, jobset: Mapping[str, Any]) -> list[dict[str, Any]]:
        uid = jobset["metadata"]["uid"]
        found, _ = self._store.list("pods", lambda pod: any(
            owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", [])
        ))  # fmt: skip
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][INDEX_LABEL]))

    def _create_pods(self, jobset: Mapping[str, Any], attempt: int) -> None:
        name = jobset["metadata"]["name"]
        job = _job(jobset)
        owner = {
            "apiVersion": jobset["apiVersion"],
            "kind": "JobSet",
            "name": name,
            "uid": jobset["metadata"]["uid"],
        }
        for rank in range(job["completions"]):
            labels = {JOBSET_LABEL: name, ATTEMPT_LABEL: str(attempt), INDEX_LABEL: str(rank)}
            given = job["template"]["metadata"].get("labels", {})
            suffix = "".join(self._random.choices("bcdfghjklmnpqrstvwxz", k=5))
            metadata = {
                "name": f"{name}-worker-0-{rank}-{suffix}",
                "labels": given | labels,
                "ownerReferences": [owner],
            }
            pod = {"metadata": metadata, "spec": job["template"]["spec"]}
            self._store.create("pods", pod | {"status": {"phase": "Pending"}})

    def _go_on(
        self, jobset: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], script: Attempt
    ) -> None:
        for pod in pods:
            if pod["status"]["phase"] == "Pending":
                self._set_pod(pod, {"phase": "Running", "startTime": now()})
                return
        said = self._store.logs.get(pods[0]["metadata"]["uid"], [])
        if len(said) < len(script.lines):
            for line in script.lines[len(said) :][: self._random.randint(1, 3)]:
                self._store.add_line(pods[0]["metadata"]["uid"], line)
            return
        for pod, code in zip(pods, script.codes, strict=True):
            if pod["status"]["phase"] == "Running" and code is not None:
                self._end_pod(pod, code, script.last)
                if self._random.random() < 0.7:
                    return
        self._judge(jobset)

    def _end_pod(self, pod: Mapping[str, Any], code: int, last: str) -> None:
        if code == EVICTED:
            why = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            status = {"phase": "Failed", "reason": "Evicted", "message": "the node is drained"}
            self._set_pod(pod, status | {"conditions": [why]})
            return
        if code and last:
            self._store.add_line(pod["metadata"]["uid"], last)
        lines = self._store.logs.get(pod["metadata"]["uid"], [])
        ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
        if code:  # FallbackToLogsOnError
            ended |= {"message": "".join(f"{text}\n" for _, text in lines)[-2048:]}
        containers = [{"name": "worker", "state": {"terminated": ended}}]
        phase = "Failed" if code else "Succeeded"
        self._set_pod(pod, {"phase": phase, "containerStatuses": containers})

    def _set_pod(self, pod: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self._store.change("pods", name, lambda one: one | {"status": dict(status)}, status=True)

    def _judge(self, jobset: Mapping[str, Any]) -> None:
        pods = self._pods(jobset)
        if all(pod["status"]["phase"] == "Succeeded" for pod in pods):
            text = "jobset completed successfully"
            self._end(jobset, "Completed", "AllJobsCompleted", text)
            return
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if not failed:
            return
        reason, message = job_failure(_job(jobset), failed)
        policy = jobset["spec"]["failurePolicy"]
        action = failure_action(policy, reason, message)
        status = jobset.get("status", {})
        counted = status.get("restartsCountTowardsMax", 0)
        if action == "FailJobSet":
            job = f"{jobset['metadata']['name']}-worker-0"
            text = f"applying FailJobSet failure policy action (first failed job: {job})"
            self._end(jobset, "Failed", "FailJobSetFailurePolicyAction", text)
        elif action == "RestartJobSet" and counted >= policy["maxRestarts"]:
            text = "jobset failed due to reaching max number of restarts"
            self._end(jobset, "Failed", "ReachedMaxRestarts", text)
        else:
            change = {"restarts": status.get("restarts", 0) + 1}
            if action == "RestartJobSet":  # left out while it is 0
                change["restartsCountTowardsMax"] = counted + 1
            self._set(jobset, change)

    def _end(self, jobset: Mapping[str, Any], state: str, reason: str, message: str) -> None:
        condition = {"type": state, "status": "True", "reason": reason, "message": message}
        for pod in self._pods(jobset):
            if pod["status"]["phase"] == "Running":
                self._store.delete("pods", pod["metadata"]["name"], {})
        self._set(jobset, {"terminalState": state, "conditions": [condition]})

    def _set(self, jobset: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        status = jobset.get("status", {}) | dict(change)
        name = jobset["metadata"]["name"]
        self._store.change("jobsets", name, lambda one: one | {"status": status}, status=True)


def _job(jobset: Mapping[str, Any]) -> dict[str, Any]:
    return dict(jobset["spec"]["replicatedJobs"][0]["template"]["spec"])


def job_failure(job: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Returns reason and message of a Job's failure, as its controller words them."""
    for pod in failed:
        status, name = pod["status"], pod["metadata"]["name"]
        states = status.get("containerStatuses", [{}])[0].get("state", {})
        code = states.get("terminated", {}).get("exitCode")
        held = {one["type"]: one["status"] for one in status.get("conditions", [])}
        for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
            end = f"matching {rule['action']} rule at index {index}"
            if code in rule.get("onExitCodes", {}).get("values", []):
                text = f"Container worker for pod charloom/{name} failed with exit code {code}"
                return "PodFailurePolicy", f"{text} {end}"
            for one in rule.get("onPodConditions", []):
                if held.get(one["type"]) == one["status"]:
                    text = f"Pod charloom/{name} has condition {one['type']} {end}"
                    return "PodFailurePolicy", text
    return "BackoffLimitExceeded", "Job has reached the specified backoff limit"


def failure_action(policy: Mapping[str, Any], reason: str, message: str) -> str:
    """Returns what a JobSet's failure policy does about a failed Job."""
    for rule in policy.get("rules", []):
        reasons = rule.get("onJobFailureReasons") or [reason]
        patterns = rule.get("onJobFailureMessagePatterns") or [""]
        if reason in reasons and any(re.search(pattern, message) for pattern in patterns):
            return str(rule["action"])
    return "RestartJobSet"


def wait_until(condition: Any, what: str, seconds: float = 60.0) -> Any:
    """Returns what a condition returns, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = condition()
        except RefusedError:
            found = None
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come")
