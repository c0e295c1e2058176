from typing import Any

import pytest

from components.train.cluster.outcome import (
    WorkerEnd,
    cause_of,
    failure_of,
    restarts_of,
    terminal_state,
    waiting_reason,
    worker_end,
)
from model.errors import CharloomError, InputError, RestartableError


def pod(rank: int, status: dict[str, Any]) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": str(rank)}
    return {"metadata": {"name": f"p{rank}", "labels": labels}, "status": status}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": state}]}


def test_a_worker_that_runs_or_ended_well_has_no_end() -> None:
    assert worker_end(pod(0, {"phase": "Pending"})) is None
    running = {"phase": "Running", "containerStatuses": [{"name": "worker", "state": {}}]}
    assert worker_end(pod(0, running)) is None
    assert worker_end(pod(0, ended(0, "Completed"))) is None


def test_a_worker_that_failed_tells_code_reason_and_message() -> None:
    end = worker_end(pod(1, ended(2, message="12:00 a\nerror: no such word\nlast")))
    assert end == WorkerEnd(1, 2, "Error", "12:00 a\nerror: no such word\nlast")
    assert end.message == "no such word"
    assert end.describe() == "worker 1 ended with exit code 2 (Error)"


def test_a_sidecar_is_no_worker() -> None:
    status = ended(1)
    status["containerStatuses"][0]["name"] = "proxy"
    status["phase"] = "Running"
    assert worker_end(pod(0, status)) is None


def test_eviction_is_the_reason_with_and_without_a_container() -> None:
    evicted = {"reason": "Evicted", "message": "low on memory"}
    assert worker_end(pod(3, ended(137) | evicted)) == WorkerEnd(3, 137, "Evicted", "")
    alone = worker_end(pod(3, {"phase": "Failed"} | evicted))
    assert alone == WorkerEnd(3, -1, "Evicted", "low on memory")


def test_the_cause_is_not_who_lost_its_peers() -> None:
    def end(rank: int, code: int) -> WorkerEnd:
        return WorkerEnd(rank, code, "Error", "")

    assert cause_of([end(0, 75), end(1, 137), end(2, 75)]).rank == 1
    assert cause_of([end(0, 137), end(1, 78), end(2, 2)]).rank == 2
    assert cause_of([end(0, 75), end(1, 75)]).rank == 0


def test_waiting_workers_say_why() -> None:
    unschedulable = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/4  nodes"}
        ],
    }
    assert waiting_reason(pod(2, unschedulable)) == "worker 2 waits for a node: 0/4 nodes"
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such\nimage"}}
    pulling = {"phase": "Pending", "containerStatuses": [{"name": "worker", "state": state}]}
    assert waiting_reason(pod(0, pulling)) == (
        "worker 0 can't start (ImagePullBackOff): no such image"
    )
    state["waiting"]["reason"] = "ContainerCreating"
    assert waiting_reason(pod(0, pulling)) == ""


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, ""),
        ({"terminalState": "Completed"}, "Completed"),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, "Failed"),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, ""),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, ""),
    ],
)
def test_terminal_states(status: dict[str, Any], state: str) -> None:
    assert terminal_state({"status": status}) == state
    assert terminal_state({}) == ""


@pytest.mark.parametrize(
    ("ends", "said", "kind", "text"),
    [
        ([(0, 75, ""), (1, 2, "error: bad")], "", InputError, "bad"),
        ([(0, 78, "error: orphaned")], "", RestartableError,
         "orphaned; run the step again: it continues from step 40"),
        ([(1, 137, "")], "", RestartableError,
         "worker 1 ended with exit code 137 (Error), after 3 restarts; the newest checkpoint is from "
         "step 40"),
        ([(1, 1, "")], "", CharloomError,
         "worker 1 ended with exit code 1 (Error), after 3 restarts; the newest checkpoint is from "
         "step 40"),
        ([], "no pods", CharloomError, "JobSet x failed: no pods"),
        ([(0, 75, "")], "too long", CharloomError,
         "the training ran longer than 2 h and was ended; allow more time (worker_deadline_hours) and run the step again: it "
         "continues from step 40"),
    ],
)  # fmt: skip
def test_what_a_failed_jobset_means(
    ends: list[tuple[int, int, str]], said: str, kind: type[CharloomError], text: str
) -> None:
    begun, hours = "2026-11-25T08:00:00Z", 10 if said == "too long" else 9
    failed = {
        "type": "Failed",
        "status": "True",
        "message": said,
        "reason": "FailJobSetFailurePolicyAction",
    }
    failed["lastTransitionTime"] = f"2026-11-25T{hours:02}:00:00Z"
    jobset = {
        "metadata": {"name": "x", "creationTimestamp": begun},
        "status": {"restarts": 3, "conditions": [failed]},
    }
    found = [WorkerEnd(rank, code, "Error", lines) for rank, code, lines in ends]
    error = failure_of(jobset, found, step=40, deadline_hours=2)
    assert (type(error), str(error)) == (kind, text)
    assert restarts_of(jobset) == 3
