"""`--wait` of `charloom submit`: what it shows of a run, and how it ends."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_server import Server, isolate, serve
from volume import keep_first

from pipelines.cli.main import main
from pipelines.kubeflow import client, run_monitor

COMMAND = [sys.executable, "-m", "pipelines.cli.main", "submit", "--wait"]
ASKED = "GET runs/[^/]+"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    monkeypatch.setattr(run_monitor, "POLL_SECONDS", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        yield running


def becomes(server: Server, state: str, **tasks: str) -> Callable[[], None]:
    """Returns what gives the latest run its states, when the client asks for them."""
    return lambda: server.set_run(server.store.all("runs")[-1]["run_id"], state, **tasks)


def submit(server: Server) -> int:
    return main(["submit", "--wait", "--host", server.host])


def shown(text: str) -> list[str]:
    """Returns the lines about tasks, without their time."""
    lines = re.findall(r"^\d\d:\d\d:\d\d (.*)$", text, re.MULTILINE)
    return [str(line) for line in lines]


def link(server: Server) -> str:
    return f"{server.host}/#/runs/details/{server.store.all('runs')[-1]['run_id']}"


def test_a_run_that_publishes(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [
        becomes(server, "RUNNING", root="RUNNING", find_inputs="RUNNING"),
        becomes(server, "RUNNING", find_inputs="SUCCEEDED", preprocess="RUNNING"),
        becomes(server, "RUNNING", find_inputs="SUCCEEDED", preprocess="SKIPPED"),
        becomes(server, "RUNNING", preprocess="SKIPPED", train="RUNNING", train_driver="SUCCEEDED"),
        becomes(server, "SUCCEEDED", train="SUCCEEDED", export="SUCCEEDED"),
    ]
    assert submit(server) == 0
    out, err = capsys.readouterr()
    assert shown(out) == [
        "Find the inputs: runs",
        "Find the inputs: done",
        "Preprocess: runs",
        "Preprocess: skipped",
        "Train: runs",
        "Train: done",
        "Export: done",
    ]
    assert out.endswith("the run is done\n")
    assert err == ""


def test_a_run_that_fails(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        becomes(server, "FAILED", find_inputs="SUCCEEDED", train="FAILED")()
        run = server.store.all("runs")[-1]
        run["run_details"]["task_details"][1]["error"] = {"code": 2, "message": "no\n GPU"}
        server.store.put("runs", run["run_id"], run)

    server.faults[ASKED] = [fail]
    assert submit(server) == 1
    err = capsys.readouterr().err
    assert err == f"charloom: the run failed at Train (no GPU); its logs: {link(server)}\n"


def test_a_run_that_was_stopped(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [becomes(server, "CANCELING"), becomes(server, "CANCELED")]
    assert submit(server) == 130
    err = capsys.readouterr().err
    assert err == f"charloom: the run was terminated; its logs: {link(server)}\n"
    # what KFP 2.17 says of a run that was terminated
    server.faults[ASKED] = [becomes(server, "CANCELING"), becomes(server, "FAILED", train="FAILED")]
    assert submit(server) == 130


def test_a_gate_that_said_no(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"evaluate": "SUCCEEDED", "report_rejection": "SUCCEEDED"}
    server.faults[ASKED] = [becomes(server, "SUCCEEDED", **tasks)]
    assert submit(server) == 3
    out, err = capsys.readouterr()
    assert shown(out) == ["Evaluate: done", "Report the rejection: done"]
    assert err == f"charloom: REJECTED by the gate; report: {link(server)}\n"
    # the branch that was not taken is shown as skipped
    tasks = {"report_rejection": "SKIPPED", "export": "SUCCEEDED"}
    server.faults[ASKED] = [becomes(server, "SUCCEEDED", **tasks)]
    assert submit(server) == 0


OUTCOMES: dict[str, tuple[str, dict[str, str], int]] = {
    "published": ("SUCCEEDED", {"export": "SUCCEEDED", "report_rejection": "SKIPPED"}, 0),
    "rejected": ("SUCCEEDED", {"report_rejection": "SUCCEEDED", "export": "SKIPPED"}, 3),
    "failed": ("FAILED", {"train": "FAILED"}, 1),
    "terminated": ("FAILED", {"train": "FAILED"}, 130),
}


@pytest.mark.parametrize("seed", keep_first(range(200), 16))
def test_states_that_arrive_late_and_out_of_order(
    seed: int, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """KFP stores the state of a run before those of its tasks, and a replica may lag behind."""
    chance = random.Random(seed)
    outcome = chance.choice(sorted(OUTCOMES))
    last, ends, code = OUTCOMES[outcome]
    done: dict[str, str] = {}
    snapshots: list[tuple[str, dict[str, str]]] = []
    for task in ("find_inputs", "preprocess", "train", "evaluate"):
        if task in ends:
            break
        snapshots.append(("RUNNING", {**done, task: "RUNNING"}))
        done[task] = "SUCCEEDED"
    running = {**done, **{task: "RUNNING" for task, end in ends.items() if end != "SKIPPED"}}
    snapshots.append(("RUNNING", running))
    if outcome == "terminated":
        snapshots.append(("CANCELING", running))
    for late in ({}, done, running, {**done, **dict.fromkeys(ends, "PENDING")}):
        if chance.random() < 0.6:
            snapshots.append((last, late))
    for place in range(1, len(snapshots)):
        if chance.random() < 0.3:
            swapped = snapshots[place], snapshots[place - 1]
            snapshots[place - 1 : place + 1] = swapped
    snapshots.append((last, {**done, **ends}))
    server.faults[ASKED] = [becomes(server, state, **tasks) for state, tasks in snapshots]
    assert submit(server) == code, (outcome, snapshots, capsys.readouterr())


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_states_of_tasks_that_never_arrive(
    outcome: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_monitor, "SETTLE_SECONDS", 0.2)
    last, _, code = OUTCOMES[outcome]
    tasks = {"train": "SUCCEEDED", "evaluate": "RUNNING"}
    first = becomes(server, "CANCELING" if outcome == "terminated" else "RUNNING", **tasks)
    server.faults[ASKED] = [first, becomes(server, last, **tasks)]
    assert submit(server) == (code if last == "FAILED" else 1)
    if last == "SUCCEEDED":
        assert capsys.readouterr().err == (
            "charloom: the run has succeeded, but Kubeflow Pipelines does not say whether it "
            f"published a model; see {link(server)}\n"
        )


def test_connections_that_drop(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    done = becomes(server, "SUCCEEDED", export="SUCCEEDED")
    server.faults[ASKED] = ["drop", 503, 429, "lose", done]
    assert submit(server) == 0
    assert shown(capsys.readouterr().out) == ["Export: done"]
    assert not server.faults[ASKED]


def test_a_server_that_stays_away(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_monitor, "LOST_SECONDS", 0.1)
    server.faults[ASKED] = ["drop"] * 100_000
    assert submit(server) == 75
    err = capsys.readouterr().err
    assert err == (
        f"charloom: the connection broke: {server.host}; run the same command again (for 0 "
        f"minutes); the run continues: {link(server)}\n"
    )


def test_a_login_that_ends_meanwhile(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [becomes(server, "RUNNING"), 401]
    assert submit(server) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"charloom: {server.host} rejects the credentials (401); ")
    assert err.endswith(f"; the run continues: {link(server)}\n")


def test_ctrl_c_leaves_the_run_alone(server: Server) -> None:
    running = becomes(server, "RUNNING", train="RUNNING")
    process: Any = None

    def interrupt() -> None:
        running()
        process.send_signal(signal.SIGINT)

    server.faults[ASKED] = [running, interrupt]
    process = subprocess.Popen(
        [*COMMAND, "--host", server.host], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate()
    assert process.returncode == 130
    assert shown(out) == ["Train: runs"]
    assert err == (
        "charloom: stopped waiting; the run continues; to stop it, press Terminate on "
        f"{link(server)}\n"
    )
    methods = {method for method, path, _ in server.requests if path.startswith("runs/")}
    assert methods == {"GET"}


def test_on_a_terminal_one_line_is_alive(server: Server) -> None:
    server.faults[ASKED] = [
        becomes(server, "RUNNING", train="RUNNING"),
        becomes(server, "SUCCEEDED", train="SUCCEEDED", export="SUCCEEDED"),
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, "--host", server.host], stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        data += part
    os.close(ours)
    assert process.wait() == 0
    text = data.decode()
    assert re.search(r"\r\x1b\[KTrain, \d+ s\r\x1b\[K\d\d:\d\d:\d\d Train: done\r\n", text), text
    assert text.endswith("\r\x1b[Kthe run is done\r\n")
