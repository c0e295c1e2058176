"""Runs a training as a JobSet: creates or adopts it, follows it, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException

from components.train.cluster.api import ClusterApi, Pace
from components.train.cluster.lease_watch import LeaseKeeper
from components.train.cluster.manifest import GRACE_SECONDS, JobSetOptions, jobset_name, render
from components.train.cluster.network_policy import render_network_policy
from components.train.cluster.outcome import (
    COMPLETED,
    FAILED,
    WorkerEnd,
    attempt_of,
    cause_of,
    failure_of,
    restarts_of,
    terminal_state,
    waiting_reason,
    worker_end,
)
from components.train.cluster.worker_log import WorkerLog
from components.train.launching import Follower, IdleRestarts, StopRequests, newest_step
from components.train.training_job import TrainingJob
from model.checkpointing.save_time import (
    estimate_checkpoint_bytes,
    read_save_limit,
    save_limit,
)
from model.config import read_config
from model.errors import CharloomError, InputError, RestartableError

WORKDIR_ANNOTATION = "charloom.dev/workdir"

_REMOVAL_SECONDS = 300.0
_LAST_LOOKS = 40
"""How often the pods of an ended JobSet are polled for the rest of the log."""


def launch_jobset(
    job: TrainingJob,
    options: JobSetOptions,
    *,
    follower: Follower | None = None,
    pace: Pace | None = None,
) -> None:
    """Runs a training as the pods of a JobSet until it ends.

    Adopts an existing JobSet of the same run and task, so that a retried step continues it. If this
    process ends before the training does, the JobSet is removed, or, if nobody is left to do so,
    ends by itself because its lease is not renewed.

    Args:
      job: the training; losing a worker's node does not count as a restart.
      options: where and how the workers run.
      follower: is notified of the progress.
      pace: how often the API is polled.

    Raises:
      InputError: a worker found bad input, or the cluster refused the JobSet.
      RestartableError: workers were lost too often, SIGTERM or SIGHUP was received, or the API
        server was unreachable for too long.
      KeyboardInterrupt: Ctrl-C.
      CharloomError: the training failed.
    """
    api = ClusterApi(pace=pace)
    with StopRequests() as requests:
        launch = _Launch(api, job, options=options, follower=follower or Follower())
        api.asked_to_stop = lambda: bool(requests.numbers)
        try:
            launch.run()
        except (_StopAskedError, CharloomError):
            if not requests.numbers:
                raise
            raise requests.ended(step=newest_step(job.workdir), how="the same step again") from None
        finally:
            api.stop.set()


class _StopAskedError(Exception):
    """A signal was received."""


@dataclasses.dataclass
class _State:
    """The known state of the JobSet and its workers."""

    idle: IdleRestarts
    restarts: int = 0
    ends: list[tuple[int, WorkerEnd]] = dataclasses.field(default_factory=list)
    """Ends of workers in the current attempt, in the order seen."""
    reported: set[str] = dataclasses.field(default_factory=set)
    """Pods and messages already reported."""


class _Launch:
    """One launcher's work on one JobSet."""

    def __init__(
        self,
        api: ClusterApi,
        job: TrainingJob,
        *,
        options: JobSetOptions,
        follower: Follower,
    ):
        self._api = api
        self._job = job
        self._options = options
        self._name = jobset_name(options.run_id, options.task)
        self._follower = follower
        step = newest_step(job.workdir)
        self._state = _State(IdleRestarts(step, max_restarts=job.max_restarts))
        self._pod_uid = os.environ.get("KFP_POD_UID", "")
        """Of our pod, which owns the JobSet; empty where there is none."""
        self._uid = ""
        self._ours = False
        """Whether there may be a JobSet that this launcher has to remove."""
        self._sent = False
        """Whether this launcher has sent a create request, answered or not."""

    def run(self) -> None:
        """Creates or adopts the JobSet, follows it, and removes it unless it has ended.

        An ended JobSet occupies no node, can be inspected, and is removed after its time to live.
        """
        try:
            body = self._render()
            jobset = self._create_or_adopt(body)
            self._uid = jobset["metadata"]["uid"]
            self._api.create_network_policy(render_network_policy(jobset))
            self._state.restarts = restarts_of(jobset)
            holder = os.environ.get("KFP_POD_NAME") or f"launcher-{os.getpid()}"
            seconds = self._options.lease_seconds
            with LeaseKeeper(self._api, jobset, seconds=seconds, holder=holder) as lease:
                self._follow(lease)
        finally:
            if self._ours:
                self._remove()

    # Start

    def _render(self) -> dict[str, Any]:
        name, uid = os.environ.get("KFP_POD_NAME"), self._pod_uid
        owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid} if uid else None
        body = render(
            self._options,
            image=self._options.image or self._own_image(name),
            workers=self._job.workers,
            arguments=self._job.worker_arguments(),
            max_restarts=self._job.max_restarts,
            grace_seconds=self._grace_seconds(),
            owner=owner,
        )
        body["metadata"]["annotations"][WORKDIR_ANNOTATION] = self._job.workdir
        return body

    def _grace_seconds(self) -> int:
        """Returns how long a worker may take to save and end."""
        try:
            size = estimate_checkpoint_bytes(read_config(self._job.config_file))
        except InputError:  # the workers read it, too, and say what is wrong
            size = 0
        least = save_limit(size, 0.0, least=GRACE_SECONDS)
        return math.ceil(read_save_limit(self._job.workdir, least=least))

    def _own_image(self, pod: str | None) -> str:
        if not pod:
            raise InputError("no image is given, and there is no launcher pod to take it from")
        try:
            containers = self._api.get_pod(pod)["spec"]["containers"]
        except ApiException as error:
            raise InputError(
                f"no image is given, and the launcher's pod {pod} can't be read ({error.reason})"
            ) from None
        main = [one for one in containers if one["name"] == "main"] or containers
        return str(main[0]["image"])

    def _create_or_adopt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        patience = _REMOVAL_SECONDS + self._grace_seconds()  # its pods may still be saving
        deadline = time.monotonic() + patience
        while True:
            self._raise_if_stopped()
            found = self._api.get_jobset(self._name)
            if found is None:
                self._ours = self._sent = True
                try:
                    created = self._api.create_jobset(body)
                except ApiException:  # 409: created meanwhile, perhaps by a request whose answer
                    continue  # was lost
                self._say(f"JobSet {self._name} was created in namespace {self._api.namespace}")
                return created
            self._check_ours(found)
            self._ours = True
            if "deletionTimestamp" not in found["metadata"]:
                adopted = self._adopt(found, body)
                if adopted:
                    return adopted
            if time.monotonic() > deadline:
                raise RestartableError(
                    f"the JobSet {self._name} of an earlier attempt still exists after "
                    f"{patience:g} s; look at kubectl get jobset {self._name} -o yaml"
                )
            time.sleep(self._api.pace.tick)

    def _adopt(self, found: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Takes over a usable JobSet; removes any other and returns None."""
        if terminal_state(found) == FAILED and not self._sent:
            self._raise_if_hopeless(found)
            self._say(f"JobSet {self._name} of an earlier attempt has failed and is replaced")
            self._api.delete_jobset(self._name, uid=found["metadata"]["uid"])
            return None
        change = {"metadata": {"ownerReferences": body["metadata"].get("ownerReferences", [])}}
        adopted = self._api.patch_jobset(self._name, change)
        if adopted:
            whose = "just requested" if self._sent else "of an earlier attempt"
            self._say(f"JobSet {self._name} {whose} exists; following it")
        return adopted

    def _raise_if_hopeless(self, found: Mapping[str, Any]) -> None:
        """Repeats a bad-input error of an earlier attempt, which would occur again."""
        pods = self._api.pods(self._name)
        self._state.ends = [(0, end) for pod in pods if (end := worker_end(pod))]
        failure = self._failure(found)
        if isinstance(failure, InputError):
            self._ours = False
            raise failure
        self._state.ends.clear()

    def _check_ours(self, found: Mapping[str, Any]) -> None:
        annotations = found["metadata"].get("annotations") or {}
        other = annotations.get(WORKDIR_ANNOTATION)
        if other != self._job.workdir:
            self._ours = False
            raise InputError(
                f"JobSet {self._name} already exists, for workdir {other}, not {self._job.workdir}; "
                "give each training of a run its own task name, or remove it: kubectl delete "
                f"jobset {self._name}"
            )

    # While it runs

    def _follow(self, lease: LeaseKeeper) -> None:
        """Returns when the JobSet has completed; raises when it has failed."""
        log = WorkerLog(self._api, self._say)
        while True:
            self._raise_if_stopped()
            lease.raise_if_lost()
            self._follower.update()
            self._look_at_pods(log)
            jobset = self._api.get_jobset(self._name)
            if jobset is None or jobset["metadata"]["uid"] != self._uid:
                raise CharloomError(
                    f"JobSet {self._name} was deleted by someone else; the training can be "
                    "continued by running the step again"
                )
            self._note_jobset(jobset)
            outcome = terminal_state(jobset)
            if outcome:
                self._ours = False
                self._drain(log)
                if outcome == COMPLETED:
                    return
                raise self._failure(jobset)
            self._api.pause(self._api.pace.tick)

    def _look_at_pods(self, log: WorkerLog) -> bool:
        """Reports news from pods and log; returns whether the log is complete."""
        pods = self._api.pods(self._name)
        whole = log.update(pods)
        for pod in pods:
            self._note_pod(pod)
        return whole

    def _failure(self, jobset: Mapping[str, Any]) -> CharloomError:
        return failure_of(
            jobset,
            [end for _, end in self._state.ends],
            step=self._state.idle.step,
            deadline_hours=self._options.deadline_hours,
        )

    def _drain(self, log: WorkerLog) -> None:
        """Polls the pods until all ends are reported, as some may arrive late."""
        for _ in range(_LAST_LOOKS):
            if self._look_at_pods(log):
                break
            self._api.pause(self._api.pace.first_wait)
        self._follower.update()

    def _say_once(self, text: str) -> None:
        if text not in self._state.reported:
            self._state.reported.add(text)
            self._say(text)

    def _note_pod(self, pod: Mapping[str, Any]) -> None:
        waiting = waiting_reason(pod)
        if waiting:
            self._say_once(waiting)
        end, uid = worker_end(pod), pod["metadata"]["uid"]
        if end is None or uid in self._state.reported:
            return
        self._state.reported.add(uid)
        attempt = attempt_of(pod, default=self._state.restarts)
        if attempt >= self._state.restarts:
            self._state.ends.append((attempt, end))
        lines = end.last_lines.splitlines()[-10:]
        self._say("\n".join([end.describe(), *(f"  | {line}" for line in lines)]))

    def _note_jobset(self, jobset: Mapping[str, Any]) -> None:
        if jobset["spec"].get("suspend"):
            queue_name = self._options.queue or "whoever suspended it"
            self._say_once(f"JobSet {self._name} is suspended, waiting for {queue_name}")
        restarts = restarts_of(jobset)
        if restarts <= self._state.restarts:
            return
        step = newest_step(self._job.workdir)
        more = restarts - self._state.restarts
        self._state.restarts = restarts
        counted = jobset["status"].get("restartsCountTowardsMax", 0)  # omitted while 0
        why = "a worker was lost"
        before = [end for attempt, end in self._state.ends if attempt < restarts]
        if before:
            cause = cause_of(before)
            if cause.kind is InputError:  # the JobSet saw its peers' end first
                raise self._failure(jobset)
            why = cause.describe()
        line = f"restarting from step {step} ({counted} of {self._job.max_restarts} counted): {why}"
        self._follower.restarting(line, step=step)
        # Pods are listed before their JobSet: ends of the new attempt may already be known.
        self._state.ends = [one for one in self._state.ends if one[0] >= restarts]
        problem = self._state.idle.note(step, why, times=more)
        if problem:
            raise RestartableError(problem)

    def _raise_if_stopped(self) -> None:
        if self._api.asked_to_stop():
            raise _StopAskedError

    # End

    def _remove(self) -> None:
        """Deletes the JobSet, if it is ours, and waits for its pods to end.

        Checks again after the deletion: a create request whose answer was lost may take effect
        late. What a later launcher has created or adopted is left alone.
        """
        deadline = time.monotonic() + self._api.pace.stop
        outcome = ""
        while time.monotonic() < deadline:
            left = deadline - time.monotonic()
            try:
                found = self._find_ours(left)
                if found:
                    self._api.delete_jobset(self._name, uid=found["metadata"]["uid"], patience=left)
                outcome = "is deleted"
                pods = self._api.pods(self._name, patience=left)
                if (not pods or not found) and self._find_ours(left) is None:
                    break
            except (CharloomError, ApiException) as error:
                outcome = f"may remain, and will end by itself soon: {error}"
            time.sleep(self._api.pace.tick)
        self._say(f"JobSet {self._name} {outcome}")

    def _find_ours(self, patience: float) -> dict[str, Any] | None:
        """Returns the JobSet unless another launcher has created or adopted it."""
        found = self._api.get_jobset(self._name, patience=patience)
        if found is None or (self._uid and found["metadata"]["uid"] != self._uid):
            return None
        owners = {one["uid"] for one in found["metadata"].get("ownerReferences", [])}
        return found if owners == {self._pod_uid} - {""} else None

    def _say(self, text: str) -> None:
        print(text, flush=True)
