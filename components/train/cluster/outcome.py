"""Derives a training's outcome from pods and JobSets; makes no requests."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from components.train.cluster.manifest import ATTEMPT_LABEL, INDEX_LABEL, WORKER
from model.errors import (
    ENDINGS,
    CharloomError,
    InputError,
    OrphanedError,
    RestartableError,
    ending_of,
)

COMPLETED, FAILED = "Completed", "Failed"


@dataclasses.dataclass(frozen=True)
class WorkerEnd:
    """How a worker's container ended."""

    rank: int
    code: int
    reason: str
    """Kubernetes' reason: Error, OOMKilled, Evicted, Completed."""
    last_lines: str

    @property
    def kind(self) -> type[BaseException]:
        """The error class for the exit code."""
        return ending_of(self.code).error

    def describe(self) -> str:
        """Describes it, without the last lines of the log."""
        return f"worker {self.rank} ended with exit code {self.code} ({self.reason})"

    @property
    def message(self) -> str:
        """The worker's own message; empty if there is none."""
        lines = [line for line in self.last_lines.splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""


def worker_end(pod: Mapping[str, Any]) -> WorkerEnd | None:
    """Returns how a pod's worker ended; None if it is running or succeeded."""
    status = pod.get("status", {})
    rank = rank_of(pod)
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if container["name"] == WORKER and ended:
            if not ended["exitCode"]:
                return None
            reason = status.get("reason") or ended.get("reason") or "Error"
            return WorkerEnd(rank, ended["exitCode"], reason, ended.get("message") or "")
    if status.get("phase") == "Failed":  # evicted before its container's state was recorded
        return WorkerEnd(rank, -1, status.get("reason", "Failed"), status.get("message", ""))
    return None


def waiting_reason(pod: Mapping[str, Any]) -> str:
    """Returns in one line why a worker's pod does not start; empty if nothing is wrong."""
    status, rank = pod.get("status", {}), rank_of(pod)
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            return f"worker {rank} waits for a node: {_line(condition.get('message', ''))}"
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason.startswith(("Err", "Image", "Invalid", "Create")):
            return f"worker {rank} can't start ({reason}): {_line(waiting.get('message', ''))}"
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def rank_of(pod: Mapping[str, Any]) -> int:
    """Returns the completion index of a worker's pod."""
    metadata = pod["metadata"]
    for source in (metadata.get("labels") or {}, metadata.get("annotations") or {}):
        if INDEX_LABEL in source:
            return int(source[INDEX_LABEL])
    return -1


def attempt_of(pod: Mapping[str, Any], *, default: int) -> int:
    """Returns how often the JobSet had been restarted when this pod was created."""
    return int((pod["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, default))


def cause_of(ends: Sequence[WorkerEnd]) -> WorkerEnd:
    """Returns the end that comes first in `ENDINGS`."""
    return min(ends, key=lambda end: ENDINGS.index(ending_of(end.code)))


def terminal_state(jobset: Mapping[str, Any]) -> str:
    """Returns Completed, Failed, or an empty string while it has not ended."""
    status = jobset.get("status") or {}
    if status.get("terminalState") in (COMPLETED, FAILED):
        return str(status["terminalState"])
    for condition in status.get("conditions") or []:
        if condition.get("type") in (COMPLETED, FAILED) and condition.get("status") == "True":
            return str(condition["type"])
    return ""


def restarts_of(jobset: Mapping[str, Any]) -> int:
    """Returns how often a JobSet was restarted."""
    return int((jobset.get("status") or {}).get("restarts", 0))


def failure_of(
    jobset: Mapping[str, Any], ends: Sequence[WorkerEnd], *, step: int, deadline_hours: float
) -> CharloomError:
    """Returns the error for a failed JobSet.

    Args:
      jobset: the JobSet.
      ends: known ends of the workers in its last attempt.
      step: step of the newest checkpoint.
      deadline_hours: how long the training may run.
    """
    name = jobset["metadata"]["name"]
    conditions = jobset["status"].get("conditions") or []
    failed = [one for one in conditions if one["type"] == FAILED]
    said = " ".join(" ".join(one.get("message", "").split()) for one in failed)
    final = any(ending_of(end.code).rule for end in ends)
    if not final and _took_too_long(jobset, failed, deadline_hours):
        return CharloomError(
            f"the training ran longer than {deadline_hours:g} h and was ended; allow more time "
            f"(worker_deadline_hours) and run the step again: it continues from step {step}"
        )
    if not ends:
        return CharloomError(f"JobSet {name} failed: {said}")
    end = cause_of(ends)
    what = end.message or end.describe()
    if end.kind is InputError:
        return InputError(what)
    if end.kind is OrphanedError:
        return RestartableError(f"{what}; run the step again: it continues from step {step}")
    text = (
        f"{what}, after {restarts_of(jobset)} restarts; the newest checkpoint is from step {step}"
    )
    return CharloomError(text) if end.kind is CharloomError else RestartableError(text)


def _took_too_long(
    jobset: Mapping[str, Any], failed: Sequence[Mapping[str, Any]], deadline_hours: float
) -> bool:
    """Whether the JobSet failed by its time limit; JobSet does not report which rule applied."""
    if not failed or failed[0].get("reason") != "FailJobSetFailurePolicyAction":
        return False
    times = jobset["metadata"].get("creationTimestamp"), failed[0].get("lastTransitionTime")
    if not all(times):
        return False
    begun, ended = (datetime.datetime.fromisoformat(str(time)) for time in times)
    return (ended - begun).total_seconds() >= deadline_hours * 3600
