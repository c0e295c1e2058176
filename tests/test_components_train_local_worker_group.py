"""What ends of several workers mean together; real processes, but no TensorFlow in them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from worker_processes import wait_for

from components.train.local import worker_group
from components.train.local.worker_group import WorkerGroup
from model.errors import CharloomError, InputError, KilledError, RestartableError, StoppedError

WORKER = """
import json, os, signal, sys
from components.component_runtime import reporting_errors
from model.errors import *

rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
with reporting_errors():
    exec(sys.argv[1 + rank])
"""


def failure_of(
    ends: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CharloomError | None:
    """Returns the failure of a group whose workers run these statements, one each."""
    monkeypatch.setattr(worker_group, "FOLLOW_SECONDS", 60.0)
    command = [sys.executable, "-c", WORKER, *ends]
    with WorkerGroup(command, workdir=str(tmp_path), count=len(ends)) as group:
        group.end(60.0)
        return group.failure()


BAD = "raise InputError('bad')"
CRASH = "sys.exit(1)"
STOPPED = "raise StoppedError('stopped')"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
PEERS = "raise RestartableError('peers')"


@pytest.mark.parametrize(
    ("ends", "kind", "text"),
    [
        ((PEERS, KILLED, STOPPED, CRASH, BAD), InputError, "bad"),
        ((PEERS, KILLED, STOPPED, CRASH), CharloomError, "training failed (worker 3 with code 1)"),
        ((PEERS, KILLED, STOPPED), StoppedError, "stopped"),
        ((PEERS, KILLED), KilledError, "worker 1 was ended by SIGKILL"),
        (("pass", PEERS), RestartableError, "peers"),
        (("sys.exit(75)",), RestartableError, "worker 0 could not join the others"),
    ],
)
def test_the_cause_among_several_ends(
    ends: Sequence[str],
    kind: type[CharloomError],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = failure_of(ends, tmp_path, monkeypatch)
    assert type(failure) is kind
    assert str(failure).startswith(text)


def test_workers_that_end_well_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure_of(("pass", "pass"), tmp_path, monkeypatch) is None


def test_who_still_runs_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_group, "FOLLOW_SECONDS", 0.0)
    command = [sys.executable, "-c", WORKER, "signal.pause()", CRASH]
    with WorkerGroup(command, workdir=str(tmp_path), count=2) as group:
        wait_for(lambda: group.workers[1].process.poll(), "the end of worker 1")
        assert group.running
        assert str(group.failure()).startswith("training failed (worker 1 with code 1)")
